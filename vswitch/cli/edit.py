"""From options to a JSON body: what ``create`` and ``set`` of every noun share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from vswitch.cli.client import CliError, Json

FieldOption = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="FIELD=VALUE", help="any field of the spec: vlan.pvid=10; again"
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("-f", "--file", help="YAML or JSON with spec, labels, description"),
]
LabelOption = Annotated[
    list[str] | None, typer.Option("-l", "--label", metavar="KEY=VALUE", help="a label; again")
]
DescriptionOption = Annotated[str | None, typer.Option(help="a remark kept with the object")]


def split(text: str) -> tuple[str, str]:
    """ "key=value" in two; CliError when there is no "="."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise CliError(f"{text!r} is not KEY=VALUE", exit_code=2)
    return key, value


def value_of(text: str) -> Any:
    """JSON where it is JSON (10, true, null, ["10-20"]), else the text as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def put_field(target: Json, path: str, value: Any) -> None:
    """``vlan.pvid`` sets target["vlan"]["pvid"]."""
    *parents, last = path.split(".")
    for name in parents:
        target = target.setdefault(name, {})
    target[last] = value


def body_of(
    file: Path | None,
    fields: Sequence[str] | None,
    labels: Sequence[str] | None,
    description: str | None,
    spec: Json,
) -> Json:
    """The file first, then ``spec`` (made of named options), then ``--set``."""
    body: Json = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise CliError(f"cannot read {file}: {error}", exit_code=2) from error
        if not isinstance(loaded, dict):
            raise CliError(f"{file} does not hold an object", exit_code=2)
        body = {key: loaded[key] for key in ("spec", "labels", "description") if key in loaded}
    merged: Json = body.setdefault("spec", {})
    for name, value in spec.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] |= value
        else:
            merged[name] = value
    for text in fields or ():
        path, raw = split(text)
        put_field(merged, path, value_of(raw))
    if labels:
        body["labels"] = dict(body.get("labels") or {}) | dict(split(text) for text in labels)
    if description is not None:
        body["description"] = description
    return body
