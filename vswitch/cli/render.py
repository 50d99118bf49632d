"""What a command prints: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("-o", "--output", help="how to print the answer")]


def console() -> Console:
    """On a terminal as wide as it is; in a pipe lines are never cut."""
    return Console() if sys.stdout.isatty() else Console(width=400, no_color=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "") -> Table:
    """Columns named in ``right`` (separated by spaces) hold numbers."""
    numbers = set(right.split())
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column.upper(),
            justify="right" if column in numbers else "left",
            no_wrap=True,
            overflow="ignore" if not sys.stdout.isatty() else "ellipsis",
        )
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    return made


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value) or "-"
    return str(value)


def emit(answer: Any, output: Output, made: Table | None = None) -> None:
    """Print the answer; without a table, a table request prints YAML."""
    if output is Output.JSON:
        typer.echo(json.dumps(answer, indent=2))
    elif output is Output.YAML or made is None:
        typer.echo(yaml.safe_dump(answer, sort_keys=False).rstrip())
    else:
        console().print(made)


def condition(obj: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    for item in (obj.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            found: dict[str, Any] = item
            return found
    return {}


def state(obj: dict[str, Any], kind: str = "Ready") -> str:
    """ "yes", or the reason why not."""
    found = condition(obj, kind)
    if not found:
        return "unknown"
    if found.get("status") in (True, "True"):
        return "yes"
    return str(found.get("reason") or "no")


def warn_not_ready(kind: str, obj: dict[str, Any]) -> None:
    """What is accepted but not in force is said, on stderr, with the way out."""
    found = condition(obj, "Ready")
    if not found or found.get("status") in (True, "True"):
        return
    message = found.get("message") or found.get("reason") or ""
    typer.echo(f"{kind} {obj.get('name')} is not ready: {message}", err=True)
    if hint := found.get("hint"):
        typer.echo(f"hint: {hint}", err=True)
