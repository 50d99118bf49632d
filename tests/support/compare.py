"""Runs one corpus through two switches and compares what every host received.

Compared are, for every batch and host, the frames byte for byte (how often each came) and the
order within a flow (addresses and tags).
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support.corpus import BROADCAST, TPID_C, Batch, Sent, serial_of, tag
from tests.support.oracles import PortVlan, Switch
from tests.support.topology import Topology
from tests.support.wire import Wire

Delivery = list[list[bytes]]  # by host

# Sent before waiting for what they became: OVS leaves its sockets the default receive buffer of
# 208 KB, which holds about 90 full-sized frames.
WINDOW_FRAMES = 64


@dataclass(frozen=True)
class Difference:
    """An intended difference: for frames that `applies` holds for, the two may disagree.

    `project` maps a delivered frame to what must still be equal (a differing field masked);
    None: the frame's deliveries are not compared at all.
    """

    why: str
    applies: Callable[[Sent], bool]
    project: Callable[[bytes], bytes] | None = None


@dataclass
class Outcome:
    """What compare() found. ``excused`` counts sent frames whose deliveries did differ, by why."""

    frames: int = 0
    deliveries: int = 0
    mismatches: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


def deliver(
    net: Topology, switch: Switch, batches: Sequence[Batch], vlans: Sequence[PortVlan] | None
) -> list[Delivery]:
    """Sends all batches through a running switch; one delivery for each batch."""
    marks = [end_marks(port, len(net.hosts), vlans) for port in range(len(net.hosts))]
    result = []
    with Wire(net) as wire:
        _reach(wire, marks)
        rounds = itertools.count()
        for number, batch in enumerate(batches):
            delivery: Delivery = [[] for _ in net.hosts]
            for first in range(0, len(batch.frames), WINDOW_FRAMES):
                unique = next(rounds).to_bytes(4, "big")
                ends = [(frame[:-4] + unique, hosts) for frame, hosts in marks[batch.port]]
                frames = [sent.data for sent in batch.frames[first : first + WINDOW_FRAMES]]
                try:
                    received = wire.exchange(batch.port, frames, ends)
                except TimeoutError as error:
                    raise TimeoutError(f"{switch.name}, batch {number}: {error}") from None
                for host, got in enumerate(received):
                    delivery[host] += got
            result.append(delivery)
            switch.settle()
    return result


def end_marks(
    port: int, ports: int, vlans: Sequence[PortVlan] | None
) -> list[tuple[bytes, frozenset[int]]]:
    """Broadcasts from one port that together reach every port that any of its frames can reach:
    one without VLANs, else one for each VLAN that the port shares with another port."""
    source = bytes([2, 0, 0xFF, 0, 0, port])
    if vlans is None:
        ways = [(0, b"", frozenset(range(ports)) - {port})]
    else:
        mine = vlans[port]
        ways = []
        for vid in sorted(mine.vlans()):
            others = frozenset(
                i for i, vlan in enumerate(vlans) if i != port and vid in vlan.vlans()
            )
            untagged = mine.mode != "trunk" and vid == mine.pvid
            if others:
                ways.append((vid, b"" if untagged else tag(TPID_C, vid), others))
    return [
        (
            BROADCAST
            + source
            + tags
            + b"\x88\xb5"
            + bytes(30)
            + b"the end."
            + bytes([port, 0])
            + vid.to_bytes(2, "big")
            + bytes(4),
            hosts,
        )
        for vid, tags, hosts in ways
    ]


def _reach(wire: Wire, marks: Sequence[Sequence[tuple[bytes, frozenset[int]]]]) -> None:
    """Waits until the switch forwards between all ports: some take a moment to start."""
    deadline = time.monotonic() + 15
    for port, ends in enumerate(marks):
        while True:
            try:
                wire.exchange(port, (), ends)
                break
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
    wire.receive()


def compare(
    batches: Sequence[Batch],
    ours: Sequence[Delivery],
    theirs: Sequence[Delivery],
    differences: Sequence[Difference],
) -> Outcome:
    """Compares two lists of deliveries of the same batches; mismatches are sentences."""
    outcome = Outcome()
    for number, batch in enumerate(batches):
        outcome.frames += len(batch.frames)
        by_serial: dict[int, tuple[Sent, Difference]] = {}
        for sent in batch.frames:
            serial = serial_of(sent.data)
            for difference in differences:
                if serial is not None and difference.applies(sent):
                    by_serial[serial] = (sent, difference)
                    break
        differing: set[int] = set()
        for host in range(len(ours[number])):
            outcome.deliveries += len(theirs[number][host])
            left = _normalise(ours[number][host], by_serial)
            right = _normalise(theirs[number][host], by_serial)
            _note_excused(ours[number][host], theirs[number][host], by_serial, differing)
            for text in _differ(left, right, batch):
                outcome.mismatches.append(f"batch {number} from {batch.port} to {host}: {text}")
        outcome.excused.update(by_serial[serial][1].why for serial in differing)
    return outcome


def _normalise(frames: Sequence[bytes], excuses: dict[int, tuple[Sent, Difference]]) -> list[bytes]:
    """The frames that must be equal, with the fields masked that need not be."""
    if not excuses:
        return list(frames)
    kept = []
    for frame in frames:
        serial = serial_of(frame)
        excuse = excuses.get(serial) if serial is not None else None
        if excuse is None:
            kept.append(frame)
        elif excuse[1].project is not None:
            kept.append(excuse[1].project(frame))
    return kept


def _note_excused(
    ours: Sequence[bytes],
    theirs: Sequence[bytes],
    excuses: dict[int, tuple[Sent, Difference]],
    differing: set[int],
) -> None:
    """Collects the serial numbers of excused frames whose deliveries do differ."""
    left = Counter(frame for frame in ours if serial_of(frame) in excuses)
    right = Counter(frame for frame in theirs if serial_of(frame) in excuses)
    for frame in (left - right) + (right - left):
        serial = serial_of(frame)
        assert serial is not None
        differing.add(serial)


def _differ(ours: Sequence[bytes], theirs: Sequence[bytes], batch: Batch) -> list[str]:
    """Sentences about frames that only one side has and about flows in another order."""
    if ours == theirs:
        return []
    left, right = Counter(ours), Counter(theirs)
    texts = [f"only ours: {describe(frame, batch)}" for frame in left - right]
    texts += [f"only theirs: {describe(frame, batch)}" for frame in right - left]
    if not texts:
        flows_left, flows_right = _flows(ours), _flows(theirs)
        texts = [
            f"order of flow {flow.hex()} differs"
            for flow, frames in flows_left.items()
            if frames != flows_right[flow]
        ]
    return texts


def _flows(frames: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """Frames by addresses and what follows them: ethertype, or tag and ethertype or inner tag."""
    flows: dict[bytes, list[bytes]] = defaultdict(list)
    for frame in frames:
        flows[frame[:18] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else frame[:14]].append(
            frame
        )
    return flows


def describe(frame: bytes, batch: Batch) -> str:
    """Head of a delivered frame, and what was sent."""
    serial = serial_of(frame)
    text = f"{len(frame)} bytes {frame[:26].hex(' ', 2)}"
    for sent in batch.frames:
        if serial is not None and serial_of(sent.data) == serial:
            return f"{text} (sent: {sent.kind}, {sent.data[:26].hex(' ', 2)})"
    return f"{text} (no serial number)"
