"""af_xdp ports over REST: two hosts behind a bridge, and the interfaces' own traffic afterwards.

host 0 ══ veth ══ p0 [br0] p1 ══ veth ══ host 1
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.fastpath import FastPath, bridge, port
from tests.support.kills import Traffic, lost_by_us, pauses_ms, undisturbed_loss
from tests.support.probes import ROOT
from tests.support.rigs import TAG_C, TAG_S, frame
from tests.support.stacks import iperf
from tests.support.topology import Topology, linux_bridge_over, run, wait_until
from tests.support.wire import HostPort

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2) as net:
        yield net


@pytest.fixture
def switch(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch, ["--af-xdp"]) as switch:
        yield switch


def put_bridge(net: Topology, switch: Appliance, *types: str) -> None:
    switch.put_bridge("br0")
    for i, type in enumerate(types):
        switch.put_port(f"p{i}", "br0", {"type": type, "ifname": net.switch_ifs[i]})
    switch.wait_ready(*(f"p{i}" for i in range(len(types))))
    switch.wait_ports(*(f"p{i}" for i in range(len(types))))


def ping(net: Topology, count: int = 5) -> str:
    words = ("ping", "-c", str(count), "-i", "0.05", "-W", "2", net.addresses[1])
    return net.run(net.hosts[0], *words)


def program(net: Topology, ifname: str) -> dict[str, Any] | None:
    """What is attached to an interface."""
    (link,) = json.loads(run("ip", "-n", net.switch, "-j", "-d", "link", "show", ifname))
    attached: dict[str, Any] | None = link.get("xdp")
    return attached


def test_hosts_reach_each_other(net: Topology, switch: Appliance) -> None:
    """Ping, and TCP whose checksums the senders leave to a device."""
    put_bridge(net, switch, "af_xdp", "af_xdp")
    assert " 0% packet loss" in ping(net)
    assert iperf(net, "-t", "1")["received_bytes"] > 1 << 20
    ledger = switch.check_ledger()
    assert ledger["rx_frames"] > 1000
    for item in switch.port_stats().values():
        assert item["rx_frames"] > 0
        assert item["tx_frames"] > 0
    assert all(program(net, ifname) for ifname in net.switch_ifs)


def test_the_program_goes_with_its_port(net: Topology, switch: Appliance) -> None:
    """The interface is the host's again."""
    put_bridge(net, switch, "af_xdp", "af_xdp")
    switch.call("DELETE", "/ports/p0")
    assert program(net, net.switch_ifs[1])
    wait_until(lambda: not program(net, net.switch_ifs[0]), 5, "detached with the port")
    switch.put_port("p0", "br0", {"type": "af_xdp", "ifname": net.switch_ifs[0]})
    switch.wait_ports("p0")
    assert " 0% packet loss" in ping(net)


def test_a_program_of_somebody_else_stays(net: Topology, switch: Appliance) -> None:
    """Two af_xdp ports on one interface are two such."""
    put_bridge(net, switch, "af_xdp", "af_packet")
    assert " 0% packet loss" in ping(net)
    with Appliance(net, net.switch, ["--af-xdp"]) as other:
        other.put_bridge("br0")
        backend = {"type": "af_xdp", "ifname": net.switch_ifs[0]}
        other.call("PUT", "/ports/q", {"spec": {"bridge": "br0", "backend": backend}})
        wait_until(lambda: ready(other, "q")["reason"] == "PORT_BUSY", 5, "it is refused")
    assert " 0% packet loss" in ping(net)


def ready(switch: Appliance, port: str) -> dict[str, Any]:
    return switch.conditions(port)["Ready"]


def test_it_is_off_unless_allowed(net: Topology) -> None:
    """The capabilities say why, preflight does, and so does a port that asks for it."""
    with Appliance(net, net.switch) as switch:
        types = switch.call("GET", "/system/capabilities")["port_types"]
        (reason,) = (item["reason"] for item in types if item["type"] == "af_xdp")
        assert "serve --af-xdp" in reason
        backend = {"type": "af_xdp", "ifname": net.switch_ifs[0]}
        switch.call("PUT", "/ports/p", {"spec": {"backend": backend}})
        wait_until(lambda: ready(switch, "p")["reason"] == "PRIVILEGE", 5, "it is refused")
        found = switch.call("GET", "/system/preflight")["findings"]
        assert [item["severity"] for item in found if "--af-xdp" in item["message"]] == [
            "error",
            "error",
        ]


# --- what a frame is not alone -------------------------------------------------------------------


@contextlib.contextmanager
def tag_aside(net: Topology) -> Iterator[HostPort]:
    """A place from where a frame's tag reaches host 0's interface beside the frame, as of a stack
    with a VLAN interface: a bridge takes it out of what comes in and leaves it to the device."""
    host, (ours, theirs) = net.hosts[0], (f"{net.prefix}x", f"{net.prefix}y")
    run("ip", "-n", host, "link", "add", "name", ours, "type", "veth", "peer", "name", theirs)
    for ifname in (ours, theirs):
        run("ip", "-n", host, "link", "set", ifname, "up")
    with linux_bridge_over(host, [theirs, net.host_ifs[0]]):
        yield HostPort(host, ours)


@pytest.mark.parametrize("receiver", ["af_xdp", "af_packet"])
def test_a_tag_beside_the_frame_is_not_lost(
    net: Topology, switch: Appliance, receiver: str
) -> None:
    """Without its tag the frame would be one of another VLAN."""
    put_bridge(net, switch, receiver, "af_packet")
    features = net.run(net.hosts[0], "ethtool", "-k", net.host_ifs[0])
    assert "tx-vlan-offload: on" in features
    frames = [frame(n, 100 + n, (TAG_C, 0x2005)) for n in range(50)]
    frames += [frame(100 + n, 100, (TAG_S, 0x0007), (TAG_C, 0x0008)) for n in range(50)]
    frames += [frame(200 + n, 1400) for n in range(50)]
    with tag_aside(net) as sender, contextlib.closing(sender):
        sink = HostPort(net.hosts[1], net.host_ifs[1])
        with contextlib.closing(sink):
            sender.send_all(frames)
            taken: list[bytes] = []

            def all_there() -> bool:
                taken.extend(data for data in sink.receive() if data[:12] == frames[0][:12])
                return len(taken) >= len(frames)

            wait_until(all_there, 5, "all frames")
    assert taken == frames
    switch.check_ledger()


def test_tags_that_nobody_tells_are_warned_of(net: Topology, switch: Appliance) -> None:
    """A Linux bridge takes tags out, and has no XDP of its own that could tell them."""
    with linux_bridge_over(net.switch, net.switch_ifs[:1]) as device:
        switch.put_bridge("br0")
        switch.put_port("p0", "br0", {"type": "af_xdp", "ifname": device})
        switch.wait_ports("p0")
        offloads = switch.conditions("p0")["OffloadsSafe"]
        assert offloads["status"] == "False"
        assert f"ethtool -K {device} rxvlan off" in offloads["message"]
        found = switch.call("GET", "/system/preflight")["findings"]
        (finding,) = (item for item in found if item["code"] == "OFFLOADS_ENABLED")
        assert finding["fix"] == f"ethtool -K {device} rxvlan off"
        switch.put_port("p1", "br0", {"type": "af_xdp", "ifname": net.switch_ifs[1]})
        switch.wait_ports("p1")
        assert " 0% packet loss" in ping(net)
        # What the sender leaves to its device to cut arrives in one piece.
        assert iperf(net, "-t", "1")["received_bytes"] > 1 << 20
        assert iperf(net, "-t", "1", "-R")["received_bytes"] > 1 << 20
        assert switch.drops("too_big") == 0
        assert switch.check_ledger()["segments"] > 100
        assert switch.conditions("p1")["OffloadsSafe"]["status"] == "True"
        switch.call("DELETE", "/ports/p0")
        switch.wait_ports("p1")


# --- kills ---------------------------------------------------------------------------------------


@pytest.fixture
def path(net: Topology, home: Path) -> Iterator[FastPath]:
    with FastPath(home, netns=net.switch, arguments=["--af-xdp"]) as started:
        put_ports(net, started)
        yield started


def put_ports(net: Topology, path: FastPath) -> None:
    ports = (
        port(f"p{i}", "af_xdp", "br0", options={"ifname": ifname})
        for i, ifname in enumerate(net.switch_ifs)
    )
    with path.client() as client:
        ack = client.apply([bridge("br0"), *ports])
    assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes


def test_eight_capabilities_are_enough(net: Topology, home: Path) -> None:
    """Those of docker/compose.yaml and docker/compose.af_xdp.yaml."""
    added = [
        line.split()[1].lower()
        for name in ("compose.yaml", "compose.af_xdp.yaml")
        for line in (ROOT / "docker" / name).read_text().splitlines()
        if re.fullmatch(r"      - [A-Z_]+( +#.*)?", line)
    ]
    assert len(added) == 8
    held = "-all," + ",".join(f"+{capability}" for capability in added)
    prefix = ("setpriv", f"--bounding-set={held}", f"--inh-caps={held}")
    arguments = ["--af-xdp"]
    with FastPath(home, netns=net.switch, prefix=prefix, arguments=arguments) as started:
        put_ports(net, started)
        assert " 0% packet loss" in ping(net)


def test_the_program_goes_with_the_last_holder(net: Topology, path: FastPath) -> None:
    """Either of keeper and forwarder is enough; without both the interface is the host's."""
    path.kill_keeper()
    assert " 0% packet loss" in ping(net)
    assert all(program(net, ifname) for ifname in net.switch_ifs)
    path.kill_forwarder()
    for ifname in net.switch_ifs:
        wait_until(lambda ifname=ifname: not program(net, ifname), 5, "detached")  # type: ignore[misc]


@pytest.mark.alone
@pytest.mark.parametrize("killed", ["forwarder", "keeper"])
def test_kills_lose_nothing(net: Topology, path: FastPath, killed: str) -> None:
    """As many kills as there are standbys in time; no frame is lost and none sent twice."""
    usual_loss = undisturbed_loss(net, path)
    path.wait_standby()
    traffic = Traffic(net, path, 6)
    kills: list[int] = []
    while traffic.running and len(kills) < 8:
        kills.append(time.time_ns())
        if killed == "keeper":
            path.kill_keeper()
            path.start()
            path.wait_standby()
        path.wait_replaced(path.kill_forwarder())
        path.wait_standby()
    lost, report = traffic.result()
    at_kills, other = pauses_ms(report, kills)
    assert kills
    assert lost_by_us(lost, report, other) <= usual_loss, (lost, at_kills, report)
    assert report["duplicates"] == 0
    with path.client() as client:
        assert client.check_ledger().rx_frames >= report["unique"]
