"""``vswitch trace``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import edit, render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for


def trace(
    in_port: Annotated[str, typer.Argument(help="the port that the frame comes in by")],
    field: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="ip.src=10.0.0.1 l4.dport=80 vlan.vid=10"),
    ] = None,
    frame_hex: Annotated[
        str | None, typer.Option("--hex", help="the frame's bytes, instead of fields")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="of its connection: new, established, related, invalid")
    ] = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """What would become of a frame, stage by stage. Nothing is sent.

    vswitch trace p1 ip.src=10.0.0.1 ip.dst=10.0.0.2 l4.dport=80
    """
    body: Json = {"in_port": in_port}
    if frame_hex is not None:
        body["frame_hex"] = frame_hex.replace(":", "").replace(" ", "")
    if frame_hex is None or field:
        body["frame"] = {}
    for text in field or ():
        path, raw = edit.split(text)
        edit.put_field(body["frame"], path, edit.value_of(raw))
    if state is not None:
        body["state"] = state
    found = client_for(url, token_file).request("POST", "/traces", body=body)
    columns = ("stage", "port", "result", "detail")
    render.emit(found, output, render.table(columns, _rows(found)))
    if output is render.Output.TABLE:
        typer.echo(_verdict(found))


def _rows(found: Json) -> list[tuple[str, str, str, str]]:
    """A line for each stage, and one for each rule that it looked at."""
    rows = []
    for stage in found["stages"]:
        rows += [
            ("", "", "", f"{rule['ruleset']}/{rule['rule']} {rule['action']}: {_why(rule)}")
            for rule in stage["rules"]
        ]
        if stage["rules_left_out"]:
            rows.append(("", "", "", f"{stage['rules_left_out']} more rules do not match"))
        rows.append((stage["stage"], stage["port"], stage["result"], stage["detail"]))
    return rows


def _why(rule: Json) -> str:
    if not rule["field"]:
        return "matches"
    return f"{rule['field']} is {rule['got']}, not {rule['wanted']}"


def _verdict(found: Json) -> str:
    if found["verdict"] == "forward":
        return f"forward: {', '.join(found['out_ports'])}"
    return f"{found['verdict']}: {found['reason']}"
