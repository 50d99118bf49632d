"""``vswitch stats``."""

from __future__ import annotations

import typer

from vswitch.cli import render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)


def drops_text(drops: dict[str, int]) -> str:
    """ "queue_full 12, too_big 3": what happened, most frequent first."""
    some = sorted(((n, reason) for reason, n in drops.items() if n), reverse=True)
    return ", ".join(f"{reason} {n}" for n, reason in some)


@app.command()
def ports(
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Frames and bytes of each port, and its drops with their reasons."""
    found = client_for(url, token_file).items("/stats/ports")
    rows = [
        (
            item["name"],
            item["rx_frames"],
            item["rx_bytes"],
            item["tx_frames"],
            item["tx_bytes"],
            drops_text(item["drops"]),
        )
        for item in found
    ]
    columns = ("name", "rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "drops")
    right = "rx_frames rx_bytes tx_frames tx_bytes"
    render.emit(found, output, render.table(columns, rows, right=right))


@app.command()
def queues(
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """The same for each queue, with the thread that serves it."""
    found = client_for(url, token_file).items("/stats/queues")
    columns = ("port", "id", "thread", "rx_frames", "tx_frames", "batches", "sleeps")
    rows = [[item.get(column) for column in columns] for item in found]
    right = "id rx_frames tx_frames batches sleeps"
    render.emit(found, output, render.table(columns, rows, right=right))


@app.command()
def drops(
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Every drop of every port by reason."""
    found = client_for(url, token_file).items("/stats/drops")
    columns = ("port", "direction", "reason", "frames")
    rows = [[item.get(column) for column in columns] for item in found]
    render.emit(found, output, render.table(columns, rows, right="frames"))


def ledger_rows(ledger: Json) -> list[tuple[str, int]]:
    names = ("rx_frames", "copies", "segments", "originated", "tx_frames", "drops", "consumed")
    return [(name, ledger[name]) for name in (*names, "in_flight")]


@app.command()
def ledger(
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """The switch-wide books: rx + copies + segments + originated = tx + drops + consumed."""
    found = client_for(url, token_file).get("/stats/ledger")
    render.emit(
        found, output, render.table(("entry", "frames"), ledger_rows(found), right="frames")
    )
