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
from vswitch.kinds.group import GroupSpec, GroupStatus
from vswitch.kinds.policer import PolicerSpec, PolicerStatus
from vswitch.kinds.port import PortSpec, PortStatus
from vswitch.kinds.resource import Input, Key, Output, Spec, Stored, patch_of, read_of
from vswitch.kinds.rule import RuleSpec, RuleStatus
from vswitch.kinds.ruleset import RuleSetHead, RuleSetSpec, RuleSetStatus
from vswitch.values import Description, LabelKey, Labels, LabelValue

__all__ = [
    "BRIDGE",
    "FDB",
    "GROUP",
    "KINDS",
    "POLICER",
    "PORT",
    "RULE",
    "RULESET",
    "Configuration",
    "Key",
    "Kind",
    "Stored",
    "identity",
]


@dataclass(frozen=True)
class Kind:
    """``word`` in keys and messages; ``title`` begins the names of its models; ``kept``: the part
    of its spec that the object itself keeps."""

    word: str
    title: str
    spec: type[Spec]
    kept: type[Spec]
    status: type[Output]
    write: type[BaseModel]
    patch: type[BaseModel]
    read: type[BaseModel]
    page: type[BaseModel]


_IDENTITY = {"fdb": ("bridge", "mac"), "rule": ("ruleset", "id")}


def identity(key: Key) -> dict[str, str]:
    """The members that name the object when it is read."""
    if key.kind not in _IDENTITY:
        return {"name": key.name}
    parent, own = _IDENTITY[key.kind]
    return {parent: key.parent, own: key.name}


def _kind(
    word: str,
    title: str,
    spec: type[Spec],
    status: type[Output],
    *,
    kept: type[Spec] | None = None,
    listed: type[Spec] | None = None,
) -> Kind:
    """``listed``: what a list shows of the spec."""
    names: dict[str, Any] = dict.fromkeys(_IDENTITY.get(word, ("name",)), (str, ...))
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
        "changes, the backend is replaced; an action likewise.",
        spec=(patch_of(spec), Field(default_factory=lambda: None)),
        labels=(
            dict[LabelKey, LabelValue | None],
            Field(default_factory=dict, description="null removes a label.", max_length=64),
        ),
        description=(Description, Field(default_factory=str)),
    )
    read: Any = _envelope(title, names, spec, status)
    item: Any = read if listed is None else _envelope(f"{title}Item", names, listed, status)
    page: Any = create_model(
        f"{title}List",
        __base__=Output,
        items=(list[item], ...),
        next_cursor=(str | None, Field(description="Where the next page begins; null: the end.")),
    )
    return Kind(word, title, spec, kept or spec, status, write, patch, read, page)


def _envelope(
    title: str, names: dict[str, Any], spec: type[Spec], status: type[Output]
) -> type[BaseModel]:
    """An object as it is read."""
    fields: dict[str, Any] = {
        **names,
        "uid": (str, Field(description="Never used twice.")),
        "labels": (dict[str, str], ...),
        "description": (str, ...),
        "generation": (int, Field(description="Counts changes; also the ETag.")),
        "spec": (read_of(spec), ...),
        "status": (status, ...),
        "created_at": (datetime, ...),
        "updated_at": (datetime, ...),
    }
    return create_model(title, __base__=Output, **fields)


BRIDGE = _kind("bridge", "Bridge", BridgeSpec, BridgeStatus)
PORT = _kind("port", "Port", PortSpec, PortStatus)
FDB = _kind("fdb", "FdbEntry", FdbSpec, FdbStatus)
GROUP = _kind("group", "Group", GroupSpec, GroupStatus)
POLICER = _kind("policer", "Policer", PolicerSpec, PolicerStatus)
RULESET = _kind(
    "ruleset", "RuleSet", RuleSetSpec, RuleSetStatus, kept=RuleSetHead, listed=RuleSetHead
)
RULE = _kind("rule", "Rule", RuleSpec, RuleStatus)
KINDS: dict[str, Kind] = {
    kind.word: kind for kind in (BRIDGE, PORT, FDB, GROUP, POLICER, RULESET, RULE)
}
