"""Port: one backend, in at most one bridge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vswitch.kinds.backends import Backend
from vswitch.kinds.resource import Condition, Output, Spec
from vswitch.values import Name, Vid, VlanRange, merge_ranges


class PortVlan(Spec):
    """Membership; counts where the bridge filters VLANs.

    access: untagged frames, VLAN pvid. trunk: tagged frames of `tagged`. native: a trunk whose
    untagged frames are in pvid. tunnel: every frame gets an outer 802.1ad tag pvid.
    """

    mode: Literal["access", "trunk", "native", "tunnel"] = "access"
    pvid: Vid | None = Field(
        None, description="null: the bridge's default_pvid. Of no meaning for a trunk."
    )
    tagged: Annotated[tuple[VlanRange, ...], Field(strict=False, max_length=256)] = Field(
        (), description="VLANs that may pass tagged; of no meaning for access and tunnel."
    )

    def ranges(self) -> tuple[tuple[int, int], ...]:
        return merge_ranges(self.tagged) if self.mode in ("trunk", "native") else ()


class PortSpec(Spec):
    bridge: Name | None = Field(None, description="null: in none; what it receives is dropped.")
    admin_up: bool = True
    backend: Backend
    vlan: PortVlan = Field(default_factory=PortVlan)
    learning: bool = Field(True, description="Learn stations from what it receives.")
    flood: bool = Field(True, description="Gets flooded frames.")
    isolation_group: Annotated[int, Field(ge=0, le=65_535)] = Field(
        0, description="No frame passes between two ports of one group; 0: none."
    )
    polling: Literal["block", "adaptive", "busy"] = Field(
        "adaptive", description="How its workers wait: sleep, spin for a while first, spin."
    )
    cpus: Annotated[
        tuple[Annotated[int, Field(ge=0, le=1023)], ...],
        Field(strict=False, max_length=16, json_schema_extra={"uniqueItems": True}),
    ] = Field(
        (),
        description="Processors its queues' workers are pinned to, in order, and from the "
        "beginning again where there are more queues.",
    )
    offload_policy: Literal["carry", "complete", "refuse"] = Field(
        "carry",
        description="Unfinished checksums and segments: pass on what the port can take and "
        "complete the rest; complete always; drop frames it cannot take.",
    )
    optimize_for: Literal["latency", "throughput"] = Field(
        "latency", description="Chooses the TPACKET version where the backend names none."
    )

    @property
    def bridges(self) -> tuple[str, ...]:
        """Where frames reach it: its bridge, its VALE switch, or both."""
        return tuple(name for name in (self.bridge, self.backend.vale_switch()) if name is not None)

    @property
    def for_programs(self) -> bool:
        """A place on a VALE switch that netmap programs open."""
        return self.bridge is None and self.backend.vale_switch() is not None

    @model_validator(mode="after")
    def _distinct_cpus(self) -> PortSpec:
        if len(set(self.cpus)) != len(self.cpus):
            raise ValueError("`cpus` names a processor twice")
        return self


class LastError(Output):
    code: str
    message: str
    hint: str


class PortClient(Output):
    """A netmap program that has the port open."""

    id: int = Field(description="Of /clients.")
    pid: int = Field(description="Who opened it; others may hold it by now.")
    uid: int
    program: str = Field(description="As it calls itself.")


class PortStatus(Output):
    conditions: list[Condition]
    observed_generation: int = Field(description="The generation that is in force.")
    backend_effective: str = Field(description="What serves the port, in the driver's words.")
    device: str = Field(description="The kernel's name of the interface; may be empty.")
    mac: str
    mtu: int = Field(description="0: no limit known.")
    ifindex: int = Field(description="0: no kernel interface.")
    mem_region: int = Field(
        description="netmap's memory region: between ports of one, frames change hands without a "
        "copy. 0: none."
    )
    capabilities: list[str] = Field(description="What it can take unfinished: csum, tso4, ...")
    rx_queues: int
    tx_queues: int
    clients: list[PortClient] = Field(
        description="netmap programs that have it open; of a `vale` port in no bridge."
    )
    last_error: LastError | None
