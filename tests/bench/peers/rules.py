"""Open vSwitch with DPDK and many rules, and the same work without any: frames of a file, again and
again (net_pcap, infinite_rx), to a port that discards (net_null), on one processor.

Both stand side by side. While it is not measured testpmd is stopped, and what polls in OVS only
gets time that nobody else wants: if it were stopped it would forget its cached flows afterwards,
and allow itself but few new ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench import rule_traces
from tests.bench.peers import dpdk, ovs
from tests.bench.rulesets import FiveTuple
from tests.bench.subjects import awake
from tests.support.topology import Topology, wait_until

PACKAGES = {"openvswitch-switch-dpdk": ovs.DPDK_PROGRAM, "dpdk-dev": dpdk.TESTPMD}
MEMORY_MIB = 1024
BUFFERS = 200_000
WARM_S = 120  # OVS lets the number of its cached flows grow by 1,000 twice a second
POLLING = "pmd-"  # OVS' threads that do
FIGURES_S = 10.0  # testpmd says its own every second


def _devices(pcap: Path) -> tuple[str, str]:
    return f"net_pcap0,rx_pcap={pcap},infinite_rx=1", "net_null0,no-rx=1"


def _threads(pid: int, name: str) -> Iterator[int]:
    """The threads of a process whose name begins with `name`."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith(name):
                yield int(task.name)


def _thread_ns(pid: int, name: str) -> int:
    """Their processor time (proc(5), schedstat)."""
    found = (Path(f"/proc/{pid}/task/{thread}/schedstat") for thread in _threads(pid, name))
    return sum(int(path.read_text().split()[0]) for path in found)


class Switch(ovs.Switch):
    """Two ports: frames of a file, and nothing."""

    def __init__(self, net: Topology, pcap: Path) -> None:
        super().__init__(net, ovs.DPDK_PROGRAM, ovs.dpdk_settings(MEMORY_MIB))
        devices = _devices(pcap)
        self.port_names = ("source", "discard")
        self.port_columns = lambda n: ("type=dpdk", f'options:dpdk-devargs="{devices[n]}"')

    def received(self) -> dict[str, float]:
        """packets received, emc hits, megaflow hits, upcalls: sums since the start."""
        text = str(self.call("dpif-netdev/pmd-stats-show"))
        names = ("packets received", "emc hits", "megaflow hits", "miss with success upcall")
        return {
            name: float(found[1])
            for name in names
            if (found := re.search(rf"^\s+{name}: (\d+)", text, re.MULTILINE))
        }


class Pair:
    """Both for one trace and one set of rules; use as a context manager. ``built_s``: how long OVS
    took to install the flows."""

    def __init__(self, rules: Sequence[FiveTuple], pcap: Path) -> None:
        self._rules = rules
        self._pcap = pcap
        self._stack = contextlib.ExitStack()
        self.built_s = 0.0

    def __enter__(self) -> Pair:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        net = self._stack.enter_context(Topology(1, addresses=False))
        self._testpmd = self._stack.enter_context(
            dpdk.TestpmdProcess(
                net,
                _devices(self._pcap),
                "--no-flush-rx",
                memory_mib=MEMORY_MIB,
                buffers=BUFFERS,
            )
        )
        os.kill(self._testpmd.process.pid, signal.SIGSTOP)
        self._stack.callback(os.kill, self._testpmd.process.pid, signal.SIGCONT)
        self._ovs = self._stack.enter_context(Switch(net, self._pcap))
        started = time.monotonic()
        self._ovs.flows([*rule_traces.for_ovs(self._rules, to="2"), "priority=0,actions=output:2"])
        self.built_s = time.monotonic() - started
        self._warm()
        self._schedule(os.SCHED_IDLE)

    def _schedule(self, policy: int) -> None:
        for thread in _threads(self._ovs.pid, POLLING):
            os.sched_setscheduler(thread, policy, os.sched_param(0))

    def _warm(self) -> None:
        """Until hardly a frame has to be asked about in the slow path, WARM_S at most."""
        deadline = time.monotonic() + WARM_S
        before = self._ovs.received()
        while time.monotonic() < deadline:
            time.sleep(1)
            now = self._ovs.received()
            frames = now["packets received"] - before["packets received"]
            asked = now["miss with success upcall"] - before["miss with success upcall"]
            if frames and asked < frames / 10_000:
                return
            before = now

    def bare_ns(self, seconds: float) -> float:
        """What testpmd takes to receive a frame and to send it, without looking at it."""
        testpmd = self._testpmd
        worker = testpmd.worker()

        def sample() -> tuple[int, int]:
            seen = len(testpmd.received())
            _wait(lambda: len(testpmd.received()) > seen)
            return _thread_ns(testpmd.process.pid, worker), testpmd.received()[-1]

        with awake(testpmd.process.pid):
            before = sample()
            time.sleep(seconds)
            after = sample()
        return (after[0] - before[0]) / (after[1] - before[1])

    def switch_ns(self, seconds: float) -> tuple[float, dict[str, float]]:
        """What OVS takes for a frame, receiving and sending included, and how it knew what to do:
        emc_percent of its exact-match cache, upcalls."""
        self._schedule(os.SCHED_OTHER)
        try:
            before, ns = self._ovs.received(), _thread_ns(self._ovs.pid, POLLING)
            time.sleep(seconds)
            after, used = self._ovs.received(), _thread_ns(self._ovs.pid, POLLING) - ns
        finally:
            self._schedule(os.SCHED_IDLE)
        count = {name: after[name] - before[name] for name in after}
        frames = count["packets received"]
        how = {
            "emc_percent": 100 * count["emc hits"] / frames,
            "upcalls": count["miss with success upcall"],
        }
        return used / frames, how


def _wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, FIGURES_S, "testpmd says new figures")
