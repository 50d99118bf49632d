"""``vswitch fdb``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Bridge = Annotated[str, typer.Argument(help="the bridge's name")]
Mac = Annotated[str, typer.Argument(help="02:00:00:00:00:01")]
Port = Annotated[str | None, typer.Option(help="only this port's")]
Vlan = Annotated[int | None, typer.Option(help="VLAN id, where the bridge filters VLANs")]


@app.command("list")
def list_entries(
    bridge: Bridge,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """All addresses the bridge knows."""
    found = client_for(url, token_file).items(f"/bridges/{bridge}/fdb")
    rows = [
        (item["mac"], item["vlan"], item["port"], item["static"], item["age_s"], item["moves"])
        for item in found
    ]
    columns = ("mac", "vlan", "port", "static", "age_s", "moves")
    render.emit(found, output, render.table(columns, rows, right="vlan age_s moves"))


@app.command("set")
def set_entry(
    bridge: Bridge,
    mac: Mac,
    port: Annotated[str, typer.Option(help="the port behind which it is")],
    vlan: Vlan = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Pin an address to a port: a static entry, which never ages or moves."""
    body: Json = {"spec": {"port": port, "vlan": vlan}}
    answer = client_for(url, token_file).request("PUT", f"/bridges/{bridge}/fdb/{mac}", body=body)
    render.emit(answer, output)


@app.command()
def delete(
    bridge: Bridge,
    mac: Mac,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove a static entry."""
    client_for(url, token_file).request("DELETE", f"/bridges/{bridge}/fdb/{mac}")


@app.command()
def flush(
    bridge: Bridge,
    port: Port = None,
    vlan: Vlan = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Forget learned addresses; static ones stay."""
    body: Json = {}
    if port is not None:
        body["port"] = port
    if vlan is not None:
        body["vlan"] = vlan
    answer = client_for(url, token_file).request("POST", f"/bridges/{bridge}/fdb/flush", body=body)
    render.emit(answer, output)
