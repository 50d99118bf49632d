"""The engine in this process, and its books.

with Switch() as switch:
    a, b = switch.add("a", "memory"), switch.add("b", "memory")
    switch.send(a, [frame])
    assert switch.take(b, 1) == [frame]

Leaving the block checks the equations of the drop ledger: of the switch, of every port, and that
nothing is left in flight.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastpath.native import (
    NO_BRIDGE,
    Engine,
    NativeError,
    PlacedBridge,
    PlacedPort,
    port_acquire,
    port_release,
)
from fastpath.protocol import WirePort
from fastpath.readings import Counters, PortStatus
from tests.support.fastpath import bridge, port
from tests.support.topology import wait_until

PORTS_MAX = 32
BRIDGES_MAX = 8


def in_flight(counters: Counters) -> int:
    """Frames that came in and did not go out: 0 when the workers are quiet."""
    came = counters.rx_frames + counters.copies + counters.segments + counters.originated
    return came - left(counters)


def left(counters: Counters) -> int:
    """Frames that were sent, dropped or consumed."""
    dropped = sum(counters.rx_drops.values()) + sum(counters.tx_drops.values())
    return counters.tx_frames + counters.consumed + dropped


def add(a: Counters, b: Counters) -> Counters:
    """The sum of two ports' counters."""
    values: dict[str, Any] = {}
    for name in Counters.__dataclass_fields__:
        one, two = getattr(a, name), getattr(b, name)
        if isinstance(one, dict):
            values[name] = {key: one.get(key, 0) + two.get(key, 0) for key in one | two}
        else:
            values[name] = one + two
    return Counters(**values)


NOTHING = Counters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, rx_drops={}, tx_drops={})


@dataclass
class Attached:
    """A port of the switch; ``fds`` and ``state`` are what a keeper would hold."""

    slot: int
    spec: WirePort
    fds: list[int] = field(default_factory=list)
    state: str = ""


class Switch:
    """A bridge named br0, further ones, and their ports; ports not named otherwise are in br0."""

    def __init__(self, **changes: Any) -> None:
        self.engine = Engine(ports_max=PORTS_MAX, bridges_max=BRIDGES_MAX, workers_max=64)
        self.bridges: dict[str, PlacedBridge] = {}
        self.add_bridge("br0", **changes)
        self.ports: dict[int, Attached] = {}
        self.departed = NOTHING
        self._generation = 0

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.check_ledger()
        finally:
            for attached in list(self.ports.values()):
                self.release(attached)
            self.engine.destroy()

    @property
    def bridge(self) -> PlacedBridge:
        return self.bridges["br0"]

    def add_bridge(self, name: str, **changes: Any) -> None:
        """In force with the next port."""
        placed = PlacedBridge(len(self.bridges), bridge(name, **changes))
        self.engine.bridge_add(placed.slot, name, placed.spec.fdb_entries_max, -1)
        self.bridges[name] = placed

    def publish(self) -> None:
        self._generation += 1
        ports = [PlacedPort(p.slot, p.spec, self._slot_of(p)) for p in self.ports.values()]
        self.engine.publish(self._generation, list(self.bridges.values()), ports)

    def _slot_of(self, attached: Attached) -> int:
        name = attached.spec.bridge
        return NO_BRIDGE if name is None else self.bridges[name].slot

    def add(
        self, name: str, type: str, options: Mapping[str, str] = {}, **changes: Any
    ) -> Attached:
        """Acquire as the keeper does, attach, publish."""
        return self.attach(acquire(name, type, options, **changes))

    def attach(self, attached: Attached, *, publish: bool = True) -> Attached:
        """Attach what was acquired before, under the lowest free slot."""
        spec = attached.spec
        attached.slot = next(slot for slot in range(PORTS_MAX) if slot not in self.ports)
        self.engine.port_add(
            attached.slot, spec.name, spec.type, spec.options, attached.fds, attached.state
        )
        self.ports[attached.slot] = attached
        if publish:
            self.publish()
        return attached

    def detach(self, attached: Attached) -> None:
        """Out of the configuration and of the engine; the fds stay open."""
        del self.ports[attached.slot]
        self.publish()
        self.departed = add(self.departed, self.counters(attached))
        self.engine.port_remove(attached.slot, keep_counters=False)

    def remove(self, attached: Attached) -> None:
        self.detach(attached)
        self.release(attached)

    def clear(self) -> None:
        """Remove every port: before the namespaces go that hold their devices."""
        self.settle()
        for attached in list(self.ports.values()):
            self.remove(attached)

    @staticmethod
    def release(attached: Attached) -> None:
        """Close the fds as the keeper does."""
        spec = attached.spec
        port_release(spec.type, spec.name, spec.options, attached.fds, attached.state)
        for fd in attached.fds:
            os.close(fd)
        attached.fds = []

    def counters(self, attached: Attached) -> Counters:
        return self.engine.port_counters(attached.slot)

    def status(self, attached: Attached) -> PortStatus:
        return self.engine.port_status(attached.slot)

    def send(self, attached: Attached, frames: Sequence[bytes]) -> None:
        """Through the far end of a memory port; waits for room in its ring."""
        for frame in frames:
            wait_until(
                lambda frame=frame: self.engine.memory_put(attached.slot, frame),  # type: ignore[misc]
                10,
                "room in a memory port's ring",
            )

    def take(self, attached: Attached, count: int, timeout_s: float = 10) -> list[bytes]:
        """At least ``count`` frames that the switch sent to a memory port, and what came too."""
        frames: list[bytes] = []

        def enough() -> bool:
            while (frame := self.engine.memory_take(attached.slot)) is not None:
                frames.append(frame)
            return len(frames) >= count

        wait_until(enough, timeout_s, f"{count} frames at {attached.spec.name}")
        return frames

    def settle(self) -> None:
        """Returns when every frame that was received has been accounted for."""

        def quiet() -> bool:
            self.engine.quiesce()
            return in_flight(self.engine.total_counters()) == 0

        wait_until(quiet, 5, f"the books balance: {self.engine.total_counters()}")

    def check_ledger(self) -> None:
        """The equations of the ledger, over the switch and over its ports."""
        self.settle()
        total = self.engine.total_counters()
        ports = [self.counters(attached) for attached in self.ports.values()]
        everything = self.departed
        for counters in ports:
            everything = add(everything, counters)
        assert everything == total, "the ports' counters are not the switch's"
        # What the ports handed to the switch is what the switch handed to ports or kept.
        to_switch = total.rx_frames - sum(total.rx_drops.values())
        from_switch = total.tx_frames + sum(total.tx_drops.values())
        made = total.copies + total.segments + total.originated
        assert to_switch + made == from_switch + total.consumed
        for counters in ports:
            assert counters.rx_frames >= sum(counters.rx_drops.values())
            assert (counters.rx_bytes == 0) == (counters.rx_frames == 0)
            assert (counters.tx_bytes == 0) == (counters.tx_frames == 0)


def acquire(
    name: str,
    type: str,
    options: Mapping[str, str] = {},
    *,
    bridge: str | None = "br0",
    **changes: Any,
) -> Attached:
    """What the keeper does for a port; the result is not attached to any switch."""
    spec = port(name, type, bridge, options=options, **changes)
    fds, state = port_acquire(type, name, spec.options)
    return Attached(-1, spec, fds, state)


__all__ = ["Attached", "NativeError", "Switch", "acquire", "add", "in_flight"]
