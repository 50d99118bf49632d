"""``vswitch netmap-run``: a program that uses netmap, on a switch of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vswitch import paths, programs
from vswitch.cli.client import CliError


def netmap_run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="PROGRAM [ARGS]...", help="what to run", show_default=False),
    ],
    run_dir: Annotated[
        Path | None,
        typer.Option(help="of the appliance; else VSWITCH_RUN_DIR, else where serve has it"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="only say whether it can work; 0: it can")
    ] = False,
) -> None:
    """Run a netmap program, unmodified, without the kernel module.

    /dev/netmap is the appliance's then. Exit codes are the program's own; 127: there is no such
    program, 126: it cannot be run like this.
    """
    where = run_dir or paths.default_run_dir()
    try:
        program = programs.find(command[0])
    except programs.ProgramError as error:
        raise CliError(str(error), exit_code=error.exit_code) from error
    reason = programs.obstacle(program)
    if check:
        _tell(program, where, reason)
        return
    if reason is not None:
        raise CliError(reason, exit_code=126)
    try:
        os.execve(program, command, programs.environment(where, dict(os.environ)))
    except OSError as error:
        raise CliError(f"{program}: {error.strerror}", exit_code=126) from error


def _tell(program: Path, run_dir: Path, reason: str | None) -> None:
    socket = run_dir / programs.SOCKET
    if reason is not None:
        raise CliError(reason)
    if not socket.is_socket():
        raise CliError(f"there is no switch at {socket}", "start the appliance, or give --run-dir")
    if not os.access(socket, os.W_OK):
        raise CliError(f"{socket} is closed to this user")
    typer.echo(f"{program} can use the switch at {run_dir}")
