"""``vswitch bridge``."""

from __future__ import annotations

from typing import Annotated

import typer

from vswitch.cli import edit, render
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="the bridge's name")]
VlanFiltering = Annotated[
    bool | None, typer.Option("--vlan-filtering/--no-vlan-filtering", help="keep VLANs apart")
]
Ageing = Annotated[int | None, typer.Option("--ageing-s", help="forget addresses after; 0 never")]


def _spec(vlan_filtering: bool | None, ageing_s: int | None) -> Json:
    spec: Json = {}
    if vlan_filtering is not None:
        spec["vlan_filtering"] = vlan_filtering
    if ageing_s is not None:
        spec["fdb"] = {"ageing_s": ageing_s}
    return spec


@app.command("list")
def list_bridges(
    label: edit.LabelOption = None,
    output: render.OutputOption = render.Output.TABLE,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """All bridges."""
    found = client_for(url, token_file).items("/bridges", label=label or [])
    rows = [
        (
            item["name"],
            render.state(item),
            item["status"].get("ports"),
            item["status"].get("fdb_entries"),
            item["spec"].get("vlan_filtering"),
        )
        for item in found
    ]
    columns = ("name", "ready", "ports", "fdb", "vlan filtering")
    render.emit(found, output, render.table(columns, rows, right="fdb"))


@app.command()
def show(
    name: Name,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """One bridge, spec and status."""
    render.emit(client_for(url, token_file).get(f"/bridges/{name}"), output)


@app.command()
def create(
    name: Name,
    vlan_filtering: VlanFiltering = None,
    ageing_s: Ageing = None,
    field: edit.FieldOption = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Make a bridge; refused when there is one of that name."""
    body = edit.body_of(file, field, label, description, _spec(vlan_filtering, ageing_s))
    made = client_for(url, token_file).request(
        "PUT", f"/bridges/{name}", body=body, headers={"If-None-Match": "*"}
    )
    render.warn_not_ready("bridge", made)
    render.emit(made, output)


@app.command("set")
def set_bridge(
    name: Name,
    vlan_filtering: VlanFiltering = None,
    ageing_s: Ageing = None,
    field: edit.FieldOption = None,
    file: edit.FileOption = None,
    label: edit.LabelOption = None,
    description: edit.DescriptionOption = None,
    output: render.OutputOption = render.Output.YAML,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Change the named fields of a bridge, and only those."""
    body = edit.body_of(file, field, label, description, _spec(vlan_filtering, ageing_s))
    changed = client_for(url, token_file).request("PATCH", f"/bridges/{name}", body=body)
    render.warn_not_ready("bridge", changed)
    render.emit(changed, output)


@app.command()
def delete(
    name: Name,
    cascade: Annotated[bool, typer.Option(help="delete what refers to it, too")] = False,
    url: UrlOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Remove a bridge; refused while ports are in it."""
    params = {"cascade": "true"} if cascade else {}
    client_for(url, token_file).request("DELETE", f"/bridges/{name}", params=params)
