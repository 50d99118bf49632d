"""``vswitch serve``: options in, :mod:`vswitch.serve` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vswitch import paths
from vswitch.cli.client import CliError


def serve(
    listen: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT or unix:PATH; again for more. Default 127.0.0.1:8080"),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="configuration and token")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="sockets and pid files")] = None,
    forwarder_user: Annotated[
        str | None, typer.Option(help="USER[:GROUP] the forwarder becomes, names or numbers")
    ] = None,
    control_user: Annotated[
        str | None, typer.Option(help="USER[:GROUP] the control plane becomes")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN of interfaces that ports may have; again for more. Default: all"
        ),
    ] = None,
    deny: Annotated[
        list[str] | None, typer.Option(help="PATTERN of interfaces that no port may have")
    ] = None,
    extmem_dir: Annotated[
        Path | None, typer.Option(help="files for netmap's @extmem lie here; default: nowhere")
    ] = None,
    af_xdp: Annotated[
        bool,
        typer.Option(
            "--af-xdp",
            envvar="VSWITCH_AF_XDP",
            help="allow af_xdp ports: the keeper keeps BPF and IPC_LOCK",
        ),
    ] = False,
) -> None:
    """Run the appliance: keeper, forwarder and control plane, until SIGTERM or Ctrl-C."""
    # Imported here: it is not needed to talk to an appliance that runs already.
    from vswitch import serve as supervisor

    try:
        options = supervisor.options(
            listen=tuple(listen or ()),
            data_dir=data_dir or paths.default_data_dir(),
            run_dir=run_dir or paths.default_run_dir(),
            forwarder_user=forwarder_user,
            control_user=control_user,
            allow=tuple(allow or ()),
            deny=tuple(deny or ()),
            extmem_dir=extmem_dir,
            af_xdp=af_xdp,
        )
        supervisor.run(options)
    except supervisor.ServeError as error:
        raise CliError(str(error)) from error
