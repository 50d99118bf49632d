"""Bridge: a learning switch between ports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vswitch.kinds.resource import Condition, Output, Spec
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


class BridgeSpec(Spec):
    engine: Literal["software"] = Field("software", description="Who forwards.")
    vlan_filtering: bool = Field(False, description="Ports' `vlan` counts; one FDB a VLAN.")
    default_pvid: Vid = Field(1, description="The pvid of ports that name none.")
    fdb: BridgeFdb = Field(default_factory=BridgeFdb)
    flood: BridgeFlood = Field(default_factory=BridgeFlood)
    reserved_macs: Literal["drop", "forward"] = Field(
        "drop", description="Frames to 01:80:c2:00:00:00 to :0f (STP, LACP, LLDP, 802.1X)."
    )
    mtu: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="Longer payloads are dropped as too_big; 0: no limit but the ports'."
    )


class BridgeStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    ports: list[str] = Field(description="Names of the ports that are in it.")
    fdb_entries: int = Field(description="Stations known now.")
