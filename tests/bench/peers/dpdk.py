"""DPDK's testpmd between the two hosts: it receives at either port and sends at the other without
looking at a frame, so it is no switch but what one built on DPDK cannot be faster than.

DPDK runs without huge pages; everything it writes is in a directory that goes with it
(RUNTIME_DIRECTORY takes the place of /var/run).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.bench.subjects import BOUND, ProcessSubject
from tests.support.topology import Topology, end_process, wait_until

TESTPMD = "dpdk-testpmd"
PACKET = "testpmd af_packet, io"
XDP = "testpmd af_xdp, io"
MEMORY_MIB = 256
BUFFERS = 16_384
START_S = 30.0


def polling_cpu() -> int:
    """Where a thread that never sleeps runs: the last processor."""
    return max(os.sched_getaffinity(0))


def eal(memory_mib: int) -> list[str]:
    """Options of every DPDK program here: nothing outside of its own directory."""
    return ["--no-huge", "-m", str(memory_mib), "--no-pci", "--file-prefix", f"bench{os.getpid()}"]


class TestpmdProcess:
    """A running testpmd that forwards between its devices, in order of their names; use as a
    context manager. ``received`` and ``worker`` are of its first port and its one thread that
    forwards."""

    def __init__(
        self,
        net: Topology,
        devices: Sequence[str],
        *more: str,
        memory_mib: int = MEMORY_MIB,
        buffers: int = BUFFERS,
    ) -> None:
        self._net = net
        self._devices = devices
        self._more = more
        self._memory_mib = memory_mib
        self._buffers = buffers
        self._stack = contextlib.ExitStack()
        self._said: IO[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> TestpmdProcess:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        home = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-dpdk-"))
        self._said = self._stack.enter_context((Path(home) / "log").open("w+"))
        devices = [word for device in self._devices for word in ("--vdev", device)]
        main = min(os.sched_getaffinity(0))
        self._process = self._net.start(
            *(self._net.switch, *BOUND),
            *(TESTPMD, *eal(self._memory_mib), "-l", f"{main},{polling_cpu()}", "--no-telemetry"),
            *(*devices, "--", "--forward-mode=io", f"--total-num-mbufs={self._buffers}"),
            *("--stats-period=1", *self._more),
            stdout=self._said,
            stderr=self._said,
            env={**os.environ, "RUNTIME_DIRECTORY": home},
        )
        self._stack.callback(end_process, self._process)
        wait_until(self._forwards, START_S, "testpmd forwards")

    def _forwards(self) -> bool:
        if self.process.poll() is not None:
            said = self._text().strip().splitlines()[-3:]
            raise RuntimeError(f"testpmd ended with {self.process.returncode}: {' / '.join(said)}")
        return len(self.received()) >= 2

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _text(self) -> str:
        assert self._said is not None
        return Path(self._said.name).read_text(errors="replace")

    def received(self) -> list[int]:
        """Frames that the first port had received, every second since the start."""
        found = re.findall(r"NIC statistics for port 0 .*\n\s+RX-packets: (\d+)", self._text())
        return [int(count) for count in found]

    def worker(self) -> str:
        """The name of the thread that forwards, which differs between versions."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        names = {(task / "comm").read_text().strip() for task in tasks}
        return next(n for n in names if re.fullmatch(rf".*worker-?{polling_cpu()}", n))


class Testpmd(ProcessSubject):
    """Between packet or XDP sockets on the switch ends of two hosts."""

    completes_checksums = False

    def __init__(self, name: str, driver: str) -> None:
        super().__init__()
        self.name = name
        self._driver = driver

    def join(self, stack: contextlib.ExitStack) -> None:
        devices = interfaces(self._driver, self.net.switch_ifs)
        testpmd = stack.enter_context(TestpmdProcess(self.net, devices))
        self.polls(testpmd.process.pid)


def interfaces(driver: str, ifnames: Sequence[str]) -> list[str]:
    """DPDK's words for drivers that stand on an interface of the kernel."""
    return [f"{driver}{number},iface={ifname}" for number, ifname in enumerate(ifnames)]
