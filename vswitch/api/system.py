"""The appliance itself: health, readiness, versions, capabilities, preflight, revisions."""

import platform
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from fastpath import protocol
from vswitch import __version__
from vswitch.api.answers import (
    Cursor,
    Limit,
    Served,
    decode_number,
    encode_cursor,
)
from vswitch.kinds.backends import TYPES
from vswitch.kinds.resource import Output
from vswitch.problems import not_found
from vswitch.services.preflight import findings

router = APIRouter(prefix="/system", tags=["system"])
history = APIRouter(prefix="/revisions", tags=["revisions"])


class Health(Output):
    status: str = Field(description="ok: this process answers.")


class Ready(Output):
    """The forwarder runs and has the newest revision in force."""

    ready: bool
    revision: int
    config_hash: str
    forwarder_pid: int
    keeper_connected: bool
    restarts: int = Field(description="Times the keeper had to start the forwarder again.")


class Version(Output):
    version: str
    api: str
    protocol: int
    python: str
    kernel: str
    forwarder_build: str | None = Field(description="null: not connected.")


class PortType(Output):
    type: str
    available: bool
    reason: str = Field(description="What is missing; empty where it is available.")


class NamedLimit(Output):
    name: str
    value: int


class Capabilities(Output):
    port_types: list[PortType]
    vale: str = Field(
        description="Who forwards in a VALE switch that is made now: kernel, where it has the "
        "netmap module, or software."
    )
    netmap: str = Field(
        description="Who answers programs that open /dev/netmap: this appliance, for its switches, "
        "the kernel's module, or either.",
        json_schema_extra={"x-extensible-enum": ["emulated", "kernel", "both", "none"]},
    )
    limits: list[NamedLimit]


class Finding(Output):
    code: str = Field(examples=["IFACE_NOT_FOUND", "LRO_ENABLED", "PRIVILEGES"])
    severity: str = Field(description="error: will not work; warning: may surprise; info")
    object: str = Field(description="What it is about: ports/p1, host, keeper")
    message: str
    fix: str | None = Field(description="The command that mends it; null: there is none.")


class Preflight(Output):
    ok: bool = Field(description="No finding is an error.")
    findings: list[Finding]


class ObjectDiff(Output):
    object: str = Field(examples=["ports/p1"])
    before: dict[str, Any] | None = Field(description="null: there was none.")
    after: dict[str, Any] | None = Field(description="null: it is gone.")


class Revision(Output):
    number: int
    at: datetime
    actor: str
    applied: bool = Field(description="This revision, or a later one, is in force.")
    diff: list[ObjectDiff]


class RevisionList(Output):
    items: list[Revision]
    next_cursor: str | None = Field(description="Where the next page begins; null: the end.")


@router.get("/health", response_model=Health, summary="Does this process answer? Needs no token.")
async def get_health() -> Any:
    return {"status": "ok"}


@router.get(
    "/ready",
    response_model=Ready,
    summary="Does the switch forward what it was told to? 503 if not. Needs no token.",
)
async def get_ready(served: Served) -> Any:
    return served.runtime.check_ready()


@router.get("/version", response_model=Version, summary="Who is this?")
def get_version(served: Served) -> Any:
    welcome = served.runtime.view.welcome
    return {
        "version": __version__,
        "api": "v1",
        "protocol": protocol.VERSION,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "forwarder_build": welcome.build if welcome else None,
    }


@router.get("/capabilities", response_model=Capabilities, summary="What works on this machine.")
def get_capabilities(served: Served) -> Any:
    view, limits = served.runtime.view, served.settings.limits
    known = view.welcome.port_types if view.welcome else {}
    absent = "this forwarder has no such driver" if view.welcome else view.why
    bounds = {
        "ports": limits.ports,
        "bridges": limits.bridges,
        "static_entries_per_bridge": limits.static_entries,
        "rulesets": limits.rulesets,
        "rules_per_set": limits.rules,
        "rulesets_per_stage": limits.attach,
        "groups": limits.groups,
        "members_per_group": limits.group_members,
        "policers": limits.policers,
    }
    forwarder = dict(view.welcome.limits) if view.welcome else {}
    bounds |= {f"forwarder_{name}": value for name, value in forwarder.items()}
    return {
        "port_types": [
            {
                "type": name,
                "available": known.get(name, absent) == "",
                "reason": known.get(name, absent),
            }
            for name in TYPES
        ],
        "vale": "kernel" if view.kernel_vale else "software",
        "netmap": _NETMAP[view.emulated_netmap, view.kernel_vale],
        "limits": [{"name": name, "value": value} for name, value in sorted(bounds.items())],
    }


@router.get(
    "/preflight",
    response_model=Preflight,
    summary="What stands in the way, with the command that mends it.",
)
def get_preflight(served: Served) -> Any:
    found = findings(served.changes.current, served.runtime.view, served.settings.run_dir)
    return {"ok": all(item.severity != "error" for item in found), "findings": found}


_NETMAP = {
    (True, True): "both",
    (True, False): "emulated",
    (False, True): "kernel",
    (False, False): "none",
}


@history.get("", response_model=RevisionList, summary="Changes, newest first.")
def list_revisions(served: Served, limit: Limit = 100, cursor: Cursor = None) -> Any:
    below = decode_number(cursor) or None
    rows = served.store.revisions(below, limit + 1)
    page = rows[:limit]
    return {
        "items": [_revision(served, row) for row in page],
        "next_cursor": encode_cursor(str(page[-1].number)) if len(rows) > limit else None,
    }


@history.get("/{number}", response_model=Revision, summary="One change.")
def get_revision(
    served: Served,
    number: Annotated[int, Path(ge=1, le=2**53, description="Number of the revision.")],
) -> Any:
    row = served.store.revision(number)
    if row is None:
        raise not_found("revision", str(number))
    return _revision(served, row)


def _revision(served: Any, row: Any) -> dict[str, Any]:
    applied = served.runtime.view.applied
    return {
        "number": row.number,
        "at": row.at,
        "actor": row.actor,
        "applied": applied is not None and applied.revision >= row.number,
        "diff": row.diff,
    }
