"""``vswitch policer``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import edit, render, verbs
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    spec, status = item["spec"], item["status"]
    return (
        *(item["name"], spec["rate"], spec["unit"]),
        *(status["burst"], status["passed"], status["dropped"]),
    )


COLUMNS = ("name", "rate", "unit", "burst", "passed", "dropped")
HELP = "All policers, with what they let through and dropped."
verbs.add_list(app, "policer", HELP, COLUMNS, _row, "rate burst passed dropped")
verbs.add_show(app, "policer", "One policer, spec and status.")


@app.command()
def put(
    name: verbs.Name,
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
    verbs.put(client_for(url, token_file), "policer", name, body, output)


verbs.add_delete(app, "policer", "Remove a policer; refused while rules name it.")
