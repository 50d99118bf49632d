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
from tests.support.oracles import PortRules, PortVlan, Switch
from tests.support.topology import Topology
from tests.support.wire import END_MARK, Wire

Delivery = list[list[bytes]]  # by host

# Sent before waiting for what they became: OVS leaves its sockets the default receive buffer of
# 208 KB, which holds about 90 full-sized frames.
WINDOW_FRAMES = 64


@dataclass(frozen=True)
class Difference:
    """An intended difference: where `applies(sent, host)` holds, the two may disagree about what
    that host receives of that frame.

    `project` maps a delivered frame to what must still be equal (a differing field masked);
    None: the frame's deliveries are not compared at all.
    """

    why: str
    applies: Callable[[Sent, int], bool]
    project: Callable[[bytes], bytes] | None = None


@dataclass
class Outcome:
    """What compare() found. ``excused`` counts deliveries that did differ, by the reason why."""

    frames: int = 0
    deliveries: int = 0
    mismatches: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)


def deliver(
    net: Topology,
    switch: Switch,
    batches: Sequence[Batch],
    vlans: Sequence[PortVlan] | None = None,
    rules: Sequence[PortRules] | None = None,
) -> list[Delivery]:
    """Sends all batches through a running switch; one delivery for each batch.

    vlans or rules, if any, are what the switch's ports were given: they tell who can be reached.
    """
    ports = range(len(net.hosts))
    if vlans is not None:
        marks = [vlan_marks(port, vlans) for port in ports]
    else:
        marks = [marks_to_each(port, rules or [PortRules()] * len(ports)) for port in ports]
    result = []
    with Wire(net) as wire:
        _reach(wire, marks)
        rounds = itertools.count()
        for number, batch in enumerate(batches):
            delivery: Delivery = [[] for _ in net.hosts]
            for first in range(0, len(batch.frames), WINDOW_FRAMES):
                frames = [sent.data for sent in batch.frames[first : first + WINDOW_FRAMES]]
                # The second marks are for OVS: of what it received together it sends flow by
                # flow, so that the first ones may overtake a frame that was sent before them.
                for part in (frames, []):
                    unique = next(rounds).to_bytes(4, "big")
                    ends = [(frame[:-4] + unique, hosts) for frame, hosts in marks[batch.port]]
                    try:
                        received = wire.exchange(batch.port, part, ends)
                    except TimeoutError as error:
                        raise TimeoutError(f"{switch.name}, batch {number}: {error}") from None
                    for host, got in enumerate(received):
                        delivery[host] += got
            result.append(delivery)
            switch.settle()
    return result


def vlan_marks(port: int, vlans: Sequence[PortVlan]) -> list[tuple[bytes, frozenset[int]]]:
    """Broadcasts from one port that together reach every port that any of its frames can reach:
    one for each VLAN that the port shares with another port."""
    mine = vlans[port]
    marks = []
    for vid in sorted(mine.vlans()):
        others = frozenset(i for i, vlan in enumerate(vlans) if i != port and vid in vlan.vlans())
        untagged = mine.mode != "trunk" and vid == mine.pvid
        if others:
            tags = b"" if untagged else tag(TPID_C, vid)
            marks.append((_mark(BROADCAST, port, vid, tags), others))
    return marks


def marks_to_each(port: int, rules: Sequence[PortRules]) -> list[tuple[bytes, frozenset[int]]]:
    """Unicast frames from one port to every other that it may speak to: a port may be spared
    flooded frames, but not what is for a host behind it."""
    return [
        (_mark(_mark_source(other), port, other), frozenset({other}))
        for other, rule in enumerate(rules)
        if other != port and not (rule.isolated and rules[port].isolated)
    ]


def _mark_source(port: int) -> bytes:
    return bytes([2, 0, 0xFF, 0, 0, port])


def _mark(destination: bytes, port: int, number: int, tags: bytes = b"") -> bytes:
    """The last 16 bytes are different in every mark; deliver() replaces the last 4."""
    identity = bytes([port, 0]) + number.to_bytes(2, "big") + bytes(4)
    return destination + _mark_source(port) + tags + b"\x88\xb5" + bytes(30) + END_MARK + identity


def _reach(wire: Wire, marks: Sequence[Sequence[tuple[bytes, frozenset[int]]]]) -> None:
    """Waits until the switch forwards between all ports: some take a moment to start.

    Every port speaks first, so that it can be reached where it gets no flooded frames.
    """
    deadline = time.monotonic() + 15
    while True:
        for port in range(len(marks)):
            wire.exchange(port, [_mark(BROADCAST, port, 0xFFFF)], [])
        try:
            for port, ends in enumerate(marks):
                wire.exchange(port, [], ends)
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
        for host in range(len(ours[number])):
            outcome.deliveries += len(theirs[number][host])
            excuses = _excuses(batch, host, differences)
            left = _normalise(ours[number][host], excuses)
            right = _normalise(theirs[number][host], excuses)
            outcome.excused.update(_excused(ours[number][host], theirs[number][host], excuses))
            for text in _differ(left, right, batch):
                outcome.mismatches.append(f"batch {number} from {batch.port} to {host}: {text}")
    return outcome


def _excuses(
    batch: Batch, host: int, differences: Sequence[Difference]
) -> dict[int, list[Difference]]:
    """What may differ at a host, by the serial number of what was sent."""
    found: dict[int, list[Difference]] = {}
    for sent in batch.frames:
        serial = serial_of(sent.data)
        if serial is not None:
            some = [difference for difference in differences if difference.applies(sent, host)]
            if some:
                found[serial] = some
    return found


def _normalise(frames: Sequence[bytes], excuses: dict[int, list[Difference]]) -> list[bytes]:
    """The frames that must be equal, with the fields masked that need not be."""
    if not excuses:
        return list(frames)
    kept = []
    for frame in frames:
        serial = serial_of(frame)
        some = excuses.get(serial, []) if serial is not None else []
        if all(excuse.project is not None for excuse in some):
            for excuse in some:
                assert excuse.project is not None
                frame = excuse.project(frame)
            kept.append(frame)
    return kept


def _excused(
    ours: Sequence[bytes], theirs: Sequence[bytes], excuses: dict[int, list[Difference]]
) -> list[str]:
    """The reasons of the excuses that were needed, one for each frame that does differ."""
    if not excuses or ours == theirs:
        return []
    left, right = Counter(ours), Counter(theirs)
    reasons = []
    for serial in {serial_of(frame) for frame in (left - right) + (right - left)}:
        if serial is not None:
            reasons += [excuse.why for excuse in excuses.get(serial, [])]
    return reasons


def _differ(ours: Sequence[bytes], theirs: Sequence[bytes], batch: Batch) -> list[str]:
    """Sentences about frames that only one side has and about flows in another order."""
    if ours == theirs:
        return []
    left, right = Counter(ours), Counter(theirs)
    by_frame: dict[int | bytes, tuple[list[bytes], list[bytes]]] = defaultdict(lambda: ([], []))
    for side, frames in ((0, left - right), (1, right - left)):
        for frame in frames.elements():
            serial = serial_of(frame)
            by_frame[frame if serial is None else serial][side].append(frame)
    texts = [
        f"{_sent(identity, batch)}: ours {_heads(mine)}, theirs {_heads(others)}"
        for identity, (mine, others) in by_frame.items()
    ]
    if not texts:
        flows_left, flows_right = _flows(ours), _flows(theirs)
        texts = [
            f"order of flow {flow.hex()} differs"
            for flow, frames in flows_left.items()
            if frames != flows_right[flow] and not _as_sent(frames)
        ]
    return texts


def _as_sent(frames: Sequence[bytes]) -> bool:
    """Each has a number and they ascend. Open vSwitch sends a batch flow by flow, and knows more
    fields of a flow than we do here: what it overtakes is its own affair."""
    serials = [serial_of(frame) for frame in frames]
    numbers = [serial for serial in serials if serial is not None]
    return len(numbers) == len(serials) and numbers == sorted(numbers)


def _flows(frames: Sequence[bytes]) -> dict[bytes, list[bytes]]:
    """Frames by addresses and what follows them: ethertype, or tag and ethertype or inner tag."""
    flows: dict[bytes, list[bytes]] = defaultdict(list)
    for frame in frames:
        flows[frame[:18] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else frame[:14]].append(
            frame
        )
    return flows


def _sent(identity: int | bytes, batch: Batch) -> str:
    """What was sent, of a frame known by its serial number or (a short one) as delivered."""
    for sent in batch.frames:
        if isinstance(identity, int) and serial_of(sent.data) == identity:
            return f"sent {sent.kind} {_heads([sent.data])}"
    return "a frame without number"


def _heads(frames: Sequence[bytes]) -> str:
    """Length and first bytes of each; "nothing"."""
    return " and ".join(f"[{len(f)}] {f[:26].hex(' ', 2)}" for f in frames) or "nothing"
