"""The guest's network: an appliance in a namespace, hosts at the ends of veth pairs.

Names in the module (interfaces, VALE switches) are those of the namespace, so that whoever opens
the device does so from there.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tests.support.appliance import Appliance
from tests.support.topology import Topology, wait_until
from tests.support.wire import HostPort, in_netns

HOSTS = 3
WINDOW = 64
ETHERTYPE = b"\x88\xb5"  # local experimental, IEEE 802
T = TypeVar("T")


def netmap(portspec: str) -> dict[str, Any]:
    return {"type": "netmap", "portspec": portspec}


def carry(
    send: Callable[[Sequence[bytes]], None],
    receive: Callable[[], Sequence[bytes]],
    frames: Sequence[bytes],
    timeout_s: float = 60,
) -> None:
    """Sends all frames, a few at a time, and requires that the same come out in order."""
    came: list[bytes] = []

    def arrived(count: int) -> bool:
        came.extend(frame for frame in receive() if frame[12:14] == ETHERTYPE)
        return len(came) >= count

    for start in range(0, len(frames), WINDOW):
        part = frames[start : start + WINDOW]
        send(part)
        want = start + len(part)
        wait_until(lambda want=want: arrived(want), timeout_s, f"frame {want}")  # type: ignore[misc]
    if came == list(frames):
        return
    changed = len(set(came) - set(frames))
    missing = len(set(frames) - set(came))
    first = next(
        (n for n, pair in enumerate(zip(frames, came, strict=False)) if pair[0] != pair[1]), 0
    )
    raise AssertionError(
        f"{len(came)} of {len(frames)} frames, {changed} changed, {missing} missing, the first "
        f"difference at {first}: sent {frames[first][:24].hex()}, came {came[first][:24].hex()}"
    )


def numbered(number: int, length: int = 60, source: int = 1, to: int = 2) -> bytes:
    """A frame that carries a number. Its addresses are locally administered, its EtherType an
    experimental one: no stack answers."""
    head = bytes([2, 0, 0, 0xFD, 0, to, 2, 0, 0, 0xFD, 0, source]) + ETHERTYPE
    body = number.to_bytes(4, "big") + bytes((number + i) & 0xFF for i in range(length - 18))
    return head + body


class SlowAppliance(Appliance):
    """Nobody gives an emulated processor any speed."""

    start_s = 240.0
    request_s = 60.0


class World:
    """`net`, and `switch`: an appliance that runs in net.switch. Use as a context manager."""

    def __enter__(self) -> World:
        with contextlib.ExitStack() as stack:
            self.net = stack.enter_context(Topology(hosts=HOSTS))
            self.switch = stack.enter_context(SlowAppliance(self.net, self.net.switch))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def portspec(self, host: int, rest: str = "") -> dict[str, Any]:
        """A backend on the switch's end of a host's pair."""
        return netmap(f"netmap:{self.net.switch_ifs[host]}{rest}")

    def here(self, call: Callable[[], T]) -> T:
        """In the switch's namespace, where the module knows its interfaces."""
        return in_netns(self.net.switch, call)

    def conditions(self, port: str) -> dict[str, dict[str, Any]]:
        return self.switch.conditions(port)

    def status(self, port: str) -> dict[str, Any]:
        found: dict[str, Any] = self.switch.call("GET", f"/ports/{port}")["status"]
        return found

    @contextlib.contextmanager
    def wire(self, *hosts: int) -> Iterator[list[HostPort]]:
        """Packet sockets at the hosts' ends."""
        ports = [HostPort(self.net.hosts[i], self.net.host_ifs[i]) for i in hosts]
        try:
            yield ports
        finally:
            for port in ports:
                port.close()

    @contextlib.contextmanager
    def bridge(
        self, name: str, spec: dict[str, Any] | None = None, /, **backends: dict[str, Any]
    ) -> Iterator[None]:
        """A bridge over ports named as the keywords; bridge and ports are removed at the end."""
        made: list[str] = []
        self.switch.put_bridge(name, **(spec or {}))
        try:
            for port, backend in backends.items():
                self.switch.put_port(port, name, backend)
                made.append(port)
            self.switch.wait_ready(*made, timeout_s=60)
            yield
        finally:
            for port in reversed(made):
                self.switch.call("DELETE", f"/ports/{port}")
            self.switch.call("DELETE", f"/bridges/{name}")

    def ping(self, source: int, to: int, count: int) -> int:
        """Answers that host `source` gets from host `to`; 0 where none comes."""
        return self.ping_address(source, self.net.addresses[to], count)

    def ping_address(self, source: int, address: str, count: int) -> int:
        done = subprocess.run(
            [
                *("ip", "netns", "exec", self.net.hosts[source], "ping", "-q", "-i", "0.2"),
                *("-c", str(count), "-W", "2", address),
            ],
            capture_output=True,
            text=True,
            timeout=60 + 3 * count,
            check=False,
        )
        found = re.search(r"(\d+) received", done.stdout)
        if found is None:
            raise RuntimeError(f"ping: {done.stdout}{done.stderr}")
        return int(found[1])
