"""``vswitch connections``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Bridge = Annotated[str | None, typer.Option(help="only this bridge's")]
Port = Annotated[str | None, typer.Option(help="only those that began on this port")]
Address = Annotated[str | None, typer.Option(help="only those with this IP address at an end")]


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        item["proto"],
        _end(item["src"], item["src_port"]),
        _end(item["dst"], item["dst_port"]),
        item["tcp_state"] or item["state"],
        item["bridge"],
        item["vlan"] or "",
        item["port"],
        item["src_frames"],
        item["dst_frames"],
        item["expires_s"],
    )


@app.command("list")
def list_connections(
    bridge: Bridge = None,
    port: Port = None,
    address: Address = None,
    proto: Annotated[str | None, typer.Option(help="tcp, udp, icmp or icmpv6")] = None,
    state: Annotated[str | None, typer.Option(help="new or established")] = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Connections that rules with a state follow; SRC is who began them."""
    asked = {"bridge": bridge, "port": port, "address": address, "proto": proto, "state": state}
    query = {name: value for name, value in asked.items() if value is not None}
    found = client_for(url, token_file).items("/connections", **query)
    columns = ("proto", "src", "dst", "state", "bridge", "vlan", "port", "sent", "back", "expires")
    rows = [_row(item) for item in found]
    render.emit(found, output, render.table(columns, rows, right="vlan sent back expires"))


@app.command()
def flush(
    bridge: Bridge = None,
    port: Port = None,
    address: Address = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Forget connections: what goes on has to begin anew."""
    asked: Json = {"bridge": bridge, "port": port, "address": address}
    body: Json = {name: value for name, value in asked.items() if value is not None}
    answer = client_for(url, token_file).request("POST", "/connections/flush", body=body)
    render.emit(answer, output)
