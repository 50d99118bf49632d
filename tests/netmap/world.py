"""The guest's network: an appliance in a namespace, hosts at the ends of veth pairs.

Names in the module (interfaces, VALE switches) are those of the namespace, so that whoever opens
the device does so from there.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from types import TracebackType
from typing import Any

from tests.support.appliance import Appliance
from tests.support.topology import Topology

HOSTS = 4


def numbered(number: int, length: int = 60, source: int = 1, to: int = 2) -> bytes:
    """A frame that carries a number. Its addresses are locally administered, its EtherType an
    experimental one: no stack answers."""
    head = bytes([2, 0, 0, 0xFD, 0, to, 2, 0, 0, 0xFD, 0, source]) + b"\x88\xb5"
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

    @contextlib.contextmanager
    def bridge(self, name: str, **backends: dict[str, Any]) -> Any:
        """A bridge over ports named as the keywords; bridge and ports are removed at the end."""
        made: list[str] = []
        self.switch.put_bridge(name)
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
        done = subprocess.run(
            [
                *("ip", "netns", "exec", self.net.hosts[source], "ping", "-q", "-i", "0.2"),
                *("-c", str(count), "-W", "2", self.net.addresses[to]),
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
