"""Numbered frames through a switch whose processes are killed meanwhile: what was lost.

    host 0 ══ veth ══ p0 [switch] p1 ══ veth ══ host 1
      gen 10 kframes/s ──────────────────────► sink (sequence numbers, gaps)

"No frame" means none beyond an undisturbed twin run through the same switch a moment before.
"""

from __future__ import annotations

from typing import Any

from tests.support.fastpath import FastPath
from tests.support.probes import Generator, Load, Sink, teach
from tests.support.topology import Topology

RATE = 10_000
RING_MS = 400.0


def pauses_ms(report: dict[str, Any], kills_ns: list[int]) -> tuple[list[float], float]:
    """For each kill (CLOCK_REALTIME) the longest pause that touches the 250 ms after it; and the
    longest of all others, which are this machine's own."""
    at_kills = [0.0] * len(kills_ns)
    other = 0.0
    for gap in report["gaps"]:
        touched = [
            n
            for n, kill in enumerate(kills_ns)
            if gap["at_ns"] <= kill + 250e6 and gap["at_ns"] + gap["ms"] * 1e6 >= kill
        ]
        for n in touched:
            at_kills[n] = max(at_kills[n], gap["ms"])
        if not touched:
            other = max(other, gap["ms"])
    return at_kills, other


class Traffic:
    """gen and sink running; result() gives what was lost, and what sink saw."""

    def __init__(self, net: Topology, path: FastPath, seconds: float) -> None:
        self._path = path
        self._overflowed = self._kernel_drops()
        self.sink = Sink(net, 1, idle_ms=1500, seconds=seconds + 10, gap_ms=5)
        self.gen = Generator(net, 0, Load(rate=RATE, seconds=seconds))

    def _kernel_drops(self) -> int:
        with self._path.client() as client:
            return sum(p.kernel_drops for p in client.stats().ports)

    @property
    def running(self) -> bool:
        return self.gen.process.poll() is None

    def result(self) -> tuple[int, dict[str, Any]]:
        """Frames that are missing, but for those that the sink itself was too slow for.

        A machine that runs nobody for longer than a ring lasts (0.4 s at this rate) overflows
        it, kills or not: those are counted by the kernel, and left out too when there was such
        a pause apart from the kills.
        """
        sent = self.gen.result()
        report = self.sink.result()
        lost = int(sent["sent"]) - report["unique"] - report["ring_drops"]
        report["overflowed"] = self._kernel_drops() - self._overflowed
        return lost, report


def lost_by_us(lost: int, report: dict[str, Any], machine_ms: float) -> int:
    return lost - report["overflowed"] if machine_ms > RING_MS * 0.75 else lost


def undisturbed_loss(net: Topology, path: FastPath) -> int:
    """Frames lost when nobody is killed."""
    teach(net, Load(rate=RATE))
    lost, report = Traffic(net, path, 3).result()
    return lost_by_us(lost, report, report["gap_max_ms"])
