"""TAPs of the appliance as an operator meets them: the host behind one, names, persistence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.appliance import Appliance
from tests.support.topology import Topology, run, wait_until
from tests.support.wire import HostPort

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=1) as net:
        yield net


@pytest.fixture
def switch(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch) as switch:
        switch.bridge("br0", *net.switch_ifs)
        yield switch


def host_tap(net: Topology, switch: Appliance) -> str:
    """A TAP whose interface stays in the switch's namespace and has an address there."""
    name = f"{net.prefix}t"
    switch.put_port("t", "br0", {"type": "tap", "name": name})
    switch.wait_ports("t")
    run("ip", "-n", net.switch, "address", "add", "10.99.0.77/24", "dev", name)
    return name


def ping(net: Topology, netns: str, target: str) -> None:
    net.run(netns, "ping", "-c", "5", "-i", "0.02", "-W", "2", target)


def test_N3_the_hosts_stack_through_the_switch(net: Topology, switch: Appliance) -> None:
    """host's stack ── TAP ── [br0] ── af_packet ── veth ── host 0"""
    host_tap(net, switch)
    ping(net, net.switch, net.addresses[0])
    ping(net, net.hosts[0], "10.99.0.77")
    stats = switch.port_stats()
    assert all(stats[port]["rx_frames"] >= 10 for port in ("t", "p0"))
    switch.check_ledger()


def test_T1_ping_and_the_same_frames_on_both_sides(net: Topology, switch: Appliance) -> None:
    """What goes into the TAP comes out of the veth, byte for byte, and the other way."""
    tap = HostPort(net.switch, host_tap(net, switch))
    veth = HostPort(net.hosts[0], net.host_ifs[0])
    try:
        ping(net, net.switch, net.addresses[0])
        # Both sockets see what their interface receives, not what it sends.
        answers, requests = tap.receive(), veth.receive()
        assert sum(data[34:35] == b"\x00" for data in answers if data[12:14] == b"\x08\x00") == 5
        assert sum(data[34:35] == b"\x08" for data in requests if data[12:14] == b"\x08\x00") == 5
        for source, sink, tags in ((tap, veth, b""), (veth, tap, b"\x81\x00\x20\x05")):
            head = b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x07" + tags + b"\x88\xb5"
            frames = [head + bytes([n]) * (60 + 13 * n) for n in range(100)]
            for frame in frames:
                source.send(frame)
            got: list[bytes] = []

            def enough(sink: HostPort = sink, got: list[bytes] = got) -> bool:
                got.extend(data for data in sink.receive() if b"\x88\xb5" in data[12:18])
                return len(got) >= 100

            wait_until(enough, 5, "all frames arrive")
            assert got == frames
    finally:
        tap.close()
        veth.close()
    switch.check_ledger()


def test_T3_the_kernel_names_the_interface(net: Topology, switch: Appliance) -> None:
    for port, kind in (("t", "tap"), ("u", "tun")):
        switch.put_port(port, "br0", {"type": kind, "name": f"q{kind}%d"})
        switch.wait_ports(port)
        status = switch.call("GET", f"/ports/{port}")["status"]
        assert status["device"] == f"q{kind}0"
        assert f" q{kind}0:" in run("ip", "-n", net.switch, "-o", "link")
        switch.call("DELETE", f"/ports/{port}")
        wait_until(
            lambda kind=kind: f" q{kind}0:" not in run("ip", "-n", net.switch, "-o", "link"),  # type: ignore[misc]
            5,
            "it goes with the port",
        )


@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_T3_a_persistent_device_stays_over_a_restart(
    net: Topology, switch: Appliance, kind: str
) -> None:
    name = f"{net.prefix}k"
    switch.put_port("t", "br0", {"type": kind, "name": name, "persistent": True})
    switch.wait_ports("t")
    before = switch.call("GET", "/ports/t")["status"]
    switch.stop()
    link = run("ip", "-n", net.switch, "-o", "link", "show", name)
    assert link.startswith(f"{before['ifindex']}:")
    switch.start()
    switch.wait_ports("t")
    after = switch.call("GET", "/ports/t")["status"]
    assert (after["ifindex"], after["mac"]) == (before["ifindex"], before["mac"])
    switch.call("DELETE", "/ports/t")
    wait_until(lambda: "t" not in switch.port_stats(), 5, "the port is gone")
    run("ip", "-n", net.switch, "link", "delete", name)
