"""What every port type must do, the same for all of them.

      peer ---- port under test ---- bridge ---- memory port ---- this process

The peer is the type's outside (tests/support/rigs.py): a far end of rings, files, a packet socket
on the other end of a veth pair or on a TAP's interface. Every test ends with the ledger's
equations (Switch.__exit__). A null port has no outside; its tests are at the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.client_rig import Client4Rig
from tests.support.pipe_rig import Pipe4Rig
from tests.support.rigs import (
    NETDEV_RIGS,
    RIGS,
    TAG_C,
    TAG_S,
    AfPacket4Rig,
    AfPacketRig,
    AfPacketV1Rig,
    AfPacketV1RingRig,
    AfPacketV2RingRig,
    AfPacketV3Rig,
    AfPacketV3RingRig,
    AfPacketV34Rig,
    AfXdp4Rig,
    AfXdpGenericRig,
    NetdevRig,
    PcapRig,
    Rig,
    Tap4Rig,
    TapRig,
    TunRig,
    frame,
    pcap_read,
)
from tests.support.switch import Attached, NativeError, Switch
from tests.support.topology import wait_until

MEMORY_SLOTS = 1024  # of a memory port's ring, whose last slot stays empty
JUMBO = 9014  # MTU 9000 and the Ethernet header

KINDS: dict[str, tuple[tuple[int, int], ...]] = {
    "untagged": (),
    "802.1Q": ((TAG_C, 0x0064),),
    "priority-tagged": ((TAG_C, 0xA000),),
    "all tag bits": ((TAG_C, 0xFFFE),),
    "802.1ad": ((TAG_S, 0x0064),),
    "QinQ": ((TAG_S, 0x3064), (TAG_C, 0xE007)),
    "two C-tags": ((TAG_C, 0x0001), (TAG_C, 0x0002)),
}
LENGTHS = [60, 61, 63, 64, 65, 127, 128, 511, 1513, 1514, 1515, 2047, 2048, 2049, 4096, JUMBO]


def params(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.root) if name in NETDEV_RIGS else name
        for name in names
    ]


@pytest.fixture(params=params(*RIGS))
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig = RIGS[request.param](tmp_path)
    with contextlib.closing(rig):
        yield rig


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


@pytest.fixture
def inside(switch: Switch) -> Attached:
    """The memory port opposite, through which this process sends and takes."""
    return switch.add("inside", "memory", {"slots": str(MEMORY_SLOTS)})


def maker(rig: Rig) -> Callable[..., bytes]:
    """frame(), or what stands for it where frames have to be IP packets."""
    return rig.frame if isinstance(rig, TunRig | AfPacketV1Rig | AfXdpGenericRig) else frame


def corpus(make: Callable[..., bytes] = frame) -> list[bytes]:
    frames: list[bytes] = []
    for tags in KINDS.values():
        frames += [make(len(frames) + i, length, *tags) for i, length in enumerate(LENGTHS)]
    return frames


def test_frames_into_the_switch(rig: Rig, switch: Switch, inside: Attached) -> None:
    """Order, bytes and counters of every length and kind of tag."""
    switch.attach(rig.open())
    frames = corpus(maker(rig))
    rig.send(switch, frames)
    assert switch.take(inside, len(frames)) == frames
    switch.settle()
    counters = switch.counters(rig.port)
    assert counters.rx_frames == len(frames)
    assert counters.rx_bytes == sum(map(len, frames))
    assert counters.rx_drops == {}
    assert (counters.tx_frames, counters.tx_drops) == (0, {})
    assert counters.learned == 1
    sent = switch.counters(inside)
    assert (sent.tx_frames, sent.tx_bytes) == (counters.rx_frames, counters.rx_bytes)


def test_frames_out_of_the_switch(rig: Rig, switch: Switch, inside: Attached) -> None:
    switch.attach(rig.open())
    frames = corpus(maker(rig))
    switch.send(inside, frames)
    assert rig.receive(switch, len(frames)) == frames
    switch.settle()
    counters = switch.counters(rig.port)
    assert counters.tx_frames == len(frames)
    assert counters.tx_bytes == sum(map(len, frames))
    assert counters.tx_drops == {}
    assert (counters.rx_frames, counters.rx_drops) == (0, {})
    assert switch.counters(inside).rx_frames == len(frames)


def test_many_frames_keep_their_order(rig: Rig, switch: Switch, inside: Attached) -> None:
    """Several rings' worth, both ways at once where the type can."""
    switch.attach(rig.open())
    count, make = 5000, maker(rig)
    inwards = [make(n, 60 + n % 200, source=1, to=2) for n in range(count)]
    outwards = [make(n, 60 + n % 300, source=2, to=1) for n in range(count)]
    taken: list[bytes] = []
    received: list[bytes] = []
    for at in range(0, count, 500):
        rig.send(switch, inwards[at : at + 500])
        switch.send(inside, outwards[at : at + 500])
        taken += switch.take(inside, 500)
        received += rig.receive(switch, 500)
    assert taken == inwards
    assert received == outwards


# What a TUN takes is not what it gives: its random packets are test_tun.py's. The Linux bridge
# before the generic af_xdp port drops some itself.
WITHOUT_RANDOM = ("af_xdp-generic", "tun")


@pytest.mark.parametrize(
    "rig", params(*(name for name in RIGS if name not in WITHOUT_RANDOM)), indirect=True
)
def test_random_bytes(rig: Rig, switch: Switch, inside: Attached) -> None:
    """Frames of anything: none is lost unaccounted, what is delivered is unchanged."""
    switch.attach(rig.open())
    draw = random.Random(20)
    frames = [draw.randbytes(draw.choice((14, 15, 17, 18, 40, 60, 200, 1514))) for _ in range(1000)]
    for n in range(0, len(frames), 3):  # plausible beginnings get deeper into the parser
        kind = draw.choice(list(KINDS.values()))
        proto = draw.choice((b"\x08\x00\x45", b"\x86\xdd\x60", b"\x08\x06\x00", b"\x08\x00\x4f"))
        frames[n] = frame(n, 14 + 4 * len(kind), *kind)[:-2] + proto + frames[n]
    rig.send(switch, frames)
    wait_until(
        lambda: switch.engine.total_counters().rx_frames == len(frames), 10, "all are received"
    )
    switch.settle()
    counters = switch.engine.total_counters()
    delivered = switch.take(inside, counters.tx_frames)
    assert len(delivered) == counters.tx_frames
    assert len(delivered) + sum(counters.rx_drops.values()) == len(frames)
    remaining = iter(frames)
    assert all(frame in remaining for frame in delivered), "reordered or changed"

    switch.send(inside, frames)
    switch.settle()
    wait_until(
        lambda: switch.engine.total_counters().rx_frames == 2 * len(frames), 10, "all are received"
    )
    switch.settle()
    sent = switch.counters(rig.port).tx_frames
    remaining = iter(frames)
    assert all(frame in remaining for frame in rig.receive(switch, sent)), "reordered or changed"


def test_close_and_reopen(rig: Rig, switch: Switch, inside: Attached) -> None:
    """Counters of a port that left stay in the sums; no descriptor stays behind."""
    switch.attach(rig.open())
    make = maker(rig)
    frames = [make(n, 100 + n) for n in range(100)]
    descriptors: set[int] = set()
    for _ in range(3):
        rig.send(switch, frames)
        assert switch.take(inside, len(frames)) == frames
        switch.remove(rig.port)
        descriptors.add(len(os.listdir("/proc/self/fd")))
        switch.attach(rig.open())
        assert switch.counters(rig.port).rx_frames == 0
    switch.send(inside, frames)
    assert rig.receive(switch, len(frames)) == frames
    switch.settle()
    assert len(descriptors) == 1
    assert switch.engine.total_counters().rx_frames == 4 * len(frames)


# A memory port's rings are in the process: nothing of it outlives the engine.
@pytest.mark.parametrize("rig", params(*(name for name in RIGS if name != "memory")), indirect=True)
def test_another_engine_goes_on(rig: Rig) -> None:
    """The fds outlive an engine: what comes while there is none waits for the next."""
    make = maker(rig)
    with Switch() as first:
        inside = first.add("inside", "memory")
        first.attach(rig.open())
        frames = [make(n, 60 + n) for n in range(100)]
        rig.send(first, frames)
        assert first.take(inside, len(frames)) == frames
        first.send(inside, frames)
        assert rig.receive(first, len(frames)) == frames
        first.settle()
        first.detach(rig.port)
        if isinstance(rig, NetdevRig):
            for n in range(300):
                rig.peer.send(make(1000 + n))
    with Switch() as second:
        inside = second.add("inside", "memory")
        second.attach(rig.port)
        if isinstance(rig, NetdevRig):
            assert second.take(inside, 300) == [make(1000 + n) for n in range(300)]
        second.send(inside, frames)
        assert rig.receive(second, len(frames)) == frames
        assert second.status(rig.port).link_up


# --- many queues ---------------------------------------------------------------------------------


def flow_frame(flow: int, number: int) -> bytes:
    """An IPv4 datagram of a flow, told by its source port, that carries a number."""
    udp = struct.pack("!HHHH", 1024 + flow, 9, 12, 0) + number.to_bytes(4, "big")
    addresses = bytes((192, 0, 2, 1, 198, 51, 100, 1))
    ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 9, 17, 0) + addresses
    return frame(0)[:12] + b"\x08\x00" + ip + udp


def by_flow(frames: Iterable[bytes]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for data in frames:
        found.setdefault(data[34:36], []).append(int.from_bytes(data[42:46], "big"))
    return found


def affinity_of(name: str) -> set[int] | None:
    """The processors that a thread of this process may run on; None: none has this name (yet)."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # threads end
            if (task / "comm").read_text().strip() == name:
                return os.sched_getaffinity(int(task.name))
    return None


@pytest.mark.root
@pytest.mark.parametrize(
    "kind", [Tap4Rig, AfPacket4Rig, AfPacketV34Rig, AfXdp4Rig, Pipe4Rig, Client4Rig]
)
def test_N8_a_thread_for_each_queue(
    kind: Callable[[Path], Rig], switch: Switch, inside: Attached, tmp_path: Path
) -> None:
    """Pinned as told; flows spread and keep their order; the queues' counters are the port's."""
    flows, each = 200, 20
    cpus = sorted(os.sched_getaffinity(0))
    with contextlib.closing(kind(tmp_path)) as rig:
        for pinned in ((), tuple(cpus[:4])):  # reopened, too
            attached = rig.open()
            attached.spec = msgspec.structs.replace(attached.spec, cpus=pinned)
            switch.attach(attached)
            queues = switch.status(attached).rx_queues
            assert queues == 4
            for q in range(queues):
                expected = {pinned[q % len(pinned)]} if pinned else set(cpus)
                wait_until(
                    lambda q=q, expected=expected: affinity_of(f"vs-p1.{q}") == expected,  # type: ignore[misc]
                    5,
                    f"the thread of queue {q} runs on {expected}",
                )
            sent = [flow_frame(flow, n) for n in range(each) for flow in range(flows)]
            taken: list[bytes] = []
            for at in range(0, len(sent), 500):
                rig.send(switch, sent[at : at + 500])
                taken += switch.take(inside, 500)
            assert by_flow(taken) == by_flow(sent)
            switch.settle()
            shares = [switch.engine.queue_counters(attached.slot, q)[0] for q in range(queues)]
            assert sum(share.rx_frames for share in shares) == len(sent)
            assert sum(share.rx_frames > 0 for share in shares) > 1
            assert switch.counters(attached).rx_frames == len(sent)
            switch.send(inside, sent[:500])
            assert rig.receive(switch, 500) == sent[:500]
            switch.remove(attached)


# --- full ----------------------------------------------------------------------------------------


def overflow(switch: Switch, inside: Attached, rig: Rig, count: int) -> int:
    """Sends count frames of 100 bytes to the port; how many it dropped as queue_full."""
    make = maker(rig)
    before = switch.engine.total_counters().rx_frames
    switch.send(inside, [make(n, 100) for n in range(count)])
    wait_until(
        lambda: switch.engine.total_counters().rx_frames == before + count, 20, "all received"
    )
    switch.settle()
    counters = switch.counters(rig.port)
    assert set(counters.tx_drops) <= {"queue_full"}
    assert counters.tx_frames + counters.tx_drops.get("queue_full", 0) == count
    return counters.tx_drops.get("queue_full", 0)


def test_full_memory_ring(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    rig = RIGS["memory"](tmp_path)
    switch.attach(rig.open({"slots": "128"}))
    assert overflow(switch, inside, rig, 1000) == 1000 - 127
    assert rig.receive(switch, 127) == [frame(n, 100) for n in range(127)]
    switch.send(inside, [frame(1)])
    assert rig.receive(switch, 1) == [frame(1)]


def test_full_memory_ring_towards_the_switch(switch: Switch, tmp_path: Path) -> None:
    """Nobody serves a port that no configuration names: its ring takes what fits."""
    attached = switch.attach(RIGS["memory"](tmp_path).open({"slots": "128"}), publish=False)
    accepted = sum(switch.engine.memory_put(attached.slot, frame(n)) for n in range(200))
    assert accepted == 127
    assert switch.counters(attached).rx_frames == 0
    switch.publish()
    wait_until(lambda: switch.counters(attached).rx_frames == 127, 10, "the ring is read")


@pytest.mark.parametrize("name", ["pipe", "vale"])
def test_full_pipe(name: str, switch: Switch, inside: Attached, tmp_path: Path) -> None:
    """A pipe waits before it drops, a port of a VALE switch does not; both count what they drop."""
    with contextlib.closing(RIGS[name](tmp_path)) as rig:
        switch.attach(rig.open({"slots": "128"}))
        assert overflow(switch, inside, rig, 1000) == 1000 - 127
        assert rig.receive(switch, 127) == [frame(n, 100) for n in range(127)]
        switch.send(inside, [frame(1)])
        assert rig.receive(switch, 1) == [frame(1)]


def test_full_inbox(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    """A program that does not read loses what does not fit; nobody waits for it."""
    fits = (256 << 10) // 112  # 100 bytes, a record's head, and as many as make words of it
    with contextlib.closing(RIGS["client"](tmp_path)) as rig:
        switch.attach(rig.open({"inbox_bytes": str(256 << 10)}))
        assert overflow(switch, inside, rig, 4000) == 4000 - fits
        assert rig.receive(switch, fits) == [frame(n, 100) for n in range(fits)]
        switch.send(inside, [frame(1)])
        assert rig.receive(switch, 1) == [frame(1)]


def test_full_file(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    rig = PcapRig(tmp_path)
    switch.attach(rig.open({"out_bytes_max": str(24 + 10 * 116 + 115)}))
    assert overflow(switch, inside, rig, 100) == 90
    assert rig.receive(switch, 10) == [frame(n, 100) for n in range(10)]


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [
        (AfPacketV1Rig, {}, 3000),
        (AfPacketV1RingRig, {}, 3000),
        (AfPacketRig, {}, 3000),
        (AfPacketV2RingRig, {}, 3000),
        (AfPacketV3Rig, {}, 3000),
        (AfPacketV3RingRig, {}, 3000),
        # A TAP has room for 8 MB until somebody takes its frames; then each batch waits for 2 ms.
        (TapRig, {}, 30000),
        (TunRig, {}, 30000),
    ],
)
def test_full_interface_queue(
    kind: type[AfPacketRig | TapRig],
    options: dict[str, str],
    count: int,
    switch: Switch,
    inside: Attached,
    tmp_path: Path,
) -> None:
    with contextlib.closing(kind(tmp_path)) as rig:
        attached = switch.attach(rig.open(options))
        with rig.slow():
            assert overflow(switch, inside, rig, count) > 0
            assert switch.status(attached).link_up, "full is not down"
        # It is waited for again once it moves.
        rig.receive(switch, 0)
        last = maker(rig)(7)
        switch.send(inside, [last])
        wait_until(lambda: last in rig.peer.receive(), 10, "the queue moves again")


@pytest.mark.root
@pytest.mark.parametrize("name", NETDEV_RIGS)
def test_full_receive_ring(name: str, switch: Switch, inside: Attached, tmp_path: Path) -> None:
    """Nobody reads: what does not fit is counted by the kernel, the rest comes in order."""
    count = 30000
    with contextlib.closing(NETDEV_RIGS[name](tmp_path)) as rig:
        attached, make = rig.open(rig.short_ring), maker(rig)
        for n in range(count):
            rig.peer.send(make(n))
        lost_by_netdev = 0
        if isinstance(rig, TapRig):
            lost_by_netdev = rig.net.counter(rig.net.switch, rig.name, "tx_dropped")
        switch.attach(attached)

        taken: list[bytes] = []

        def accounted() -> bool:
            while (data := switch.engine.memory_take(inside.slot)) is not None:
                taken.append(data)
            switch.status(attached)  # folds the kernel's counters in
            counters = switch.counters(attached)
            return counters.rx_frames + counters.kernel_drops + lost_by_netdev == count

        wait_until(accounted, 20, "every frame is received or counted as lost")
        switch.settle()
        accounted()
        counters = switch.counters(attached)
        assert 0 < counters.rx_frames < count
        excess = switch.counters(inside).tx_drops
        assert set(excess) <= {"queue_full"}, "the opposite ring may overflow, nothing else"
        assert len(taken) + excess.get("queue_full", 0) == counters.rx_frames
        at = rig.number_at
        numbers = [int.from_bytes(data[at : at + 4], "big") for data in taken]
        assert numbers == sorted(set(numbers))


@pytest.mark.root
@pytest.mark.parametrize("name", NETDEV_RIGS)
def test_link_down_and_up(name: str, switch: Switch, inside: Attached, tmp_path: Path) -> None:
    with contextlib.closing(NETDEV_RIGS[name](tmp_path)) as rig:
        attached, make = switch.attach(rig.open()), maker(rig)
        rig.link(False)
        wait_until(lambda: not switch.status(attached).link_up, 5, "the status says so")
        switch.send(inside, [make(n) for n in range(10)])
        switch.settle()
        wait_until(lambda: switch.counters(inside).rx_frames == 10, 5, "received")
        switch.settle()
        counters = switch.counters(attached)
        assert (counters.tx_frames, counters.tx_drops) == (0, {"link_down": 10})
        rig.link(True)
        wait_until(lambda: switch.status(attached).link_up, 5, "the status says so")
        switch.send(inside, [make(n) for n in range(10)])
        assert rig.receive(switch, 10) == [make(n) for n in range(10)]
        rig.send(switch, [make(11, source=3)])
        assert switch.take(inside, 1) == [make(11, source=3)]


# --- pcap and null -------------------------------------------------------------------------------


def test_pcap_refuses_to_leave_its_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.pcap").write_bytes(b"")
    (tmp_path / "data" / "link.pcap").symlink_to(tmp_path / "secret.pcap")
    rig = PcapRig(tmp_path / "data")
    for name in ("../secret.pcap", str(tmp_path / "secret.pcap"), "link.pcap", "", ".", "a/b"):
        for option in ("in", "out"):
            with pytest.raises(NativeError):
                rig.open({option: name})
    assert (tmp_path / "secret.pcap").read_bytes() == b""


def test_pcap_replays_its_own_capture(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    rig = PcapRig(tmp_path)
    switch.attach(rig.open())
    frames = corpus()
    switch.send(inside, frames)
    rig.receive(switch, len(frames))
    switch.remove(rig.port)
    os.rename(tmp_path / "out.pcap", tmp_path / "again.pcap")
    assert pcap_read(tmp_path / "again.pcap") == frames
    switch.attach(rig.open({"in": "again.pcap"}))
    assert switch.take(inside, len(frames)) == frames


def test_null_discards(switch: Switch, inside: Attached) -> None:
    null = switch.add("null", "null")
    frames = corpus()
    switch.send(inside, frames)
    wait_until(lambda: switch.counters(inside).rx_frames == len(frames), 10, "received")
    switch.settle()
    counters = switch.counters(null)
    assert (counters.tx_frames, counters.tx_bytes) == (len(frames), sum(map(len, frames)))
    assert (counters.rx_frames, counters.tx_drops) == (0, {})


def test_null_generates(switch: Switch, inside: Attached) -> None:
    """Paced, of the asked length, from each address in turn."""
    options = {"generate_frames_per_s": "2000", "generate_bytes": "73", "generate_macs": "300"}
    null = switch.add("null", "null", options)
    frames = switch.take(inside, 600)
    switch.remove(null)
    switch.settle()
    frames += switch.take(inside, 0)
    assert {len(data) for data in frames} == {73}
    sources = [int.from_bytes(data[9:12], "big") for data in frames]
    assert sources == [n % 300 for n in range(len(frames))]
    assert len({data[:6] for data in frames}) == 1
    assert switch.departed.rx_frames == len(frames)
    assert switch.departed.learned == 300
