"""``vswitch system``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import render
from vswitch.cli.client import TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)


@app.command()
def ready(
    quiet: Annotated[bool, typer.Option(help="only the exit code")] = False,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Exit code 0 when frames are being forwarded, 3 otherwise."""
    answer = client_for(url, token_file).get("/system/ready")
    if not quiet:
        render.emit(answer, output)


@app.command()
def preflight(
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """What of this machine stands in the way, and the command that fixes it."""
    render.emit(client_for(url, token_file).get("/system/preflight"), output)


@app.command()
def capabilities(
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Which port types work here, and the limits."""
    render.emit(client_for(url, token_file).get("/system/capabilities"), output)


@app.command()
def version(
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Versions of the halves."""
    render.emit(client_for(url, token_file).get("/system/version"), output)
