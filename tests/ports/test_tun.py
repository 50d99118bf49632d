"""TUN ports: IP stacks without Ethernet as stations of a bridge.

   host 0                     test process                      host 1
+------------+        +---------------------------+        +------------+
| tun0  (ns) |========| port a    bridge   port b |========| tun1  (ns) |
+------------+   fd   |           port m          |   fd   +------------+
                      +---------------------------+
                        memory: this process is a station of the bridge
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import Topology, run
from tests.support.wire import in_netns

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as net:
        yield net


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


def ipv6_on(net: Topology, netns: str) -> None:
    for where in ("all", "default"):
        net.sysctl(netns, f"net.ipv6.conf.{where}.disable_ipv6", "0")


def join(net: Topology, switch: Switch, host: int, kind: str, **options: str) -> Attached:
    """A port whose device is host's interface, with addresses 10.7.0.x and fd07::x."""
    netns, name = net.hosts[host], f"{kind}{host}"
    attached = switch.attach(
        in_netns(net.switch, lambda: acquire(f"p{host}", kind, {"name": name, **options}))
    )
    run("ip", "-n", net.switch, "link", "set", name, "netns", netns)
    ipv6_on(net, netns)
    run("ip", "-n", netns, "link", "set", name, "up")
    run("ip", "-n", netns, "address", "add", f"10.7.0.{host + 1}/24", "dev", name)
    run("ip", "-n", netns, "address", "add", f"fd07::{host + 1}/64", "dev", name, "nodad")
    return attached


def ping(net: Topology, host: int, target: str, *options: str) -> None:
    net.run(net.hosts[host], "ping", "-c", "3", "-i", "0.05", "-W", "3", *options, target)


@pytest.mark.parametrize("kinds", [("tun", "tun"), ("tun", "tap"), ("tap", "tun")])
def test_T2_ping_across(net: Topology, switch: Switch, kinds: tuple[str, str]) -> None:
    """Nothing is configured but names: each side is found by asking."""
    ports = [join(net, switch, host, kind) for host, kind in enumerate(kinds)]
    for target in ("10.7.0.2", "fd07::2"):
        ping(net, 0, target)
    switch.settle()
    for attached, kind in zip(ports, kinds, strict=True):
        counters = switch.counters(attached)
        if kind == "tun":
            assert counters.originated > 0
            assert counters.consumed > 0
