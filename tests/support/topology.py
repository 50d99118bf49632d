"""Network namespaces and veth pairs around a switch under test.

        host 0                    switch                     host 1
    +-----------+          +------------------+          +-----------+
    | IDh0      |==========| IDp0        IDp1 |==========| IDh1      |
    | 10.99.0.1 |   veth   | (what is tested) |   veth   | 10.99.0.2 |
    +-----------+          +------------------+          +-----------+
     netns ID-h0               netns ID-sw                netns ID-h1

ID holds the process id, so that tests run side by side; every host has its namespace, the switch
has one too (nothing in the machine's own namespace is touched). IPv6 is off so that
an idle link is silent; bridge-nf-call-* is off where it exists, so that the Linux bridge as a
peer does not pay for netfilter.

    with Topology(hosts=2) as net:
        net.run(net.switch, "ip", "link", "add", "br", "type", "bridge")
        server = net.start(net.hosts[1], "iperf3", "-s")

Leaving the block ends what was started in it (by process id) and removes everything, after an
exception, SIGINT and SIGTERM too. What a killed process left behind is removed by the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any

_serial = itertools.count()
_NETNS = Path("/run/netns")


class CommandError(RuntimeError):
    """A command failed; the message holds what it said."""


def run(*argv: str, timeout_s: float = 60, text: str | None = None) -> str:
    """Runs a command to its end, with text as its input; returns its standard output."""
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise CommandError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return done.stdout


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Returns as soon as condition() holds; TimeoutError names what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.002)


def first_line(process: subprocess.Popen[str]) -> str:
    """What a program says first, without its newline.

    readline() would take more out of the pipe than the line, and communicate() would not find
    the rest, of a program that says the rest at once.
    """
    assert process.stdout is not None
    line = bytearray()
    while (byte := os.read(process.stdout.fileno(), 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def wait_said(process: subprocess.Popen[str], part: str) -> None:
    """Until it has said a line with that part; RuntimeError when it has ended before."""
    while part not in (line := first_line(process)):
        if not line and process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}, without {part!r}")


def end_process(process: subprocess.Popen[Any], timeout_s: float = 5) -> None:
    """SIGTERM, then SIGKILL after timeout_s; a process that has ended already is no error."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class Topology:
    """Host namespaces joined to a switch namespace by veth pairs; use as a context manager.

    hosts       how many hosts; host i is at 10.99.0.(i+1)/24 when addresses is true
    mtu         of both ends of every pair, in bytes
    """

    def __init__(self, hosts: int = 2, *, mtu: int = 1500, addresses: bool = True) -> None:
        if os.geteuid() != 0:
            raise PermissionError("network namespaces need root: run this as root")
        area = os.environ.get("VSWITCH_TEST_PREFIX", "vs")
        serial = next(_serial)
        self.prefix = f"{area}{os.getpid():x}.{serial}"
        self.switch = f"{area}-{os.getpid():x}-{serial}-sw"
        self.hosts = [f"{area}-{os.getpid():x}-{serial}-h{i}" for i in range(hosts)]
        self.host_ifs = [f"{self.prefix}h{i}" for i in range(hosts)]
        self.switch_ifs = [f"{self.prefix}p{i}" for i in range(hosts)]
        self.addresses = [f"10.99.0.{i + 1}" for i in range(hosts)] if addresses else []
        self.mtu = mtu
        self._processes: list[subprocess.Popen[Any]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Topology:
        sweep_dead()
        self._handlers = {signal.SIGTERM: signal.signal(signal.SIGTERM, _on_sigterm)}
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _build(self) -> None:
        for name in (self.switch, *self.hosts):
            run("ip", "netns", "add", name)
            self.sysctl(name, "net.ipv6.conf.all.disable_ipv6", "1")
            self.sysctl(name, "net.ipv6.conf.default.disable_ipv6", "1")
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.bridge_nf_off(self.switch)
        for i, host in enumerate(self.hosts):
            ours, theirs = self.switch_ifs[i], self.host_ifs[i]
            run(
                *("ip", "-n", self.switch, "link", "add", ours, "mtu", str(self.mtu)),
                *("type", "veth", "peer", "name", theirs, "mtu", str(self.mtu), "netns", host),
            )
            run("ip", "-n", self.switch, "link", "set", ours, "up")
            run("ip", "-n", host, "link", "set", theirs, "up")
            if self.addresses:
                address = f"{self.addresses[i]}/24"
                run("ip", "-n", host, "address", "add", address, "dev", theirs)

    def bridge_nf_off(self, netns: str) -> None:
        for table in ("iptables", "ip6tables", "arptables"):
            self.sysctl(netns, f"net.bridge.bridge-nf-call-{table}", "0", optional=True)

    def sysctl(self, netns: str, name: str, value: str, *, optional: bool = False) -> None:
        """Sets a sysctl of one namespace; optional ones may not exist on this kernel."""
        if optional and not Path("/proc/sys", *name.split(".")).exists():
            return
        run("ip", "netns", "exec", netns, "sysctl", "-qw", f"{name}={value}")

    def run(self, netns: str, *argv: str, timeout_s: float = 60, text: str | None = None) -> str:
        """Runs a command in a namespace to its end and returns its standard output."""
        return run("ip", "netns", "exec", netns, *argv, timeout_s=timeout_s, text=text)

    def start(
        self,
        netns: str | None,
        *argv: str,
        stdin: int | None = None,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a command, in a namespace or here; it is ended when the block is left."""
        command = argv if netns is None else ("ip", "netns", "exec", netns, *argv)
        process = subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=env, cwd=cwd, text=True
        )
        self._processes.append(process)
        return process

    def counter(self, netns: str, ifname: str, name: str) -> int:
        """One of the kernel's interface counters: rx_packets, tx_dropped, ..."""
        path = f"/sys/class/net/{ifname}/statistics/{name}"
        return int(self.run(netns, "cat", path))

    def receive_offload(self, host: int) -> None:
        """The switch end of a host's pair takes XDP frames: it has NAPI when it may merge."""
        self.run(self.switch, "ethtool", "-K", self.switch_ifs[host], "gro", "on")

    def mac(self, netns: str, ifname: str) -> str:
        return self.run(netns, "cat", f"/sys/class/net/{ifname}/address").strip()

    def close(self) -> None:
        """Ends the processes and removes namespaces and links; does nothing the second time."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            end_process(process)
        for name in (*self.hosts, self.switch):
            remove_netns(name)
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            signal.signal(number, handler)


def remove_netns(name: str) -> None:
    """Removes a namespace with its veth ends, at once and not when the kernel gets to it."""
    if not (_NETNS / name).exists():
        return
    links = subprocess.run(
        ["ip", "-n", name, "-br", "link"], capture_output=True, text=True, check=False
    )
    for line in links.stdout.splitlines():
        link = line.split()[0].split("@")[0]
        if link != "lo":
            subprocess.run(
                ["ip", "-n", name, "link", "delete", link], capture_output=True, check=False
            )
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def sweep_dead() -> None:
    """Removes the namespaces of processes that were killed before they could."""
    area = os.environ.get("VSWITCH_TEST_PREFIX", "vs")
    pattern = re.compile(re.escape(area) + r"-([0-9a-f]+)-\d+-(sw|h\d+)")
    for name in _names():
        found = pattern.fullmatch(name)
        if found and not Path("/proc", str(int(found[1], 16))).exists():
            remove_netns(name)


def _names() -> Sequence[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(_NETNS))
    return []


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def linux_bridge(net: Topology, name: str = "lbr") -> Iterator[str]:
    """A Linux bridge over all switch ends of net; removed at the end of the block."""
    with linux_bridge_over(net.switch, net.switch_ifs, net.mtu, name):
        yield name


@contextlib.contextmanager
def linux_bridge_over(
    netns: str, ifnames: Sequence[str], mtu: int = 1500, name: str = "lbr"
) -> Iterator[str]:
    """A Linux bridge over interfaces of one namespace; removed at the end of the block.

    Without STP, multicast snooping and IPv6, so that it forwards at once and says nothing of
    its own.
    """
    run(
        *("ip", "-n", netns, "link", "add", name, "mtu", str(mtu), "type", "bridge"),
        *("stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"),
        *("no_linklocal_learn", "1"),
    )
    try:
        for ifname in ifnames:
            run("ip", "-n", netns, "link", "set", ifname, "master", name)
        run("ip", "-n", netns, "link", "set", name, "up")
        yield name
    finally:
        subprocess.run(
            ["ip", "-n", netns, "link", "delete", name], capture_output=True, check=False
        )
