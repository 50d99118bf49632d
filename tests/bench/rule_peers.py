"""`python -m tests.bench.rule_peers` (as root): what rules cost here and elsewhere, for the same
rules and as many flows inside them.

    here       the engine between memory ports (bench_rules.c): receiving, VLAN, learning, looking
               up, rules and sending, nothing subtracted
    OVS-DPDK   frames of a pcap file, again and again (net_pcap, infinite_rx), through the flows to
               a port that discards (net_null), on one core; what testpmd takes to move the same
               frames between the same two ports is subtracted
    nft        frames through a Linux bridge and its forward chain, sent by a packet socket; what
               the same takes without rules is subtracted; as a list, and as a hash set of exact
               tuples

    --rules N --shape acl|fw|ipc --flows N,N (of 1000, 10000, 100000) --rounds N --seconds S

The peers' costs are processor time of the threads at work, in nanoseconds a frame, so that what
else the machine does matters little. A peer that is not installed is named, with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import machine, rule_traces, rulesets, table
from tests.bench.cases import Sample
from tests.bench.peers import dpdk, missing
from tests.bench.peers import rules as peer
from tests.bench.results import Result
from tests.bench.rulesets import FiveTuple
from tests.support.oracles import LinuxBridge
from tests.support.probes import tool
from tests.support.topology import Topology, run
from tests.support.wire import in_netns

Say = Callable[[str], None]
NAME = "rules beside other switches"
OURS = "vswitch engine"
RULES = 10_000
FLOWS = (1_000, 100_000)
OVS = "OVS-DPDK, pcap to null"
CASE = "rules and VLANs in memory"
TARGET = 2.0
VID = 1
NFT_FRAMES = 20_000
NFT_ROUNDS = 3
NFT_LINEAR_MAX = 1_000  # rules: each costs tens of nanoseconds a frame


@dataclass(frozen=True)
class Row:
    """``ns``: of one frame, as the module says. ``note``: what else was seen."""

    subject: str
    rules: int
    flows: int
    ns: float
    note: str = ""


# --- nftables -------------------------------------------------------------------------------------


def _send_ns(net: Topology, frames: Sequence[bytes]) -> float:
    """Processor time of this thread for each frame: on a veth pair and a bridge all the work is
    done in the sender's context, or in softirqs that run on it."""

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((net.host_ifs[0], 0))
        return sock

    with in_netns(net.hosts[0], opened) as sock:
        began, count = time.thread_time_ns(), 0
        while count < NFT_FRAMES and time.thread_time_ns() - began < 5e9:
            sock.send(frames[count % len(frames)])
            count += 1
        return (time.thread_time_ns() - began) / count


@contextlib.contextmanager
def _bridge() -> Iterator[tuple[Topology, LinuxBridge]]:
    with Topology(2, addresses=False) as net, LinuxBridge(net) as bridge:
        yield net, bridge


def nft_rows(rules: Sequence[FiveTuple], flows: int) -> Iterator[Row]:
    some = rule_traces.frames(rules, flows)
    exact = rule_traces.headers(rules, len(rules), seed=2)
    subjects: list[tuple[str, int, tuple[list[str], str]]] = [
        ("nft, a list", count, (list(rule_traces.for_nft(rules[:count])), ""))
        for count in (NFT_LINEAR_MAX // 10, NFT_LINEAR_MAX)
    ]
    subjects.append(("nft, a hash set of exact tuples", len(exact), rule_traces.nft_set(exact)))
    with _bridge() as (net, bridge):
        for subject, count, (lines, declarations) in subjects:
            costs = []
            for _ in range(NFT_ROUNDS):  # without and with in turn, so that both meet one machine
                bridge.filter([])
                plain = _send_ns(net, some)
                bridge.filter(lines, declarations)
                costs.append(_send_ns(net, some) - plain)
            yield Row(subject, count, flows, statistics.median(costs))


# --- this switch, beside Open vSwitch -------------------------------------------------------------


def our_report(rules: Sequence[FiveTuple]) -> dict[str, Any]:
    """bench_rules, the rules at the ingress of a bridge that filters VLANs, on the processor where
    the peer runs."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rules"
        rulesets.write(rules, path)
        pinned = ("taskset", "-c", str(dpdk.polling_cpu()))
        found: dict[str, Any] = json.loads(
            run(*pinned, tool("bench_rules"), str(path), str(VID), timeout_s=300)
        )
        return found


def our_rows(rules: Sequence[FiveTuple], flows: Sequence[int]) -> Iterator[Row]:
    report = our_report(rules)
    note = f"all of the engine's work; {report['frame_ns']:.0f} ns without rules"
    for count in flows:
        yield Row(OURS, len(rules), count, report["hit_ns"][str(count)], note)
    yield Row(f"{OURS}, no flow known", len(rules), 0, report["miss_ns"], note)


def _our_sample(rules: Sequence[FiveTuple], flows: int) -> Sample:
    report = our_report(rules)
    return Sample(float(report["hit_ns"][str(flows)]), {"without_rules_ns": report["frame_ns"]})


def _ovs_sample(pair: peer.Pair, seconds: float) -> Sample:
    around = pair.bare_ns(seconds)
    whole, how = pair.switch_ns(seconds)
    return Sample(whole - around, {"whole_ns": whole, "around_ns": around, **how})


def compared(
    rules: Sequence[FiveTuple], flows: int, rounds: int, seconds: float, say: Say
) -> Result:
    """Ours and Open vSwitch, what testpmd takes for the same frames subtracted, in turn."""
    result = Result(
        *(f"{CASE}, {len(rules):,} rules, hits of {flows:,} flows", "ns/frame", OURS),
        *({OVS: TARGET}, False),
    )
    lacking = missing(peer.PACKAGES)
    if lacking:
        result.left_out[OVS] = f"not installed: {' '.join(lacking)}"
        say(f"{OVS} is left out; {result.left_out[OVS]}")
    with contextlib.ExitStack() as stack:
        turns: dict[str, Callable[[], Sample]] = {OURS: lambda: _our_sample(rules, flows)}
        if not lacking:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            pcap = directory / "trace.pcap"
            rule_traces.write_pcap(pcap, rule_traces.frames(rules, flows))
            pair = stack.enter_context(peer.Pair(rules, pcap))
            turns[OVS] = lambda: _ovs_sample(pair, seconds)
        result.noise.update(machine.noise())
        for number in range(rounds):
            for name in turns if number % 2 == 0 else reversed(turns):
                result.samples.setdefault(name, []).append(turns[name]())
            values = ", ".join(
                f"{name} {found[-1].value:.1f}" for name, found in result.samples.items()
            )
            say(f"{result.name} {number + 1}/{rounds}: {values} ns a frame")
    return result


def cases(wanted: Sequence[str], rounds: int, seconds: float, say: Say) -> Iterator[Result]:
    """What `make bench` measures beside Open vSwitch."""
    if any(text in CASE for text in wanted):
        rules = rulesets.generate("acl", RULES)
        for flows in FLOWS:
            try:
                yield compared(rules, flows, rounds, seconds, say)
            except Exception as error:  # the other cases' figures must not be lost
                say(f"{CASE}: {error!r}")
                why = f"{type(error).__name__}: {error}"
                yield Result(f"{CASE}, {flows:,} flows", "ns/frame", OURS, {}, error=why)


# --- all of them ----------------------------------------------------------------------------------


def measure(rules: Sequence[FiveTuple], flows: Sequence[int], say: Say) -> Iterator[Row]:
    yield from our_rows(rules, flows)
    lacking = missing({"nftables": "nft"})
    if lacking:
        say(f"nft is left out; not installed: {' '.join(lacking)}")
    else:
        yield from nft_rows(rules, flows[0])


def usual(say: Say) -> Iterator[Row]:
    """What `make bench` measures beside nft."""
    yield from measure(rulesets.generate("acl", RULES), FLOWS, say)


def text(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        flows = f"{row.flows:,} flows" if row.flows else ""
        yield (f"{row.subject:32}{row.rules:>8,} rules {flows:>15}{row.ns:12,.0f} ns  {row.note}\n")


def markdown(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    return [
        "Rules beside nft's, nanoseconds of a processor for each frame; of nft what the same takes "
        "without rules is subtracted:",
        "",
        "| switch | rules | flows | ns a frame | seen |",
        "|---|---|---|---|---|",
        *(
            f"| {row.subject} | {row.rules:,} | {f'{row.flows:,}' if row.flows else ''} "
            f"| {row.ns:,.0f} | {row.note} |"
            for row in rows
        ),
        "",
    ]


def main(argv: Sequence[str]) -> int:
    def say(said: str) -> None:
        sys.stderr.write(f"bench: {said}\n")

    parser = argparse.ArgumentParser(prog="python -m tests.bench.rule_peers")
    parser.add_argument("--rules", type=int, default=RULES)
    parser.add_argument("--shape", choices=rulesets.SHAPES, default="acl")
    parser.add_argument("--flows", default=",".join(map(str, FLOWS)))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args(argv)
    rules = rulesets.generate(args.shape, args.rules)
    flows = [int(count) for count in args.flows.split(",")]
    say(f"{args.rules} rules of shape {args.shape}, ns a frame")
    found = [compared(rules, count, args.rounds, args.seconds, say) for count in flows]
    sys.stdout.write(table.text(table.rows([result.as_json() for result in found])))
    sys.stdout.writelines(text(measure(rules, flows, say)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
