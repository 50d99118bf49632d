"""``vswitch group``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import edit, render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="the group's name")]


@app.command("list")
def list_groups(
    label: edit.LabelOption = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """All groups."""
    found = client_for(url, token_file).items("/groups", label=label or [])
    rows = [
        (
            item["name"],
            item["spec"]["type"],
            len(item["spec"]["members"]),
            item["status"]["referrers"],
        )
        for item in found
    ]
    columns = ("name", "type", "members", "named by")
    render.emit(found, output, render.table(columns, rows, right="members"))


@app.command()
def show(
    name: Name,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One group, spec and status."""
    render.emit(client_for(url, token_file).get(f"/groups/{name}"), output)


@app.command()
def put(
    name: Name,
    type: Annotated[str | None, typer.Option(help="ip, mac or port")] = None,
    member: Annotated[
        list[str] | None, typer.Option("-m", "--member", help="10.0.0.0/8, 80, 8000-8080; again")
    ] = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make or replace a group; rules that name it follow."""
    spec: Json = {}
    if type is not None:
        spec["type"] = type
    if member:
        spec["members"] = member
    body = edit.body_of(file, None, label, description, spec)
    made = client_for(url, token_file).request("PUT", f"/groups/{name}", body=body)
    render.warn_not_ready("group", made)
    render.emit(made, output)


@app.command()
def delete(
    name: Name,
    cascade: Annotated[bool, typer.Option(help="delete the rules that name it, too")] = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove a group; refused while rules name it."""
    params = {"cascade": "true"} if cascade else {}
    client_for(url, token_file).request("DELETE", f"/groups/{name}", params=params)
