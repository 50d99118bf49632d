"""``vswitch top``: rates of every port, live."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vswitch.cli import render
from vswitch.cli.client import Client, TokenFileOption, UrlOption, client_for
from vswitch.cli.stats import drops_text

Sample = tuple[float, dict[str, dict[str, Any]]]


def sample(client: Client) -> Sample:
    """Monotonic seconds, and the counters of each port."""
    items = client.items("/stats/ports")
    return time.monotonic(), {item["name"]: item for item in items}


def scaled(value: float) -> str:
    """1234567 -> "1.23M"."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f}{unit}"
    return f"{value:.0f}"


def rates(before: Sample, after: Sample) -> list[tuple[str, ...]]:
    """One row a port: frames and bits a second each way, drops a second with their reasons."""
    seconds = max(after[0] - before[0], 1e-6)
    rows: list[tuple[str, ...]] = []
    for name, now in sorted(after[1].items()):
        old = before[1].get(name)
        if old is None:
            continue

        def rate(
            field: str, factor: int = 1, now: dict[str, Any] = now, old: dict[str, Any] = old
        ) -> str:
            return scaled(max(now[field] - old[field], 0) * factor / seconds)

        lost = {
            reason: max(frames - old["drops"].get(reason, 0), 0)
            for reason, frames in now["drops"].items()
        }
        rows.append(
            (
                name,
                rate("rx_frames"),
                rate("rx_bytes", 8),
                rate("tx_frames"),
                rate("tx_bytes", 8),
                scaled(sum(lost.values()) / seconds),
                drops_text(lost),
            )
        )
    return rows


COLUMNS = ("port", "rx f/s", "rx bit/s", "tx f/s", "tx bit/s", "drops/s", "reasons")


def screen(before: Sample, after: Sample) -> Table:
    made = render.table(COLUMNS, rates(before, after))
    for column in made.columns[1:6]:
        column.justify = "right"
    return made


def top(
    interval_s: Annotated[float, typer.Option("--interval-s", min=0.1)] = 1.0,
    count: Annotated[int, typer.Option(help="stop after so many; 0: never")] = 0,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Rates of every port, live. Ctrl-C ends it."""
    client = client_for(url, token_file)
    console = render.console()
    before = sample(client)
    shown = 0
    if not console.is_terminal:
        while not count or shown < count:
            time.sleep(interval_s)
            after = sample(client)
            console.print(screen(before, after))
            before, shown = after, shown + 1
        return
    with Live(Text("..."), console=console, screen=True, auto_refresh=False) as live:
        while not count or shown < count:
            time.sleep(interval_s)
            after = sample(client)
            title = Text(f"vswitch  {time.strftime('%T')}  every {interval_s:g} s", style="bold")
            live.update(Group(title, screen(before, after)), refresh=True)
            before, shown = after, shown + 1
