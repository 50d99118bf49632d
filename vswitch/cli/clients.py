"""``vswitch clients``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import render
from vswitch.cli.client import TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Id = Annotated[int, typer.Argument(help="its number, as `list` shows it")]


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        item["id"],
        item["name"],
        item["port"] or "",
        item["mode"],
        item["program"],
        item["pid"],
        item["uid"],
        f"{item['tx_rings']}/{item['rx_rings']}",
        item["sent_frames"],
        item["received_frames"],
        item["drops"],
    )


COLUMNS = (
    "id",
    "name",
    "port",
    "mode",
    "program",
    "pid",
    "uid",
    "rings",
    "sent",
    "received",
    "drops",
)


@app.command("list")
def list_clients(
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """netmap programs that have ports of a switch open; rings: to send and to receive."""
    found = client_for(url, token_file).items("/clients")
    rows = [_row(item) for item in found]
    render.emit(found, output, render.table(COLUMNS, rows, right="id pid uid sent received drops"))


@app.command()
def show(
    id: Id,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One of them, with all that is known."""
    render.emit(client_for(url, token_file).get(f"/clients/{id}"), output)


@app.command()
def evict(id: Id, url: UrlOption = None, token_file: TokenFileOption = None) -> None:
    """Take its port away from a program."""
    client_for(url, token_file).request("DELETE", f"/clients/{id}")
