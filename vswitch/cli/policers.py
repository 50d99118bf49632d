"""``vswitch policer``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import edit, render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="the policer's name")]


@app.command("list")
def list_policers(
    label: edit.LabelOption = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """All policers, with what they let through and dropped."""
    found = client_for(url, token_file).items("/policers", label=label or [])
    rows = [
        (
            *(item["name"], item["spec"]["rate"], item["spec"]["unit"], item["status"]["burst"]),
            *(item["status"]["passed"], item["status"]["dropped"]),
        )
        for item in found
    ]
    columns = ("name", "rate", "unit", "burst", "passed", "dropped")
    render.emit(found, output, render.table(columns, rows, right="rate burst passed dropped"))


@app.command()
def show(
    name: Name,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One policer, spec and status."""
    render.emit(client_for(url, token_file).get(f"/policers/{name}"), output)


@app.command()
def put(
    name: Name,
    rate: Annotated[int | None, typer.Option(help="bits or frames a second")] = None,
    unit: Annotated[str | None, typer.Option(help="bits_per_s or frames_per_s")] = None,
    burst: Annotated[int | None, typer.Option(help="bytes or frames at once")] = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make or replace a policer."""
    given = {"rate": rate, "unit": unit, "burst": burst}
    spec: Json = {name: value for name, value in given.items() if value is not None}
    body = edit.body_of(file, None, label, description, spec)
    made = client_for(url, token_file).request("PUT", f"/policers/{name}", body=body)
    render.warn_not_ready("policer", made)
    render.emit(made, output)


@app.command()
def delete(
    name: Name,
    cascade: Annotated[bool, typer.Option(help="delete the rules that name it, too")] = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove a policer; refused while rules name it."""
    params = {"cascade": "true"} if cascade else {}
    client_for(url, token_file).request("DELETE", f"/policers/{name}", params=params)
