"""One measurement of one subject each: forwarding rate, TCP, round-trip time.

A measurement returns a Sample: the value that is compared and what explains it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.subjects import Subject
from tests.support.probes import Generator, Load, PingPong, XdpGenerator, passage, teach
from tests.support.topology import CommandError, Topology, end_process, wait_until


@dataclass(frozen=True)
class Sample:
    """`value` in the case's unit; `detail` holds integers and floats that explain it."""

    value: float
    detail: dict[str, float] = field(default_factory=dict)


CONNECT_MS = 5000
SETTLE_S = 1.0  # until an adaptive switch sleeps

# By name of a subject the least ratio that is wanted beside it; None: it is shown only.
Peers = Mapping[str, float | None]


@dataclass(frozen=True)
class Case:
    """`ours` and `peers` are names of subjects; ratio = ours / peer (higher_is_better), or
    peer / ours. `limits`: the most that is wanted of ours, by name of a detail or "value"."""

    name: str
    unit: str
    measure: Callable[[Subject, float], Sample]
    ours: str
    peers: Peers
    higher_is_better: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)


def _ksoftirqd_ns() -> int:
    """Time that ksoftirqd has run on all processors."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().startswith("ksoftirqd/"):
                    total += int((entry / "schedstat").read_text().split()[0])
    return total


def _softirq_ns() -> int:
    """Time in softirqs on all processors, by ticks (coarse; the whole machine's)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[7]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """Processor time between the beginning and the end of a block, in nanoseconds."""

    switch_ns: int = 0
    ksoftirqd_ns: int = 0
    softirq_ns: int = 0


@contextlib.contextmanager
def _usage(subject: Subject) -> Iterator[Usage]:
    used = Usage()
    before = (subject.cpu_ns(), _ksoftirqd_ns(), _softirq_ns())
    yield used
    used.switch_ns = subject.cpu_ns() - before[0]
    used.ksoftirqd_ns = _ksoftirqd_ns() - before[1]
    used.softirq_ns = _softirq_ns() - before[2]


def forward(
    frame_bytes: int, macs: int = 1, generator: type[Generator] = Generator
) -> Callable[[Subject, float], Sample]:
    """Frames at full speed in one direction; value: frames/s that arrive at the other host.

    system_ns_per_frame is the processor time of everything that took part (generator, receiver,
    switch, ksoftirqd) for each frame that arrived; switch_ns_per_frame that of the switch's own
    process. Subtract "no switch" from the bridge's system time for what the bridge costs.
    """

    def measure(subject: Subject, seconds: float) -> Sample:
        load = Load(bytes=frame_bytes, macs=macs, seconds=seconds)
        teach(subject.net, load)
        before = subject.drops()
        if generator is XdpGenerator:
            subject.net.receive_offload(0)
        with _usage(subject) as used:
            result = passage(subject.net, load, idle_ms=200, generator=generator)
        after = subject.drops()
        # What the receiver's ring had no room for did arrive: the switch delivered it.
        late = int(result.sink["ring_drops"])
        frames = max(1, int(result.sink["unique"]) + late)
        tools_ns = (float(result.gen["cpu_s"]) + float(result.sink["cpu_s"])) * 1e9
        detail: dict[str, float] = {
            "offered_frames_per_s": float(result.gen["frames_per_s"]),
            "lost": result.lost - late,
            "duplicates": int(result.sink["duplicates"]),
            "reordered": int(result.sink["reordered"]),
            "receiver_drops": late,
            "system_ns_per_frame": (tools_ns + used.switch_ns + used.ksoftirqd_ns) / frames,
            "switch_ns_per_frame": used.switch_ns / frames,
            "softirq_ns_per_frame": used.softirq_ns / frames,
        }
        for reason, count in after.items():
            if count > before.get(reason, 0):
                detail[f"drops_{reason}"] = count - before.get(reason, 0)
        return Sample(frames / max(1e-9, float(result.sink["seconds"])), detail)

    return measure


def tcp(one_cpu: bool = False, congestion: str = "cubic") -> Callable[[Subject, float], Sample]:
    """iperf3 with all offloads as they are; value: Gbit/s that arrive.

    one_cpu pins both ends to processor 0, which leaves the others to the switch. congestion: the
    ends' algorithm, named so that a machine's setting is no part of the figure. BBR paces its
    frames with timers: what is measured with it is how soon a busy machine wakes a thread.
    """

    pin = ("taskset", "-c", "0") if one_cpu else ()

    def measure(subject: Subject, seconds: float) -> Sample:
        with subject.sound(), _usage(subject) as used:
            end = _iperf(subject.net, pin, congestion, seconds)
        if end is None:
            return Sample(0.0)
        received = end["sum_received"]
        cpu = end["cpu_utilization_percent"]
        ends_ns = (cpu["host_total"] + cpu["remote_total"]) / 100 * received["seconds"] * 1e9
        kilobytes = max(1.0, received["bytes"] / 1000)
        return Sample(
            received["bits_per_second"] / 1e9,
            {
                "retransmits": end["sum_sent"].get("retransmits", 0),
                "system_ns_per_kb": (ends_ns + used.switch_ns + used.ksoftirqd_ns) / kilobytes,
                "switch_ns_per_kb": used.switch_ns / kilobytes,
                "softirq_ns_per_kb": used.softirq_ns / kilobytes,
            },
        )

    return measure


def _iperf(
    net: Topology, pin: Sequence[str], congestion: str, seconds: float
) -> dict[str, Any] | None:
    """The end of iperf3's report; None: no connection came about, or it broke."""
    server = net.start(net.hosts[1], *pin, "iperf3", "-s", "-1", "--forceflush")
    try:
        _wait_listening(server.pid)
        text = net.run(
            net.hosts[0],
            *pin,
            # iperf3 takes whole seconds, and 0 for ever
            *("iperf3", "-c", net.addresses[1], "-t", str(max(1, round(seconds)))),
            *("-C", congestion, "-J", "--connect-timeout", str(CONNECT_MS)),
            timeout_s=seconds + 30,
        )
        server.wait(5)  # it serves one client
    except CommandError as error:
        if "unable to connect" in str(error):
            return None
        raise
    finally:
        end_process(server)
    end: dict[str, Any] = json.loads(text)["end"]
    return end


def _wait_listening(pid: int) -> None:
    """Until the process (which may still be `ip netns exec`) listens on iperf3's port."""

    def listening() -> bool:
        for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(":1451") and fields[3] == "0A":  # 5201, LISTEN
                return True
        return False

    wait_until(listening, 5, "iperf3 listens")


def ping(subject: Subject, seconds: float) -> Sample:
    """One UDP datagram at a time, both ends on processor 0; value: median round trip in µs."""
    with (
        subject.sound(),
        PingPong(subject.net, 1, cpu=0) as answering,
        _usage(subject) as used,
    ):
        report = answering.measure(0, seconds)
    rtt: dict[str, Any] = report["rtt_us"]
    return Sample(
        float(rtt["p50"]),
        {
            "p99_us": float(rtt["p99"]),
            "p99_9_us": float(rtt["p99_9"]),
            "rounds": int(report["rounds"]),
            "lost": int(report["lost"]),
            "switch_ns_per_round": used.switch_ns / max(1, int(report["rounds"])),
        },
    )


def idle(subject: Subject, seconds: float) -> Sample:
    """Nothing is sent; value: what the switch's own processes use, in per cent of a processor."""
    time.sleep(SETTLE_S)
    with _usage(subject) as used:
        time.sleep(seconds)
    return Sample(used.switch_ns / (seconds * 1e9) * 100)
