"""Bridge: a learning switch between ports."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vswitch.kinds.resource import Condition, Output, Spec, fault_at
from vswitch.values import Vid


class BridgeFdb(Spec):
    """The table of stations."""

    learning: bool = True
    ageing_s: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        300, description="Seconds until a silent station is forgotten; 0: never."
    )
    max_entries: Annotated[int, Field(ge=64, le=1_000_000)] = Field(
        8192, description="Size of the table; changing it empties the table."
    )


class BridgeFlood(Spec):
    """What is sent to all ports when the destination is not one station that is known."""

    unknown_unicast: bool = True
    multicast: bool = True
    broadcast: bool = True


UserId = Annotated[int, Field(ge=0, le=2**32 - 2)]
UserIds = Annotated[
    tuple[UserId, ...],
    Field(strict=False, max_length=64, json_schema_extra={"uniqueItems": True}),
]


class BridgeClients(Spec):
    """netmap programs that open ports of the switch: docs/netmap.md.

    Root and the service's own users may always; others by their user or one of their groups.
    """

    mode: Literal["relay", "direct"] = Field(
        "relay",
        description="relay: every frame passes the forwarder. direct: a frame for another program "
        "goes there without it; for programs that trust each other, where no rules, VLANs or "
        "monitors have to see it.",
    )
    uids: UserIds = Field((), description="Users whose programs may.")
    gids: UserIds = Field((), description="Groups whose members' programs may.")

    @model_validator(mode="after")
    def _named_once(self) -> BridgeClients:
        for member, ids in (("uids", self.uids), ("gids", self.gids)):
            if len(set(ids)) != len(ids):
                raise fault_at((member,), "a number is named twice")
        return self


VALE_FDB = {"ageing_s": 0, "max_entries": 1024}
"""A VALE switch forgets a station only when another one takes its place among 1,024."""


class BridgeSpec(Spec):
    engine: Literal["software", "vale"] = Field(
        "software",
        description="Who forwards: software: this appliance; vale: the VALE switch of this name in "
        "the netmap kernel module, which learns, never ages, and has none of the other switches.",
    )
    origin: Literal["user", "vale"] = Field(
        "user",
        description="Who made it; cannot be changed. vale: made with a switch's first `vale` "
        "port, and goes with the last one.",
        json_schema_extra={"readOnly": True},
    )
    vlan_filtering: bool = Field(False, description="Ports' `vlan` counts; one FDB a VLAN.")
    default_pvid: Vid = Field(1, description="The pvid of ports that name none.")
    fdb: BridgeFdb = Field(default_factory=BridgeFdb)
    flood: BridgeFlood = Field(default_factory=BridgeFlood)
    reserved_macs: Literal["drop", "forward"] = Field(
        "drop",
        description="Frames to 01:80:c2:00:00:00 to :0f (STP, LACP, LLDP, 802.1X), and those whose "
        "source is no station's address.",
    )
    mtu: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="Longer payloads are dropped as too_big; 0: no limit but the ports'."
    )
    clients: BridgeClients = Field(
        default_factory=BridgeClients,
        description="Of a switch of ours that is named as netmap names them, vale and up to 11 "
        "letters, digits or _. Elsewhere only the default is accepted. Where it is given, what is "
        "left out of `fdb.ageing_s` and `reserved_macs` is as in VALE: 0 and forward.",
    )

    @model_validator(mode="before")
    @classmethod
    def _engine_defaults(cls, given: Any) -> Any:
        """What a VALE switch does is the default of one: of the kernel's, which cannot do
        otherwise, and of ours, which is one when it says something of programs."""
        if not isinstance(given, dict):
            return given
        if given.get("engine") == "vale":
            defaults = VALE_FDB
        elif given.get("clients"):
            defaults = {"ageing_s": VALE_FDB["ageing_s"]}
        else:
            return given
        fdb = given.get("fdb", {})
        if isinstance(fdb, dict):
            given = {**given, "fdb": {**defaults, **fdb}}
        return {"reserved_macs": "forward", **given}


class BridgeStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    ports: list[str] = Field(
        description="Names of the ports that are in it. Of a VALE switch of the kernel: its ports "
        "as the kernel names them, also those of other programs."
    )
    fdb_entries: int = Field(description="Stations known now.")
