"""``vswitch port``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import edit, render, verbs
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Bridge = Annotated[str | None, typer.Option(help="the bridge it belongs to; '' for none")]
Type = Annotated[
    str | None,
    typer.Option("--type", help="af_packet, tap, tun, ...: system capabilities lists them"),
]
Option = Annotated[
    list[str] | None,
    typer.Option("-b", "--backend", metavar="OPTION=VALUE", help="ifname=veth-a; again"),
]
VlanMode = Annotated[str | None, typer.Option(help="access, trunk, native, tunnel")]
Pvid = Annotated[int | None, typer.Option(help="VLAN of untagged frames")]
Tagged = Annotated[str | None, typer.Option(help="VLANs that pass tagged: 10-20,30")]
AdminUp = Annotated[bool | None, typer.Option("--up/--down", help="let frames pass")]


def _spec(
    bridge: str | None,
    kind: str | None,
    options: list[str] | None,
    vlan_mode: str | None,
    pvid: int | None,
    tagged: str | None,
    admin_up: bool | None,
) -> Json:
    spec: Json = {}
    if bridge is not None:
        spec["bridge"] = bridge or None
    backend: Json = {"type": kind} if kind is not None else {}
    for text in options or ():
        path, raw = edit.split(text)
        edit.put_field(backend, path, edit.value_of(raw))
    if backend:
        spec["backend"] = backend
    vlan: Json = {}
    if vlan_mode is not None:
        vlan["mode"] = vlan_mode
    if pvid is not None:
        vlan["pvid"] = pvid
    if tagged is not None:
        vlan["tagged"] = [part for part in tagged.split(",") if part]
    if vlan:
        spec["vlan"] = vlan
    if admin_up is not None:
        spec["admin_up"] = admin_up
    return spec


def device(item: dict[str, Any]) -> str:
    """The kernel's name of what serves the port, where there is one."""
    backend = item["spec"].get("backend") or {}
    return str(backend.get("ifname") or backend.get("name") or "")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        item["name"],
        item["spec"].get("bridge"),
        (item["spec"].get("backend") or {}).get("type"),
        device(item),
        render.state(item),
        render.state(item, "LinkUp"),
        item["status"].get("mtu"),
    )


COLUMNS = ("name", "bridge", "type", "device", "ready", "link", "mtu")
verbs.add_list(app, "port", "All ports.", COLUMNS, _row, "mtu")
verbs.add_show(app, "port", "One port, spec and status.")


@app.command()
def create(
    name: verbs.Name,
    bridge: Bridge = None,
    kind: Type = None,
    option: Option = None,
    vlan_mode: VlanMode = None,
    pvid: Pvid = None,
    tagged: Tagged = None,
    admin_up: AdminUp = None,
    field: edit.FieldOption = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make a port; refused when there is one of that name.

    vswitch port create p1 --bridge br0 --type af_packet -b ifname=veth-a
    """
    spec = _spec(bridge, kind, option, vlan_mode, pvid, tagged, admin_up)
    body = edit.body_of(file, field, label, description, spec)
    verbs.create(client_for(url, token_file), "port", name, body, output)


@app.command("set")
def set_port(
    name: verbs.Name,
    bridge: Bridge = None,
    option: Option = None,
    vlan_mode: VlanMode = None,
    pvid: Pvid = None,
    tagged: Tagged = None,
    admin_up: AdminUp = None,
    field: edit.FieldOption = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Change the named fields of a port, and only those."""
    spec = _spec(bridge, None, option, vlan_mode, pvid, tagged, admin_up)
    body = edit.body_of(file, field, label, description, spec)
    verbs.patch(client_for(url, token_file), "port", name, body, output)


verbs.add_delete(
    app, "port", "Remove a port; what the appliance made for it (a TAP, a veth pair) goes too."
)
