"""FdbEntry: a station pinned to a port; and the row of the table that clients see."""

from __future__ import annotations

from pydantic import Field

from vswitch.kinds.resource import Condition, Output, Spec
from vswitch.values import Name, Vid


class FdbSpec(Spec):
    port: Name
    vlan: Vid | None = Field(
        None,
        description="null: the port's pvid where the bridge filters VLANs; of no meaning where "
        "it does not.",
    )


class FdbStatus(Output):
    conditions: list[Condition]
    observed_generation: int


class FdbRow(Output):
    """A row of the table in force, learned or static."""

    bridge: str
    mac: str
    vlan: int = Field(description="0 where the bridge does not filter VLANs.")
    port: str
    static: bool
    age_s: int = Field(description="Seconds since the station was last heard.")
    moves: int = Field(description="Times it was heard on another port than before.")
