"""Counters: per port, per queue, per drop reason, and the switch-wide equation.

rx is into the switch, tx out of it. Per port: rx_frames = frames that went on + rx drops.
Switch-wide: rx + copies + segments + originated = tx + drops + consumed + in_flight.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from vswitch.api.answers import Served
from vswitch.kinds.resource import Output

router = APIRouter(prefix="/stats", tags=["stats"])


class QueueCounters(Output):
    port: str
    id: int
    thread: str = Field(description="The worker that serves the queue.")
    cpu: int = Field(description="-1: not pinned.")
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    drops: dict[str, int] = Field(description="Frames by reason.")
    batches: int
    sleeps: int
    busy_ns: int


class PortCounters(Output):
    name: str
    rx_frames: int
    rx_bytes: int
    tx_frames: int
    tx_bytes: int
    drops: dict[str, int] = Field(description="Frames by reason, both directions.")
    rx_drops: dict[str, int] = Field(description="Frames by reason, on the way in.")
    tx_drops: dict[str, int] = Field(description="Frames by reason, on the way out.")
    copies: int = Field(description="Made by flooding what the port received.")
    segments: int = Field(description="Made by cutting large frames on the way out.")
    originated: int
    consumed: int
    kernel_drops: int = Field(description="Lost in the kernel's ring before we saw them.")
    learned: int
    moved: int
    zero_copy_frames: int = Field(description="Of tx_frames: sent by exchanging buffers.")
    copied_frames: int = Field(description="The other tx_frames, whoever copied them.")
    queues: list[QueueCounters]


class DropCounter(Output):
    port: str
    direction: str = Field(description="rx or tx")
    reason: str
    frames: int


class Ledger(Output):
    """rx + copies + segments + originated = tx + drops + consumed + in_flight."""

    rx_frames: int
    copies: int
    segments: int
    originated: int
    tx_frames: int
    drops: int
    consumed: int
    in_flight: int = Field(description="0 when the workers are quiet.")


class PortCountersList(Output):
    """Ports and ledger of one moment."""

    items: list[PortCounters]
    ledger: Ledger


class QueueCountersList(Output):
    items: list[QueueCounters]


class DropCounterList(Output):
    items: list[DropCounter]


def both(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {
        reason: first.get(reason, 0) + second.get(reason, 0) for reason in sorted({*first, *second})
    }


def _queue(port: str, queue: Any) -> dict[str, Any]:
    return {
        "port": port,
        **{name: getattr(queue, name) for name in QueueCounters.model_fields if name != "port"},
    }


@router.get("/ports", response_model=PortCountersList, summary="Counters of every port.")
def list_port_stats(served: Served) -> Any:
    stats = served.runtime.stats()
    items = []
    for port in sorted(stats.ports, key=lambda port: port.name):
        fields = {
            name: getattr(port, name)
            for name in PortCounters.model_fields
            if name not in ("drops", "queues")
        }
        items.append(
            {
                **fields,
                "drops": both(port.rx_drops, port.tx_drops),
                "queues": [_queue(port.name, queue) for queue in port.queues],
            }
        )
    return {"items": items, "ledger": _ledger(stats)}


@router.get("/queues", response_model=QueueCountersList, summary="Counters of every queue.")
def list_queue_stats(served: Served) -> Any:
    ports = sorted(served.runtime.stats().ports, key=lambda port: port.name)
    return {"items": [_queue(port.name, queue) for port in ports for queue in port.queues]}


@router.get("/drops", response_model=DropCounterList, summary="Every drop, with its reason.")
def list_drop_stats(served: Served) -> Any:
    items = [
        {"port": port.name, "direction": direction, "reason": reason, "frames": frames}
        for port in sorted(served.runtime.stats().ports, key=lambda port: port.name)
        for direction, drops in (("rx", port.rx_drops), ("tx", port.tx_drops))
        for reason, frames in sorted(drops.items())
        if frames
    ]
    return {"items": items}


@router.get("/ledger", response_model=Ledger, summary="The switch-wide equation.")
def get_ledger(served: Served) -> Any:
    return _ledger(served.runtime.stats())


def _ledger(stats: Any) -> dict[str, int]:
    return {name: getattr(stats.ledger, name) for name in Ledger.model_fields}
