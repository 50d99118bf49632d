"""`python -m tests.bench.rule_updates` (as root): how soon frames meet a rule that was changed.

One rule among many of a real appliance is changed from allow to drop and back, over HTTP, while
frames go from one host to another all the time. Each frame bears the time it was sent at: the
first one that the change decided, sent behind the request's beginning, is what was waited for.
It is found between two frames, so figures are exact to the pause between these.

Then a small set is replaced as a whole, one call after the other, for some seconds.

    --rules N --updates N --shape acl|fw|ipc --swaps SECONDS
"""

from __future__ import annotations

import argparse
import statistics
import struct
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench import rulesets
from tests.bench.rulesets import ANY_PORT, FiveTuple
from tests.support.appliance import Appliance
from tests.support.topology import Topology, wait_until
from tests.support.wire import HostPort

NAME = "rule update"
PAUSE_S = 0.0001
ALIKE = 5
REQUEST_S = 120.0
SETTLE_S = 0.05  # behind an answer, until the next change
SET = "bench"
SWAPPED = 10  # rules of the set that is replaced as a whole
# Locally administered, and of an ethertype of experiments (IEEE 802): no other rule is about it.
DST, SRC = bytes.fromhex("020000bb0002"), bytes.fromhex("020000bb0001")
HEAD = DST + SRC + bytes.fromhex("88b5")
STAMP = struct.Struct("=Q")


@dataclass
class Stream:
    """Frames on their way: when each was sent, and which of them arrived."""

    sent: list[int] = field(default_factory=list)
    arrived: set[int] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def send(self, port: HostPort) -> None:
        while not self.stop.is_set():
            now = time.monotonic_ns()
            port.send(HEAD + STAMP.pack(now) + bytes(38))
            self.sent.append(now)
            time.sleep(PAUSE_S)

    def receive(self, port: HostPort) -> None:
        while not self.stop.is_set():
            for frame in port.receive():
                if frame.startswith(HEAD):
                    self.arrived.add(STAMP.unpack_from(frame, len(HEAD))[0])
            time.sleep(0.001)

    def changed(self, since: int, passes: bool) -> int | None:
        """When the first frame was sent, from ``since`` on, that the new rule decided."""
        sent = self.sent[bisect_left(self.sent, since) :]
        met = [(at in self.arrived) == passes for at in sent]
        for n, at in enumerate(sent):
            if all(met[n : n + ALIKE]):  # not one that was lost elsewhere
                return at
        return None


@contextmanager
def flowing(net: Topology) -> Iterator[Stream]:
    """Frames from the first host to the second as long as the block runs."""
    stream = Stream()
    ends = [HostPort(net.hosts[n], net.host_ifs[n]) for n in range(2)]
    threads = [
        threading.Thread(target=stream.send, args=(ends[0],)),
        threading.Thread(target=stream.receive, args=(ends[1],)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield stream
    finally:
        stream.stop.set()
        for thread in threads:
            thread.join()
        for end in ends:
            end.close()


def body(rule: FiveTuple) -> dict[str, Any]:
    """A rule of a benchmark's set as the API takes it; drops."""
    ip: dict[str, Any] = {"src": str(rule.src), "dst": str(rule.dst)}
    if rule.proto is not None:
        ip["proto"] = rule.proto
    match: dict[str, Any] = {"ip": ip}
    l4 = {
        name: [f"{low}-{high}" if low != high else str(low)]
        for name, (low, high) in (("sport", rule.sport), ("dport", rule.dport))
        if (low, high) != ANY_PORT
    }
    if l4 and rule.proto in (None, 6, 17):
        match["l4"] = l4
    return {"match": match, "action": {"type": "drop"}}


def change(action: str, priority: int) -> dict[str, Any]:
    """The rule that is changed: it stands in the middle of the others."""
    match = {"eth": {"src": SRC.hex(":"), "dst": DST.hex(":")}}
    return {"spec": {"priority": priority, "match": match, "action": {"type": action}}}


@dataclass(frozen=True)
class Update:
    """Milliseconds from the request's beginning to the first frame, and to the answer."""

    frames_ms: float
    answer_ms: float


def measure(rules: Sequence[FiveTuple], updates: int) -> list[Update]:
    """The whole appliance with these rules, changed that often."""
    with Topology(addresses=False) as net, Appliance(net, net.switch) as switch:
        switch.request_s = REQUEST_S
        switch.bridge("br0", *net.switch_ifs)
        listed = [{"id": f"r{n}", "priority": n, **body(rule)} for n, rule in enumerate(rules, 1)]
        middle = len(listed) // 2
        listed.append({"id": "it", **change("allow", middle)["spec"]})
        put(switch, listed)
        with flowing(net) as stream:
            time.sleep(SETTLE_S)
            return [
                _update(switch, stream, "drop" if n % 2 == 0 else "allow", middle)
                for n in range(updates)
            ]


def swaps(seconds: float) -> list[float]:
    """Milliseconds that each took; no rule of a set is one of the set before."""
    found: list[float] = []
    with Topology(addresses=False) as net, Appliance(net, net.switch) as switch:
        switch.bridge("br0", *net.switch_ifs)
        with flowing(net):
            end = time.monotonic() + seconds
            while (began := time.monotonic()) < end:
                rules = [
                    {"id": f"v{len(found)}-{n}", **change("allow", n)["spec"]}
                    for n in range(SWAPPED)
                ]
                switch.put_rules(SET, rules)
                found.append((time.monotonic() - began) * 1e3)
    return found


def put(switch: Appliance, rules: Sequence[dict[str, Any]]) -> None:
    """All of them, until they are in force."""
    spec = {"attach": [{"bridge": "br0", "direction": "ingress"}], "rules": rules}
    switch.call("PUT", f"/rulesets/{SET}", {"spec": spec})

    def ready() -> bool:
        status = switch.call("GET", f"/rulesets/{SET}")["status"]
        return {"type": "Ready", "status": "True"}.items() <= status["conditions"][0].items()

    wait_until(ready, REQUEST_S, "the rules are in force")


def _update(switch: Appliance, stream: Stream, action: str, priority: int) -> Update:
    began = time.monotonic_ns()
    switch.call("PUT", f"/rulesets/{SET}/rules/it", change(action, priority))
    answered = time.monotonic_ns()
    time.sleep(SETTLE_S)
    met = stream.changed(began, action == "allow")
    if met is None:
        raise RuntimeError(f"no frame met the rule within {SETTLE_S} s of the answer")
    return Update((met - began) / 1e6, (answered - began) / 1e6)


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.rule_updates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--shape", choices=rulesets.SHAPES, default="acl")
    parser.add_argument("--swaps", type=float, default=5.0)
    chosen = parser.parse_args(argv)
    found = measure(rulesets.generate(chosen.shape, chosen.rules), chosen.updates)
    one = f"one of {chosen.rules:,} ({chosen.shape})"
    report(f"{one}, to frames", [update.frames_ms for update in found])
    report(f"{one}, to the answer", [update.answer_ms for update in found])
    report(f"a set of {SWAPPED} replaced", swaps(chosen.swaps))
    return 0


def report(what: str, values: Sequence[float]) -> None:
    sys.stdout.write(
        f"{NAME}, {what}: median {statistics.median(values):.2f} ms, "
        f"p99 {percentile(values, 0.99):.2f} ms, worst {max(values):.2f} ms of {len(values)}\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
