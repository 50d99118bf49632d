"""Monitor ports in the engine: what they copy, in which order, and that nobody waits for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.rigs import frame
from tests.support.switch import Attached, Switch

BURST = 900  # fits the memory ports' rings


@pytest.fixture
def switch() -> Iterator[Switch]:
    """p1 and p2 in br0; mon is the bridge for monitors and those who look at the copies."""
    with Switch() as switch:
        switch.add_bridge("mon", learning=False, reserved_forward=True)
        yield switch


class Scene:
    """Two ports that talk, and a collector beside the monitors."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.p1 = switch.add("p1", "memory")
        self.p2 = switch.add("p2", "memory")
        self.collector = switch.add("collector", "memory", {"slots": "8192"}, bridge="mon")

    def monitor(
        self, name: str = "m1", port: str = "p1", bridge: str | None = "mon", **options: str
    ) -> Attached:
        return self.switch.add(name, "monitor", {"port": port, **options}, bridge=bridge)

    def exchange(self, inwards: list[bytes], outwards: list[bytes]) -> None:
        """p1 receives the first, then sends the second."""
        self.switch.send(self.p1, inwards)
        assert self.switch.take(self.p2, len(inwards)) == inwards
        self.switch.send(self.p2, outwards)
        assert self.switch.take(self.p1, len(outwards)) == outwards

    def copies(self, count: int) -> list[bytes]:
        frames = self.switch.take(self.collector, count)
        self.switch.settle()
        return frames + self.switch.take(self.collector, 0)


@pytest.fixture
def scene(switch: Switch) -> Scene:
    return Scene(switch)


def talk(count: int = BURST) -> tuple[list[bytes], list[bytes]]:
    inwards = [frame(n, 60 + n % 1400, source=1, to=2) for n in range(count)]
    outwards = [frame(n, 60 + n % 900, source=2, to=1) for n in range(count, 2 * count)]
    return inwards, outwards


@pytest.mark.parametrize("direction", ["rx", "tx", "both"])
def test_N11_a_monitor_sees_exactly_the_frames_of_its_direction(
    scene: Scene, direction: str
) -> None:
    monitor = scene.monitor(direction=direction)
    inwards, outwards = talk()
    scene.exchange(inwards, outwards)
    expected = {"rx": inwards, "tx": outwards, "both": inwards + outwards}[direction]
    assert scene.copies(len(expected)) == expected
    counters = scene.switch.counters(monitor)
    assert counters.rx_frames == len(expected)
    assert counters.rx_bytes == sum(map(len, expected))
    assert (counters.rx_drops, counters.tx_frames) == ({}, 0)
    assert counters.learned == 0
