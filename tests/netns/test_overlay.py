"""vxlan and udp ports against a socket that says whatever a test wants it to.

socket at host 0 ══ veth ══ the port under test ── bridge ── memory port
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.netns.test_vxlan_kernel import ping, station
from tests.support.overlay import (
    SWITCH,
    SWITCH6,
    UDP_PORT,
    VNI,
    VXLAN_PORT,
    UdpPeer,
    Underlay,
    endpoint,
    overlay_datagram,
    udp_options,
    vxlan_datagram,
    vxlan_options,
)
from tests.support.rigs import OverlayRig, UdpRig, VxlanRig, frame
from tests.support.switch import Attached, NativeError, Switch, acquire
from tests.support.topology import run, wait_until
from tests.support.wire import in_netns

pytestmark = pytest.mark.root

RIGS = {"vxlan": VxlanRig, "udp": UdpRig}


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


@pytest.fixture
def inside(switch: Switch) -> Attached:
    return switch.add("inside", "memory", {"slots": "1024"})


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OverlayRig]:
    with contextlib.closing(RIGS[request.param](tmp_path)) as rig:
        yield rig


# --- the seeds' overlay --------------------------------------------------------------------------


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("underlay", "inner", "payload"),
    [(1600, 1500, 1472), (1500, 1500, 1472), (9100, 9000, 8972), (1500, 9000, 8972)],
)
def test_T4_ping_over_udp(underlay: int, inner: int, payload: int, ipv6: bool) -> None:
    """Two switches in two namespaces, a station on each; with and without outer fragments."""
    with Underlay(hosts=1, mtu=underlay) as net, Switch() as here, Switch() as there:
        near, far = (SWITCH6, net.address6(0)) if ipv6 else (SWITCH, net.addresses[0])
        tunnels = []
        for switch, netns, local, peer in (
            (here, net.switch, near, far),
            (there, net.hosts[0], far, near),
        ):
            options = udp_options([peer], local)
            tunnels.append(
                switch.attach(
                    in_netns(netns, lambda options=options: acquire("u", "udp", options))  # type: ignore[misc]
                )
            )
        station(here, net, inner)
        tap = {"name": f"{net.prefix}u", "mtu": str(inner)}
        there.attach(in_netns(net.hosts[0], lambda: acquire("tap", "tap", tap)))
        run("ip", "-n", net.hosts[0], "address", "add", "172.30.0.1/24", "dev", tap["name"])
        ping(net, net.switch, "172.30.0.1", payload, dont_fragment=True)
        wanted = underlay - (70 if ipv6 else 50)
        for switch, tunnel in zip((here, there), tunnels, strict=True):
            assert switch.status(tunnel).mtu == wanted, "what fits without outer fragments"
            # A TAP's stack says hello before there is anyone else on the other switch.
            assert set(switch.counters(tunnel).rx_drops) <= {"no_destination"}
            assert switch.counters(tunnel).tx_drops == {}
            assert switch.counters(tunnel).tx_frames >= 5
            switch.clear()


# --- what is not let in --------------------------------------------------------------------------

Make = Callable[[bytes], bytes]
DATAGRAMS: dict[str, tuple[type[OverlayRig], Make, str]] = {
    "vxlan-flag-clear": (VxlanRig, lambda f: vxlan_datagram(f, flags=0), "overlay_invalid"),
    "vxlan-other-flags": (VxlanRig, lambda f: vxlan_datagram(f, flags=0xF7), "overlay_invalid"),
    "vxlan-vni": (VxlanRig, lambda f: vxlan_datagram(f, vni=VNI + 1), "unknown_vni"),
    "vxlan-short": (VxlanRig, lambda f: vxlan_datagram(f)[:7], "overlay_invalid"),
    "vxlan-empty": (VxlanRig, lambda f: b"", "overlay_invalid"),
    "vxlan-no-frame": (VxlanRig, lambda f: vxlan_datagram(b""), "malformed"),
    "vxlan-runt": (VxlanRig, lambda f: vxlan_datagram(f[:13]), "malformed"),
    "udp-version": (UdpRig, lambda f: overlay_datagram(f, version=2), "overlay_invalid"),
    "udp-key": (UdpRig, lambda f: overlay_datagram(f, flags=0x80, key=1), "overlay_invalid"),
    "udp-key-without-flag": (UdpRig, lambda f: overlay_datagram(f, key=1), "overlay_invalid"),
    "udp-reserved": (UdpRig, lambda f: overlay_datagram(f, flags=1), "overlay_invalid"),
    "udp-too-long": (UdpRig, lambda f: overlay_datagram(f, length=999), "overlay_invalid"),
    "udp-cut": (UdpRig, lambda f: overlay_datagram(f)[:-1], "overlay_invalid"),
    "udp-vni": (UdpRig, lambda f: overlay_datagram(f, vni=VNI + 1), "unknown_vni"),
    "udp-vni-0": (UdpRig, lambda f: overlay_datagram(f, vni=0), "overlay_invalid"),
    "udp-empty": (UdpRig, lambda f: b"", "overlay_invalid"),
    "udp-vxlan": (UdpRig, vxlan_datagram, "overlay_invalid"),
}


@pytest.mark.parametrize("name", DATAGRAMS)
def test_T4_bad_headers_are_counted(
    switch: Switch, inside: Attached, tmp_path: Path, name: str
) -> None:
    make_rig, make, reason = DATAGRAMS[name]
    with contextlib.closing(make_rig(tmp_path)) as rig:
        port = switch.attach(rig.open())
        for n in range(3):
            rig.peer.send_raw(make(frame(n, source=9)))
        rig.peer.send(frame(7))
        assert switch.take(inside, 1) == [frame(7)]
        switch.settle()
        counters = switch.counters(port)
        assert (counters.rx_frames, counters.rx_drops) == (4, {reason: 3})
        assert counters.learned == 1


def test_reserved_bits_of_vxlan_are_not_looked_at(
    switch: Switch, inside: Attached, tmp_path: Path
) -> None:
    """RFC 7348, section 5: ignored on receipt."""
    with contextlib.closing(VxlanRig(tmp_path)) as rig:
        switch.attach(rig.open())
        header = struct.pack("!B3sI", 0xFF, b"\xff\xff\xff", VNI << 8 | 0xFF)
        rig.peer.send_raw(header + frame(1))
        assert switch.take(inside, 1) == [frame(1)]


def test_T4_strangers_are_counted(switch: Switch, inside: Attached, rig: OverlayRig) -> None:
    """Another address; for udp another port of a peer's address too."""
    port = switch.attach(rig.open())
    net, to = rig.net, (SWITCH, rig.udp_port)
    run("ip", "-n", net.hosts[0], "address", "add", "10.99.0.77/24", "dev", net.host_ifs[0])
    route = ("ip", "-n", net.switch, "route", "add", "10.99.0.77/32", "dev", net.switch_ifs[0])
    run(*route)
    strangers = [("10.99.0.77", rig.udp_port)]
    neighbour = (net.addresses[0], 40000)
    if rig.type == "udp":
        strangers.append(neighbour)
    for local in strangers:
        with UdpPeer(net.hosts[0], local, to, type(rig).encode) as stranger:
            stranger.send(frame(1, source=9))
    rig.peer.send(frame(2))
    assert switch.take(inside, 1) == [frame(2)]
    switch.settle()
    assert switch.counters(port).rx_drops == {"unknown_peer": len(strangers)}
    if rig.type == "vxlan":
        with UdpPeer(net.hosts[0], neighbour, to, type(rig).encode) as same_host:
            same_host.send(frame(3))
        assert switch.take(inside, 1) == [frame(3)]


# --- ways out ------------------------------------------------------------------------------------


def flow(number: int, size: int = 100) -> bytes:
    """UDP over IPv4 from a source port of its own."""
    payload = bytes([number & 0xFF]) * size
    udp = struct.pack("!HHHH", 10000 + number, 53, 8 + size, 0)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 64, 17, 0)
    ip += bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return bytes.fromhex("0200000000020200000000010800") + ip + udp + payload


def received_from(peer: UdpPeer, count: int) -> list[tuple[int, bytes]]:
    """(source port, datagram), in order."""
    found: list[tuple[int, bytes]] = []

    def enough() -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = peer.socket.recvfrom(65536, 0x40)
                found.append((source[1], data))
        return len(found) >= count

    wait_until(enough, 10, f"{count} datagrams")
    return found


def test_flows_have_source_ports(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    """RFC 7348, section 5: from the dynamic range, one a flow, in which its frames keep order."""
    with contextlib.closing(VxlanRig(tmp_path)) as rig:
        switch.attach(rig.open({"source_ports": "8"}))
        frames = [flow(n % 64, 100 + n % 7) for n in range(640)]
        switch.send(inside, frames)
        found = received_from(rig.peer, len(frames))
    ports = {source for source, _ in found}
    assert len(ports) == 8
    assert all(49152 <= source <= 65535 for source in ports)
    for number in range(64):
        sent = [vxlan_datagram(f) for f in frames if f[34:36] == struct.pack("!H", 10000 + number)]
        ours = [(source, data) for source, data in found if data[42:44] == sent[0][42:44]]
        assert len({source for source, _ in ours}) == 1
        assert [data for _, data in ours] == sent


def test_udp_is_sent_from_the_local_port(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    with contextlib.closing(UdpRig(tmp_path)) as rig:
        switch.attach(rig.open())
        switch.send(inside, [flow(n) for n in range(16)])
        assert {source for source, _ in received_from(rig.peer, 16)} == {UDP_PORT}


def test_datagrams_that_the_kernel_does_not_cut_go_one_by_one(
    switch: Switch, inside: Attached, rig: OverlayRig
) -> None:
    """A path narrower than its interface: UDP_SEGMENT is refused, single datagrams are sent in
    fragments, and no frame is lost over it."""
    port = switch.attach(rig.open())
    net = rig.net
    run(
        *("ip", "-n", net.switch, "route", "replace", f"{net.addresses[0]}/32"),
        *("dev", net.switch_ifs[0], "mtu", "600"),
    )
    for first in (0, 200):
        frames = [frame(first + n, 1000) for n in range(200)]
        switch.send(inside, frames)
        assert rig.receive(switch, len(frames)) == frames
    assert switch.counters(port).tx_drops == {}


def test_coalesced_datagrams_are_told_apart(
    switch: Switch, inside: Attached, rig: OverlayRig
) -> None:
    """A sender that segments (UDP_SEGMENT) arrives as one message of up to 64 datagrams, of which
    a batch may take a part."""
    port = switch.attach(rig.open())
    encode = type(rig).encode
    rig.peer.socket.setsockopt(17, 103, 108)  # SOL_UDP, UDP_SEGMENT
    frames = [frame(n, 100) for n in range(60)]
    for _ in range(4):
        for _ in range(10):
            rig.peer.send_raw(b"".join(map(encode, frames)))
        assert switch.take(inside, 10 * 60) == frames * 10
    # Too short for any header, and a last one that is shorter than the others.
    rig.peer.socket.setsockopt(17, 103, 5)
    rig.peer.send_raw(b"x" * 23)
    switch.settle()
    wait_until(lambda: switch.counters(port).rx_frames == 2405, 5, "five more")
    assert switch.counters(port).rx_drops == {"overlay_invalid": 5}


def test_several_queues_share_the_port(switch: Switch, inside: Attached, tmp_path: Path) -> None:
    with contextlib.closing(VxlanRig(tmp_path)) as rig:
        port = switch.attach(rig.open({"queues": "4"}))
        assert switch.status(port).rx_queues == 4
        to = (SWITCH, VXLAN_PORT)
        with contextlib.ExitStack() as stack:
            for n in range(32):
                local = (rig.net.addresses[0], 40000 + n)
                peer = stack.enter_context(UdpPeer(rig.net.hosts[0], local, to, vxlan_datagram))
                peer.send(frame(n))
            assert sorted(switch.take(inside, 32)) == sorted(frame(n) for n in range(32))
        used = [switch.engine.queue_counters(port.slot, queue)[0].rx_frames for queue in range(4)]
        assert sum(used) == 32
        assert sum(1 for frames in used if frames) > 1


# --- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "change"),
    [
        ("vxlan", {"vni": "0"}),
        ("vxlan", {"vni": "16777216"}),
        ("vxlan", {"local": "0.0.0.0"}),
        ("vxlan", {"local": "::"}),
        ("vxlan", {"local": "fe80::1"}),
        ("vxlan", {"local": "localhost"}),
        ("vxlan", {"local": "10.99.0.254:4789"}),
        ("vxlan", {"remotes": ""}),
        ("vxlan", {"remotes": SWITCH}),
        ("vxlan", {"remotes": "fd99::1"}),
        ("vxlan", {"remotes": "10.99.0.1,10.99.0.1"}),
        ("vxlan", {"remotes": "10.99.0.1," + "x" * 100}),
        ("vxlan", {"remotes": ",".join(f"10.98.0.{n}" for n in range(1, 66))}),
        ("vxlan", {"port": "53"}),
        ("udp", {"local": SWITCH}),
        ("udp", {"local": f"{SWITCH}:0"}),
        ("udp", {"local": f"{SWITCH}:80"}),
        ("udp", {"local": f"{SWITCH}:65536"}),
        ("udp", {"local": "[fd99::254:6081"}),
        ("udp", {"peers": f"{SWITCH}:{UDP_PORT}"}),
    ],
)
def test_the_keeper_refuses(type: str, change: Mapping[str, str]) -> None:
    options = vxlan_options(["10.99.0.1"]) if type == "vxlan" else udp_options(["10.99.0.1"])
    with pytest.raises(NativeError) as caught:
        acquire("p", type, options | change)
    assert caught.value.name == "EINVAL", "before anything is opened"


def test_the_local_address_comes_and_goes(tmp_path: Path) -> None:
    """Absent it is named; gone while in use the port is lost, so that it is opened anew."""
    with contextlib.closing(VxlanRig(tmp_path)) as rig, Switch() as switch:
        address = ("dev", rig.net.switch_ifs[0])
        change = ("ip", "-n", rig.net.switch, "address")
        run(*change, "del", f"{SWITCH}/32", *address)
        with pytest.raises(NativeError) as caught:
            rig.open()
        assert caught.value.name == "ADDRESS_NOT_LOCAL"
        for local, absent in ((SWITCH, f"{SWITCH}/32"), (SWITCH6, f"{SWITCH6}/128")):
            run(*change, "replace", absent, *address)
            peer = rig.net.address6(0) if ":" in local else rig.net.addresses[0]
            port = switch.attach(rig.open(vxlan_options([peer], local)))
            assert not switch.status(port).lost
            assert switch.status(port).link_up
            run(*change, "del", absent, *address)
            wait_until(lambda port=port: switch.status(port).lost, 5, "it is noticed")  # type: ignore[misc]
            switch.remove(port)


def test_a_udp_port_that_is_taken_is_named(rig: OverlayRig) -> None:
    with UdpPeer(rig.net.switch, (SWITCH, rig.udp_port), (SWITCH, 1)):
        with pytest.raises(NativeError) as caught:
            rig.open()
        assert caught.value.name == "PORT_BUSY"


def test_nothing_is_bound_to_every_address(rig: OverlayRig) -> None:
    rig.open()
    text = rig.net.run(rig.net.switch, "ss", "-lnu")
    bound = [line.split()[3] for line in text.splitlines()[1:]]
    assert endpoint(SWITCH, rig.udp_port) in bound
    assert all(local.rpartition(":")[0] == SWITCH for local in bound)
    Switch.release(rig.port)
