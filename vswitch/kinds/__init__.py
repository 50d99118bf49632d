"""The kinds of resources, one file each, and what is derived from their specs.

``KINDS`` is the only list of them: routes, storage, generated models all follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field, create_model

from vswitch.kinds.bridge import BridgeSpec, BridgeStatus
from vswitch.kinds.configuration import Configuration
from vswitch.kinds.fdb import FdbSpec, FdbStatus
from vswitch.kinds.port import PortSpec, PortStatus
from vswitch.kinds.resource import Input, Key, Output, Spec, Stored, patch_of, read_of
from vswitch.values import Description, LabelKey, Labels, LabelValue

__all__ = ["BRIDGE", "FDB", "KINDS", "PORT", "Configuration", "Key", "Kind", "Stored"]


@dataclass(frozen=True)
class Kind:
    """``word`` in keys and messages; ``title`` begins the names of its models."""

    word: str
    title: str
    spec: type[Spec]
    status: type[Output]
    write: type[BaseModel]
    patch: type[BaseModel]
    read: type[BaseModel]
    page: type[BaseModel]


def _kind(word: str, title: str, spec: type[Spec], status: type[Output]) -> Kind:
    identity: dict[str, Any] = {"name": (str, ...)}
    if word == "fdb":
        identity = {"bridge": (str, ...), "mac": (str, ...)}
    write: Any = create_model(
        f"{title}Write",
        __base__=Input,
        __doc__=f"A {title} as it shall be; what is left out takes its default.",
        spec=(spec, ...),
        labels=(Labels, Field(default_factory=dict)),
        description=(Description, Field("")),
    )
    patch: Any = create_model(
        f"{title}Patch",
        __base__=Input,
        __doc__="JSON Merge Patch (RFC 7396): what is left out stays. Where a backend's type "
        "changes, the backend is replaced.",
        spec=(patch_of(spec), Field(default_factory=lambda: None)),
        labels=(
            dict[LabelKey, LabelValue | None],
            Field(default_factory=dict, description="null removes a label.", max_length=64),
        ),
        description=(Description, Field(default_factory=str)),
    )
    read: Any = create_model(
        title,
        __base__=Output,
        **identity,
        uid=(str, Field(description="Never used twice.")),
        labels=(dict[str, str], ...),
        description=(str, ...),
        generation=(int, Field(description="Counts changes; also the ETag.")),
        spec=(read_of(spec), ...),
        status=(status, ...),
        created_at=(datetime, ...),
        updated_at=(datetime, ...),
    )
    page: Any = create_model(
        f"{title}List",
        __base__=Output,
        items=(list[read], ...),
        next_cursor=(str | None, Field(description="Where the next page begins; null: the end.")),
    )
    return Kind(word, title, spec, status, write, patch, read, page)


BRIDGE = _kind("bridge", "Bridge", BridgeSpec, BridgeStatus)
PORT = _kind("port", "Port", PortSpec, PortStatus)
FDB = _kind("fdb", "FdbEntry", FdbSpec, FdbStatus)
KINDS: dict[str, Kind] = {kind.word: kind for kind in (BRIDGE, PORT, FDB)}
