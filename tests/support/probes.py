"""Runs the measuring tools (tests/bench/gen.c, sink.c, pingpong.c) in namespaces.

The tools are built with the project (`meson compile`); tool() finds the newest build that is
not a sanitizer's.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.topology import Topology, end_process, first_line

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = re.compile("asan|tsan|ubsan|fuzz")  # builds too slow to measure with


def tool(name: str, area: str = "bench") -> str:
    """Path of one of the tools of tests/AREA; FileNotFoundError says how to build it."""
    found = [
        path
        for top in ROOT.glob("build*")
        for path in top.rglob(f"tests/{area}/{name}")
        if path.is_file() and not SANITIZED.search(str(path.relative_to(ROOT)))
    ]
    if not found:
        raise FileNotFoundError(
            f"tests/{area}/{name} is not built: run `meson setup build && meson compile -C build`"
        )
    return str(max(found, key=lambda path: path.stat().st_mtime))


def _read_json(process: subprocess.Popen[str], what: str, timeout_s: float) -> dict[str, Any]:
    out, _ = process.communicate(timeout=timeout_s)
    lines = out.strip().splitlines()
    if process.returncode != 0 or not lines:
        raise RuntimeError(f"{what} ended with {process.returncode}: {out}")
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def threads_cpu_ns(pid: int) -> int:
    """Time all threads of a process have run, in nanoseconds (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


@dataclass(frozen=True)
class Load:
    """What gen is asked to send; the fields are its options."""

    bytes: int = 60
    macs: int = 1
    seconds: float = 5
    rate: int | None = None
    frames: int | None = None
    stream: int = 1
    src: str = "02:00:00:01:00:00"
    dst: str = "02:00:00:02:00:00"
    cpu: int | None = None

    def argv(self, only: Collection[str] | None = None) -> list[str]:
        options = {
            "bytes": self.bytes,
            "macs": self.macs,
            "seconds": self.seconds,
            "rate": self.rate,
            "frames": self.frames,
            "stream": self.stream,
            "src": self.src,
            "dst": self.dst,
            "cpu": self.cpu,
        }
        pairs = [
            (f"--{k}", str(v))
            for k, v in options.items()
            if v is not None and (only is None or k in only)
        ]
        return [word for pair in pairs for word in pair]


class Generator:
    """A running gen on host `host`; result() waits for its report."""

    def __init__(self, net: Topology, host: int, load: Load) -> None:
        self._seconds = load.seconds
        self.process = net.start(
            *(net.hosts[host], tool("gen"), "--if", net.host_ifs[host], *load.argv())
        )

    def result(self) -> dict[str, Any]:
        return _read_json(self.process, "gen", self._seconds + 30)


class XdpGenerator(Generator):
    """A running xgen instead: XDP frames, one address at each end, no pace."""

    def __init__(self, net: Topology, host: int, load: Load) -> None:
        self._seconds = load.seconds
        only = {"bytes", "src", "dst", "seconds", "stream"}
        self.process = net.start(
            *(net.hosts[host], tool("xgen"), "--if", net.host_ifs[host], *load.argv(only))
        )


class Sink:
    """A running sink on host `host` that already receives; result() waits for its report.

    expect ends it after that many different frames, idle_ms after a pause behind the first one.
    """

    def __init__(
        self,
        net: Topology,
        host: int,
        *,
        stream: int = 1,
        expect: int | None = None,
        idle_ms: int = 1000,
        seconds: float = 60,
        gap_ms: int = 5,
        cpu: int | None = None,
    ) -> None:
        argv = [net.hosts[host], tool("sink"), "--if", net.host_ifs[host]]
        argv += ["--stream", str(stream), "--idle-ms", str(idle_ms)]
        argv += ["--seconds", str(seconds), "--gap-ms", str(gap_ms)]
        if expect is not None:
            argv += ["--expect", str(expect)]
        if cpu is not None:
            argv += ["--cpu", str(cpu)]
        self._seconds = seconds
        self.process = net.start(*argv)
        if "ready" not in first_line(self.process):
            raise RuntimeError("sink did not start; what it said is on stderr")

    def result(self) -> dict[str, Any]:
        return _read_json(self.process, "sink", self._seconds + 30)

    def stop(self) -> dict[str, Any]:
        """Ends it now and returns what it has."""
        self.process.terminate()
        return _read_json(self.process, "sink", 10)


@dataclass(frozen=True)
class Passage:
    """One run of gen through the switch into sink."""

    gen: dict[str, Any] = field(repr=False)
    sink: dict[str, Any] = field(repr=False)

    @property
    def lost(self) -> int:
        """Frames that gen's interface took and sink never saw."""
        return int(self.gen["sent"]) - int(self.sink["unique"])

    @property
    def frames_per_s(self) -> float:
        """What arrived, over the time in which it arrived."""
        return float(self.sink["frames_per_s"])


def passage(
    net: Topology,
    load: Load,
    *,
    src: int = 0,
    dst: int = 1,
    idle_ms: int = 500,
    generator: type[Generator] = Generator,
) -> Passage:
    """Sends load from host src to host dst and returns both reports."""
    sink = Sink(net, dst, stream=load.stream, idle_ms=idle_ms, seconds=load.seconds + 10)
    gen = generator(net, src, load).result()
    return Passage(gen, sink.result())


def teach(net: Topology, load: Load, *, src: int = 0, dst: int = 1) -> None:
    """Makes the switch learn both sides of load: one frame from every destination address and
    one from every source address, as stream 0, which no sink counts."""
    for host, source, destination in ((dst, load.dst, load.src), (src, load.src, load.dst)):
        lesson = Load(
            macs=load.macs, frames=load.macs, rate=20000, stream=0, src=source, dst=destination
        )
        Generator(net, host, lesson).result()


class PingPong:
    """An answering pingpong on host `host` for as long as the block lasts."""

    def __init__(self, net: Topology, host: int, cpu: int | None = None) -> None:
        self._net = net
        self._host = host
        self._cpu = [] if cpu is None else ["--cpu", str(cpu)]
        self._server = net.start(
            *(net.hosts[host], tool("pingpong"), "--listen", net.addresses[host], *self._cpu)
        )
        if "ready" not in first_line(self._server):
            raise RuntimeError("pingpong did not start; what it said is on stderr")

    def __enter__(self) -> PingPong:
        return self

    def __exit__(self, *_: object) -> None:
        end_process(self._server)

    def measure(self, host: int, seconds: float) -> dict[str, Any]:
        client = self._net.start(
            *(self._net.hosts[host], tool("pingpong"), "--to", self._net.addresses[self._host]),
            *("--seconds", str(seconds), *self._cpu),
        )
        return _read_json(client, "pingpong", seconds + 30)
