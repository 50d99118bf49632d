"""The command line: ``vswitch NOUN VERB``, one file a noun, all of it over the REST API.

Exit codes: 0 done; 1 refused by the appliance; 2 wrong usage; 3 the appliance or its fast path
is not reachable; 4 no such object; 5 conflict (in use, exists already, changed meanwhile);
6 not allowed (token).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from vswitch.cli import (
    bridges,
    clients,
    connections,
    fdb,
    groups,
    netmap_run,
    policers,
    ports,
    rulesets,
    serve,
    stats,
    system,
    top,
    traces,
)
from vswitch.cli.client import CliError, close_all

app = typer.Typer(
    name="vswitch",
    help="A virtual switch appliance, managed over REST.",
    epilog="Exit codes: 0 done, 1 refused, 2 wrong usage, 3 not reachable, 4 no such object, "
    "5 conflict, 6 not allowed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(bridges.app, name="bridge", help="Bridges: list, show, create, set, delete.")
app.add_typer(ports.app, name="port", help="Ports: list, show, create, set, delete.")
app.add_typer(rulesets.app, name="ruleset", help="Rule sets: a whole set at once; counters, log.")
app.add_typer(rulesets.rules, name="rule", help="Rules of a set, one at a time.")
app.add_typer(groups.app, name="group", help="Addresses or ports that rules name together.")
app.add_typer(policers.app, name="policer", help="Rates that rules share.")
app.add_typer(connections.app, name="connections", help="Connections tracked: list, flush.")
app.add_typer(clients.app, name="clients", help="netmap programs on switches: list, show, evict.")
app.add_typer(fdb.app, name="fdb", help="Learned and static addresses of a bridge.")
app.add_typer(stats.app, name="stats", help="Counters; every frame is in them.")
app.add_typer(system.app, name="system", help="Is it ready, what can it do, what is missing.")
app.command(name="top")(top.top)
app.command(name="trace")(traces.trace)
app.command(name="serve")(serve.serve)
# What follows the program is the program's, also if it looks like an option of ours.
app.command(
    name="netmap-run",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)(netmap_run.netmap_run)


def main(args: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    try:
        app(args=args)
    except CliError as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        close_all()
