"""`python -m tests.bench.rule_peers` (as root): what rules cost here and elsewhere, for the same
rules and as many flows inside them.

    here       the engine between memory ports (bench_rules.c): receiving, learning, looking up,
               rules and sending, nothing subtracted
    OVS-DPDK   frames of a pcap file, again and again (net_pcap, infinite_rx), through the flows to
               a port that discards (net_null), on one core; what testpmd takes to move the same
               frames between the same two ports is subtracted
    nft        frames through a Linux bridge and its forward chain, sent by a packet socket; what
               the same takes without rules is subtracted; as a list, and as a hash set of exact
               tuples

    --rules N --shape acl|fw|ipc --flows N,N (of 1000, 10000, 100000) --seconds S

The peers' costs are processor time of the threads at work, in nanoseconds a frame, so that what
else the machine does matters little. A peer that is not installed is named, with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import rule_traces, rulesets
from tests.bench.rulesets import FiveTuple
from tests.support.oracles import LinuxBridge, OpenVSwitch
from tests.support.probes import tool
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import in_netns

NAME = "rules beside other switches"
OURS = "this switch"
RULES = 10_000
FLOWS = (1_000, 100_000)
OVS_DPDK = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
TESTPMD = "dpdk-testpmd"
MEMORY_MIB = 1024
CORE = 1
WARM_S = 120  # OVS lets the number of its cached flows grow by 1,000 twice a second
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


def say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def missing() -> dict[str, str]:
    """By peer: the Debian packages that it needs and that are not here."""
    wants = {
        "OVS-DPDK": {
            "openvswitch-switch-dpdk": Path(OVS_DPDK).exists(),
            "dpdk-dev": shutil.which(TESTPMD) is not None,
            "librte-net-pcap23": bool(_drivers("net_pcap")),
            "librte-net-null23": bool(_drivers("net_null")),
        },
        "nft": {"nftables": shutil.which("nft") is not None},
    }
    lacking = {
        peer: " ".join(name for name, there in packages.items() if not there)
        for peer, packages in wants.items()
    }
    return {peer: names for peer, names in lacking.items() if names}


def _drivers(name: str) -> list[Path]:
    return list(Path("/usr/lib").glob(f"*/dpdk/pmds-*/librte_{name}.so*"))


def thread_ns(pid: int, name: str) -> int:
    """Processor time of a process's threads whose name begins with `name` (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith(name):
                total += int((task / "schedstat").read_text().split()[0])
    return total


# --- OVS-DPDK -------------------------------------------------------------------------------------


def _vdevs(pcap: Path) -> tuple[str, str]:
    return f"net_pcap0,rx_pcap={pcap},infinite_rx=1", "net_null0,no-rx=1"


def testpmd_ns(pcap: Path, seconds: float) -> float:
    """What it takes to receive the frames and to send them, without looking at them."""
    source, sink = _vdevs(pcap)
    argv = [
        *(TESTPMD, "--no-huge", "-m", str(MEMORY_MIB), "--no-pci", "-l", f"0,{CORE}"),
        *("--file-prefix", f"bench{os.getpid()}", "--no-telemetry"),
        *("--vdev", source, "--vdev", sink, "--", "--forward-mode=io", "--no-flush-rx"),
        *("--total-num-mbufs=200000", "--stats-period=1"),
    ]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

        def received() -> list[int]:
            said.seek(0)
            found = re.findall(r"NIC statistics for port 0 .*\n\s+RX-packets: (\d+)", said.read())
            return [int(count) for count in found]

        try:
            _wait_while(process, lambda: len(received()) >= 2, "testpmd forwards")
            samples = []
            for _ in range(2):
                seen = len(received())
                _wait_while(process, lambda seen=seen: len(received()) > seen, "new figures")  # type: ignore[misc]
                samples.append((thread_ns(process.pid, _worker(process.pid)), received()[-1]))
                if len(samples) == 1:
                    time.sleep(seconds)
        finally:
            process.terminate()
            process.wait(20)
    return (samples[1][0] - samples[0][0]) / (samples[1][1] - samples[0][1])


def _worker(pid: int) -> str:
    """The name of testpmd's forwarding thread, which differs between versions."""
    names = {(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}
    return next(name for name in names if re.fullmatch(rf".*worker-?{CORE}", name))


def _wait_while(process: subprocess.Popen[bytes], condition: object, what: str) -> None:
    def holds() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{TESTPMD} ended with {process.returncode} before: {what}")
        return bool(condition())  # type: ignore[operator]

    wait_until(holds, 30, what)


class DpdkSwitch(OpenVSwitch):
    """Two ports: frames of a file, and nothing."""

    program = OVS_DPDK

    def __init__(self, net: Topology, pcap: Path) -> None:
        super().__init__(net)
        self._pcap = pcap

    def settings(self) -> list[str]:
        extra = f"--no-huge --legacy-mem -m {MEMORY_MIB} --no-pci --file-prefix ovs{os.getpid()}"
        values = {
            "dpdk-init": "true",
            "dpdk-extra": f'"{extra}"',
            "dpdk-lcore-mask": "0x1",
            "pmd-cpu-mask": hex(1 << CORE),
        }
        return [f"other_config:{name}={value}" for name, value in values.items()]

    def ports(self) -> list[str]:
        words = []
        names = ("source", "discard")
        for number, (name, devargs) in enumerate(
            zip(names, _vdevs(self._pcap), strict=True), start=1
        ):
            words += ["--", "add-port", "obr", name, "--", "set", "Interface", name]
            words += ["type=dpdk", f"ofport_request={number}"]
            words += [f'options:dpdk-devargs="{devargs}"']
        return words

    def received(self) -> dict[str, float]:
        """packets received, emc hits, megaflow hits, upcalls: sums since the start."""
        text = str(self.call("dpif-netdev/pmd-stats-show"))
        names = ("packets received", "emc hits", "megaflow hits", "miss with success upcall")
        return {
            name: float(found[1])
            for name in names
            if (found := re.search(rf"^\s+{name}: (\d+)", text, re.MULTILINE))
        }


def ovs_ns(rules: Sequence[FiveTuple], pcap: Path, seconds: float) -> tuple[float, str]:
    with Topology(1, addresses=False) as net, DpdkSwitch(net, pcap) as ovs:
        started = time.monotonic()
        ovs.flows([*rule_traces.for_ovs(rules, to="2"), "priority=0,actions=output:2"])
        built = time.monotonic() - started
        _wait_warm(ovs)
        before, ns = ovs.received(), thread_ns(ovs.pid, "pmd-")
        time.sleep(seconds)
        after, used = ovs.received(), thread_ns(ovs.pid, "pmd-") - ns
    count = {name: after[name] - before[name] for name in after}
    frames = count["packets received"]
    note = f"{100 * count['emc hits'] / frames:.0f} % in its exact-match cache, "
    note += f"{count['miss with success upcall']:.0f} upcalls, flows installed in {built:.2f} s"
    return used / frames, note


def _wait_warm(ovs: DpdkSwitch) -> None:
    """Until hardly a frame has to be asked about in the slow path any more, WARM_S at most."""
    deadline = time.monotonic() + WARM_S
    before = ovs.received()
    while time.monotonic() < deadline:
        time.sleep(1)
        now = ovs.received()
        frames = now["packets received"] - before["packets received"]
        asked = now["miss with success upcall"] - before["miss with success upcall"]
        if frames and asked < frames / 10_000:
            return
        before = now


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


# --- this switch ----------------------------------------------------------------------------------


def our_rows(rules: Sequence[FiveTuple], flows: Sequence[int]) -> Iterator[Row]:
    """The rules are at the bridge's ingress."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rules"
        rulesets.write(rules, path)
        report = json.loads(run(tool("bench_rules"), str(path), timeout_s=300))
    note = f"all of the engine's work; {report['frame_ns']:.0f} ns without rules"
    for count in flows:
        yield Row(OURS, len(rules), count, report["hit_ns"][str(count)], note)
    yield Row(f"{OURS}, no flow known", len(rules), 0, report["miss_ns"], note)


# --- all of them ----------------------------------------------------------------------------------


def ovs_rows(rules: Sequence[FiveTuple], flows: Sequence[int], seconds: float) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as directory:
        for count in flows:
            pcap = Path(directory) / f"{count}.pcap"
            rule_traces.write_pcap(pcap, rule_traces.frames(rules, count))
            around = testpmd_ns(pcap, seconds)
            whole, note = ovs_ns(rules, pcap, seconds)
            note = f"{whole:.0f} ns with receiving and sending, testpmd {around:.0f}; {note}"
            yield Row("OVS-DPDK", len(rules), count, whole - around, note)


def measure(rules: Sequence[FiveTuple], flows: Sequence[int], seconds: float) -> Iterator[Row]:
    lacking = missing()
    for peer, packages in lacking.items():
        say(f"{peer} is left out; not installed: {packages}")
    yield from our_rows(rules, flows)
    if "OVS-DPDK" not in lacking:
        yield from ovs_rows(rules, flows, seconds)
    if "nft" not in lacking:
        yield from nft_rows(rules, flows[0])


def usual(seconds: float) -> Iterator[Row]:
    """What `make bench` measures."""
    yield from measure(rulesets.generate("acl", RULES), FLOWS, seconds)


def text(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        flows = f"{row.flows:,} flows" if row.flows else ""
        yield (f"{row.subject:32}{row.rules:>8,} rules {flows:>15}{row.ns:12,.0f} ns  {row.note}\n")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rule_peers")
    parser.add_argument("--rules", type=int, default=RULES)
    parser.add_argument("--shape", choices=rulesets.SHAPES, default="acl")
    parser.add_argument("--flows", default=",".join(map(str, FLOWS)))
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args(argv)
    rules = rulesets.generate(args.shape, args.rules)
    flows = [int(count) for count in args.flows.split(",")]
    say(f"{args.rules} rules of shape {args.shape}, ns a frame")
    sys.stdout.writelines(text(measure(rules, flows, args.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
