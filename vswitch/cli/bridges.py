"""``vswitch bridge``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vswitch.cli import edit, render, verbs
from vswitch.cli.client import Json, TokenFileOption, UrlOption, client_for

app = typer.Typer(no_args_is_help=True)

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


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    status, spec = item["status"], item["spec"]
    return (
        item["name"],
        render.state(item),
        status.get("ports"),
        status.get("fdb_entries"),
        spec.get("vlan_filtering"),
    )


COLUMNS = ("name", "ready", "ports", "fdb", "vlan filtering")
verbs.add_list(app, "bridge", "All bridges.", COLUMNS, _row, "fdb")
verbs.add_show(app, "bridge", "One bridge, spec and status.")


@app.command()
def create(
    name: verbs.Name,
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
    verbs.create(client_for(url, token_file), "bridge", name, body, output)


@app.command("set")
def set_bridge(
    name: verbs.Name,
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
    verbs.patch(client_for(url, token_file), "bridge", name, body, output)


verbs.add_delete(app, "bridge", "Remove a bridge; refused while ports are in it.")
