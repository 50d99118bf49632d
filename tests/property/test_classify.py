"""The classifier against the naive model: the same rules met, by every frame, after every change.

Rules go the way they go in the appliance: as the wire has them, compiled by fastpath/rules.py,
with groups and everything else expanded to alternatives. Keys are parsed from the frames by C.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fastpath.protocol import WireAction, WireGroup, WireRule, WireTerm
from fastpath.rules import Compiler, Names
from tests.support import packets
from tests.support.classify_model import Frame, in_order, met
from tests.support.core import core

PAIRS = 1_000_000
SEEDS = 10
FRAMES = 500
VERSIONS = 200  # of a rule set, for each seed
assert SEEDS * FRAMES * VERSIONS >= PAIRS

IN_PORTS = {"p1": 1, "p2": 2, "p3": 300}
STATES = {"": 0, "new": 1, "established": 2, "related": 4, "invalid": 8}
Masks = tuple[tuple[bytes, bytes], ...]


# --- rules that meet the frames of packets.py ----------------------------------------------------


class Rules:
    """Draws rules from the pools that frames are drawn from."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw

    def _exact(self, values: list[bytes]) -> Masks:
        some = self.draw.sample(values, min(len(values), self.draw.choice((1, 1, 2, 3))))
        return tuple((value, b"\xff" * len(value)) for value in some)

    def _masked(self, values: list[bytes]) -> Masks:
        """Prefixes mostly, else any mask."""
        return tuple((value, self._mask(len(value))) for value, _ in self._exact(values))

    def _mask(self, size: int) -> bytes:
        bits = self.draw.choice((8 * size, 8 * size, 8 * size - 1, 4 * size, 8, 0))
        if self.draw.random() < 0.15:
            return self.draw.randbytes(size)
        return ((1 << 8 * size) - (1 << (8 * size - bits))).to_bytes(size, "big")

    def _numbers(self, numbers: list[int], size: int = 1) -> Masks:
        values = [number.to_bytes(size, "big") for number in numbers]
        return self._exact(values) if self.draw.random() < 0.8 else self._masked(values)

    def _ranges(self) -> tuple[tuple[int, int], ...]:
        def one() -> tuple[int, int]:
            first, last = self.draw.choice(packets.PORTS), self.draw.choice(packets.PORTS)
            how = self.draw.randrange(4)
            return (
                (first, first),
                (0, first),
                (first, 65535),
                (min(first, last), max(first, last)),
            )[how]

        return tuple(one() for _ in range(self.draw.choice((1, 1, 2))))

    def group(self, name: str) -> WireGroup:
        kind = name[0]
        if kind == "p":
            return WireGroup(name, (), tuple(r for _ in range(4) for r in self._ranges()))
        values = packets.V4 + packets.V6 if kind == "a" else packets.SOURCES
        return WireGroup(name, tuple(m for _ in range(6) for m in self._masked(values)), ())

    def _term(self, field: str) -> WireTerm:
        draw, pool = self.draw, packets
        grouped = draw.random() < 0.2
        match field:
            case "in_port":
                return WireTerm(field, words=tuple(draw.sample(list(IN_PORTS), draw.randint(1, 2))))
            case "eth_src":
                if grouped:
                    return WireTerm(field, group=draw.choice(("m1", "m2")))
                return WireTerm(field, self._masked(pool.SOURCES))
            case "eth_dst":
                last = bytes(5) + bytes([draw.randrange(pool.CLASSES)])
                return WireTerm(field, ((last, bytes(5) + b"\xff"),))
            case "eth_type":
                return WireTerm(field, self._numbers([pool.IPV4, pool.IPV6, pool.ARP, 0x88B5], 2))
            case "vlan_tagged":
                return WireTerm(field, ((bytes([draw.randrange(2)]), b"\xff"),))
            case "vlan_vid":
                return WireTerm(field, self._numbers([0, *pool.VIDS], 2))
            case "vlan_pcp":
                return WireTerm(field, self._numbers(list(range(8))))
            case "ip_version":
                return WireTerm(field, self._numbers([4, 6]))
            case "ip_src" | "ip_dst":
                if grouped:
                    return WireTerm(field, group=draw.choice(("a1", "a2")))
                return WireTerm(field, self._masked(pool.V4 + pool.V6))
            case "ip_proto":
                return WireTerm(field, self._numbers([1, 6, 17, 47, 58]))
            case "ip_dscp":
                return WireTerm(field, tuple((v, m) for v, m in self._numbers(pool.DSCPS)))
            case "ip_ttl":
                return WireTerm(field, self._numbers(pool.TTLS))
            case "fragment":
                return WireTerm(field, words=(draw.choice(("none", "first", "later", "any")),))
            case "l4_src" | "l4_dst":
                if grouped:
                    return WireTerm(field, group=draw.choice(("p1", "p2")))
                return WireTerm(field, ranges=self._ranges())
            case "tcp_flags":
                return WireTerm(field, self._numbers(pool.TCP_FLAGS))
            case "icmp_type" | "icmp_code":
                return WireTerm(field, self._numbers([0, 1, 3, 8, 11, 13]))
            case "icmpv6_type" | "icmpv6_code":
                return WireTerm(field, self._numbers([0, 1, 2, 128, 129, 135]))
            case "arp_op":
                return WireTerm(field, self._numbers([1, 2], 2))
            case "arp_spa" | "arp_tpa":
                return WireTerm(field, self._masked(pool.V4))
            case "arp_sha" | "arp_tha":
                return WireTerm(field, self._masked(pool.SOURCES))
        return WireTerm("state", words=tuple(draw.sample([*STATES][1:], draw.randint(1, 2))))

    FIELDS = (
        *("ip_src", "ip_dst", "l4_src", "l4_dst", "ip_proto") * 4,
        *("in_port", "state", "fragment", "tcp_flags", "eth_src", "eth_type", "vlan_vid") * 2,
        *("eth_dst", "vlan_tagged", "vlan_pcp", "ip_version", "ip_dscp", "ip_ttl"),
        *("icmp_type", "icmp_code", "icmpv6_type", "icmpv6_code"),
        *("arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"),
    )

    def rule(self, number: int) -> WireRule:
        fields = dict.fromkeys(self.draw.choices(self.FIELDS, k=self.draw.choice((1, 2, 2, 3, 4))))
        return WireRule(
            *("fw", f"r{number}", self.draw.choice((-5, 0, 0, 1, 2, 3, 1000))),
            tuple(self._term(field) for field in fields),
            *(WireAction("drop"), False, 0),
        )


def frames_of(seed: int, count: int) -> Iterator[Frame]:
    draw = random.Random(seed)
    for made in packets.Packets(seed).take(count):
        port, state = draw.choice(list(IN_PORTS)), draw.choice(list(STATES))
        yield Frame(made.data, port, draw.choice((0, 0, 1, 10)), state)


# --- both sides ----------------------------------------------------------------------------------


class Both:
    """A rule set as the model has it and as a classifier, and frames to compare them with."""

    def __init__(self, frames: list[Frame]) -> None:
        self.ffi, self.lib = core()
        self.frames = frames
        self.keys = self.ffi.new("struct flow_key[]", len(frames))
        for key, frame in zip(self.keys, frames, strict=True):
            self._parse(frame, self.ffi.addressof(key))
        self.names = Names(ports=IN_PORTS)
        self.compiler = Compiler(self.names)
        self.rules: dict[int, WireRule] = {}
        self.version = self._freed(self.lib.shim_classifier_empty())
        self.before = self.version
        self.before_said = self._asked(self.version)
        self.generation = 0
        self.cache = self.ffi.gc(self.lib.shim_cache_create(7), self.lib.shim_cache_destroy)

    def _freed(self, classifier: Any) -> Any:
        assert classifier != self.ffi.NULL
        return self.ffi.gc(classifier, self.lib.shim_classifier_free)

    def _parse(self, frame: Frame, key: Any) -> None:
        self.lib.shim_parse_flow(frame.data, [len(frame.data)], 1, frame.assigned, key)
        key.in_port = IN_PORTS[frame.in_port]
        key.state = STATES[frame.state]

    def change(self, removed: list[int], added: dict[int, WireRule]) -> None:
        """One update; the version before stays to be asked once more."""
        configs = self.ffi.new("struct rule_config[]", max(1, len(added)))
        kept = []
        for config, (slot, new) in zip(configs, added.items(), strict=False):
            raw = self.compiler.matches(new)
            kept.append(self.ffi.from_buffer("struct rule_match[]", bytearray(raw)))
            config.slot, config.priority, config.id = slot, new.priority, new.id.encode()
            config.match_count, config.matches = len(kept[-1]), kept[-1]
        made = self.lib.shim_classifier_update(
            self.version, removed, len(removed), configs, len(added)
        )
        self.before, self.before_said = self.version, self._asked(self.version)
        self.version = self._freed(made)
        self.rules = {slot: r for slot, r in self.rules.items() if slot not in removed} | added
        self.generation += 1

    def _asked(self, classifier: Any) -> list[int]:
        out = self.ffi.new("int32_t[]", len(self.frames) * self.lib.SHIM_MET)
        self.lib.shim_classify(classifier, self.keys, len(self.frames), out)
        return list(out)

    def _cached(self) -> list[int]:
        out = self.ffi.new("int32_t[]", len(self.frames))
        self.lib.shim_classify_cached(
            *(self.version, self.cache, self.generation, self.keys, len(self.frames), out)
        )
        return list(out)

    def _expected(self) -> list[int]:
        slots = {r.id: slot for slot, r in self.rules.items()}
        ordered = in_order(self.rules.values())
        said: list[int] = []
        for frame in self.frames:
            found = met(frame, ordered, self.names.groups)
            for _ in range(self.lib.SHIM_MET):
                one = next(found, None)
                said.append(self.lib.SHIM_NONE if one is None else slots[one.id])
        return said

    def check(self) -> int:
        """Returns how many frames met a rule."""
        expected = self._expected()
        assert self._asked(self.version) == expected
        first = expected[:: self.lib.SHIM_MET]
        assert self._cached() == first, "learning"
        assert self._cached() == first, "from the cache"
        assert self._asked(self.before) == self.before_said, "a version that a change touched"
        return sum(slot != self.lib.SHIM_NONE for slot in first)

    def size(self) -> tuple[int, int, int]:
        out = self.ffi.new("uint32_t[3]")
        self.lib.shim_classifier_size(self.version, out)
        return out[0], out[1], out[2]


def changed(both: Both, draw: Rules, slots: int) -> None:
    """Some rules come, are replaced or go; now and then a group changes, with all its rules."""
    if draw.draw.random() < 0.1:
        name = draw.draw.choice(list(both.names.groups))
        both.names.groups[name] = draw.group(name)
        touched = {
            slot: r for slot, r in both.rules.items() if any(t.group == name for t in r.match)
        }
        both.change([], touched)
        return
    chosen = draw.draw.sample(range(slots), draw.draw.choice((1, 1, 1, 2, 5)))
    removed = [slot for slot in chosen if slot in both.rules and draw.draw.random() < 0.4]
    both.change(removed, {slot: draw.rule(slot) for slot in chosen if slot not in removed})


def started(frames: list[Frame], draw: random.Random, rules: int) -> tuple[Both, Rules]:
    drawn = Rules(draw)
    both = Both(frames)
    for name in ("a1", "a2", "m1", "m2", "p1", "p2"):
        both.names.groups[name] = drawn.group(name)
    both.change([], {slot: drawn.rule(slot) for slot in range(rules)})
    return both, drawn


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_million_pairs(seed: int) -> None:
    slots = (12, 12, 20, 40)[seed % 4]
    frames = list(frames_of(1000 + seed, FRAMES))
    both, draw = started(frames, random.Random(seed), slots // 2)
    met_a_rule = 0
    for _ in range(VERSIONS):
        met_a_rule += both.check()
        changed(both, draw, slots)
    assert FRAMES * VERSIONS * 0.2 < met_a_rule < FRAMES * VERSIONS, "the sets say something"


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 2**16), st.integers(0, 8))
def test_changes(draw: random.Random, seed: int, rules: int) -> None:
    both, drawn = started(list(frames_of(seed, 30)), draw, rules)
    for _ in range(4):
        met_a_rule = both.check()
        event(f"{min(9, 10 * met_a_rule // 30)} of 10 frames meet a rule")
        changed(both, drawn, 8)


def test_a_group_of_thousands_changes() -> None:
    """A rule of thousands of alternatives is replaced by one of others; the rest stays."""
    both, drawn = started(list(frames_of(5, FRAMES)), random.Random(5), 10)
    source = WireTerm("ip_src", group="a1")
    both.change([], {50: replace(drawn.rule(50), match=(source,), priority=-9)})
    for last in (0, 1, 2):
        hosts = [bytes([10, n >> 8 & 0xFF, n & 0xFF, last]) for n in range(3000)]
        masks = tuple((host, b"\xff" * 4) for host in (*hosts, *packets.V4[last::2]))
        both.names.groups["a1"] = WireGroup("a1", masks, ())
        both.change([], {50: both.rules[50]})
        assert both.check() > 0
        assert both.size()[1] >= len(masks)
    both.change([50], {})
    both.check()
    assert both.size()[1] < 1000
