"""What af_xdp ports do besides what all ports do: queues that are not theirs, an end that is down.

packet socket ── veth ── port under test ── bridge ── memory port ── this process
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rigs import AfXdp4Rig, AfXdpRig, frame
from tests.support.switch import Attached, NativeError, Switch
from tests.support.topology import run, wait_until
from tests.support.wire import HostPort

pytestmark = pytest.mark.root


@pytest.fixture
def inside(switch: Switch) -> Attached:
    return switch.add("inside", "memory", {"slots": "1024"})


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[AfXdp4Rig]:
    with contextlib.closing(AfXdp4Rig(tmp_path)) as rig:
        yield rig


def flow(number: int) -> bytes:
    """A UDP packet of a flow of its own."""
    udp = (
        (1000 + number).to_bytes(2, "big") + b"\x00\x09\x00\x0c\x00\x00" + number.to_bytes(4, "big")
    )
    ip = b"\x45\x00\x00\x20\x00\x00\x00\x00\x09\x11\x00\x00" + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return frame(0)[:12] + b"\x08\x00" + ip + udp


def test_frames_of_other_queues_are_the_hosts(
    wide: AfXdp4Rig, switch: Switch, inside: Attached
) -> None:
    """Each frame either enters the switch or the host's stack."""
    frames = [flow(n) for n in range(400)]
    attached = switch.attach(wide.open({"queues": "1"}))
    assert switch.status(attached).rx_queues == 1
    with contextlib.closing(HostPort(wide.net.switch, wide.net.switch_ifs[0])) as stack:
        wide.peer.send_all(frames)
        passed: list[bytes] = []

        def all_there() -> bool:
            passed.extend(stack.receive())
            return len(passed) + switch.counters(attached).rx_frames == len(frames)

        wait_until(all_there, 5, "every frame is somewhere")
    taken = switch.take(inside, len(frames) - len(passed))
    assert taken
    assert passed
    assert sorted(taken + passed) == sorted(frames)


def test_no_more_queues_than_there_are(wide: AfXdp4Rig) -> None:
    with pytest.raises(NativeError, match="has 4 receive queues, not 5"):
        wide.open({"queues": "5"})


def test_the_other_end_is_down(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    """The kernel takes such frames and throws them away: they count as dropped, and why."""
    with contextlib.closing(AfXdpRig(tmp_path)) as rig:
        attached = switch.attach(rig.open())
        other = ("ip", "-n", rig.net.hosts[0], "link", "set", rig.net.host_ifs[0])
        run(*other, "down")
        wait_until(lambda: not switch.status(attached).link_up, 5, "the status says so")
        switch.send(inside, [frame(n, 100 + n) for n in range(200)])
        wait_until(lambda: switch.counters(inside).rx_frames == 200, 5, "received")
        switch.settle()
        counters = switch.counters(attached)
        assert (counters.tx_frames, counters.tx_bytes) == (0, 0)
        assert counters.tx_drops == {"link_down": 200}
        run(*other, "up")
        wait_until(lambda: switch.status(attached).link_up, 5, "the link is back")
        with contextlib.suppress(OSError):  # the peer's socket reports that it was down
            rig.peer.receive()
        switch.send(inside, [frame(1)])
        assert rig.receive(switch, 1) == [frame(1)]
