"""``vswitch group``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import edit, render, verbs
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    spec = item["spec"]
    return item["name"], spec["type"], len(spec["members"]), item["status"]["referrers"]


COLUMNS = ("name", "type", "members", "named by")
verbs.add_list(app, "group", "All groups.", COLUMNS, _row, "members")
verbs.add_show(app, "group", "One group, spec and status.")


@app.command()
def put(
    name: verbs.Name,
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
    verbs.put(client_for(url, token_file), "group", name, body, output)


verbs.add_delete(app, "group", "Remove a group; refused while rules name it.")
