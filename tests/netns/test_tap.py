"""TAP ports with the real processes: TCP at full offload, completed for a capture, and kills.

host 0 ── TAP ── [br0] ── TAP ── host 1       the TAPs' interfaces live in the hosts'
                   │                          namespaces, the fds in the switch's processes
                out.pcap
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.probes import Generator, Load, Sink, passage, teach
from tests.support.stacks import iperf
from tests.support.topology import Topology, run, wait_until

pytestmark = pytest.mark.root

MTU = 1500
ETHERNET, IPV4, TCP = 14, 20, 20  # bytes of headers without options


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2) as topology:
        yield topology


@pytest.fixture
def path(net: Topology, home: Path) -> Iterator[FastPath]:
    (home / "data" / "pcap").mkdir(parents=True)
    with FastPath(home, netns=net.switch) as started:
        yield started


def join(client: Client, net: Topology, queues: int = 1, learning: bool = True) -> None:
    """A bridge whose ports p0 and p1 are the hosts' only interfaces."""
    for host, ifname in zip(net.hosts, net.host_ifs, strict=True):
        run("ip", "-n", host, "link", "delete", ifname)
    ports = [
        port(f"p{i}", "tap", "br0", options={"name": ifname, "queues": str(queues)})
        for i, ifname in enumerate(net.host_ifs)
    ]
    ack = client.apply([bridge("br0", learning=learning), *ports])
    assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes
    for host, ifname, address in zip(net.hosts, net.host_ifs, net.addresses, strict=True):
        run("ip", "-n", net.switch, "link", "set", ifname, "netns", host)
        run("ip", "-n", host, "link", "set", ifname, "up")
        run("ip", "-n", host, "address", "add", f"{address}/24", "dev", ifname)


def test_ping_and_tcp_with_all_offloads_on(net: Topology, path: FastPath) -> None:
    with path.client() as client:
        join(client, net)
        net.run(net.hosts[0], "ping", "-c", "3", "-i", "0.01", "-W", "2", net.addresses[1])
        before = client.stats()
        for direction in ((), ("-R",)):
            result = iperf(net, "-n", "200M", *direction)
            assert result["retransmits"] < 20, result
        client.check_ledger()
        after = client.stats()
        sent = {p.name: p for p in after.ports}
        was = {p.name: p for p in before.ports}
        for name in ("p0", "p1"):
            frames = sent[name].rx_frames - was[name].rx_frames
            moved = sent[name].rx_bytes - was[name].rx_bytes
            # Data one way and bare acknowledgements the other: still far above one MTU a frame.
            assert moved / frames > 2 * MTU
            assert sent[name].segments == 0
            assert not sent[name].tx_drops, sent[name].tx_drops


def test_four_queues(net: Topology, path: FastPath) -> None:
    with path.client() as client:
        join(client, net, queues=4)
        result = iperf(net, "-n", "100M", "-P", "8")
        assert result["retransmits"] < 100, result
        client.check_ledger()
        assert client.port("p0").rx_queues == 4


def records(capture: bytes) -> Iterator[bytes]:
    """The frames of a pcap file (little endian, as this machine writes it)."""
    assert struct.unpack_from("<I", capture)[0] in (0xA1B2C3D4, 0xA1B23C4D)
    at = 24
    while at < len(capture):
        included, length = struct.unpack_from("<II", capture, at + 8)
        assert included == length
        yield capture[at + 16 : at + 16 + length]
        at += 16 + length


def ones_complement(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_tcp_completed_for_a_capture(net: Topology, path: FastPath) -> None:
    """A bridge that does not learn floods: host 1 gets each frame whole, the file in segments."""
    with path.client() as client:
        join(client, net, learning=False)
        ack = client.apply([port("cap", "pcap", "br0", options={"out": "out.pcap"})])
        assert all(outcome.ok for outcome in ack.outcomes.values()), ack.outcomes
        amount = 8 << 20
        received = iperf(net, "-n", str(amount))["received_bytes"]
        client.check_ledger()
        counters = {p.name: p for p in client.stats().ports}
    assert counters["p1"].segments == 0
    assert counters["cap"].segments > amount // MTU // 2
    assert not counters["cap"].tx_drops
    (file,) = path.home.rglob("out.pcap")
    frames = list(records(file.read_bytes()))
    assert len(frames) == counters["cap"].tx_frames
    covered: dict[tuple[bytes, bytes], set[tuple[int, int]]] = {}
    for frame in frames:
        assert len(frame) <= ETHERNET + MTU
        if frame[12:14] != b"\x08\x00" or frame[23] != 6:
            continue
        length = struct.unpack_from("!H", frame, 16)[0]
        ip, tcp = frame[14:34], frame[34 : 14 + length]
        assert ones_complement(ip) == 0xFFFF
        assert ones_complement(ip[12:20] + struct.pack("!HH", 6, len(tcp)) + tcp) == 0xFFFF
        payload = len(tcp) - (tcp[12] >> 4) * 4
        flow = (ip[12:16] + tcp[0:2], ip[16:20] + tcp[2:4])
        sequence = struct.unpack_from("!I", tcp, 4)[0]
        if payload:
            covered.setdefault(flow, set()).add((sequence, payload))
    largest = max(covered.values(), key=lambda parts: sum(size for _, size in parts))
    assert sum(size for _, size in largest) >= received > amount // 2


def test_forwarder_killed(net: Topology, path: FastPath) -> None:
    """The kernel keeps what was not read; what was read and not written is the only loss."""
    rate, kills_wanted = 5000, 10
    with path.client() as client:
        join(client, net)
    load = Load(rate=rate, seconds=3)
    teach(net, load)
    usual = passage(net, load).lost
    kills = lost = 0
    while kills < kills_wanted:
        path.wait_standby()
        sink = Sink(net, 1, idle_ms=1500, seconds=20)
        generator = Generator(net, 0, load)
        while generator.process.poll() is None and kills < kills_wanted:
            path.wait_replaced(path.kill_forwarder())
            path.wait_standby()
            kills += 1
        sent = int(generator.result()["sent"])
        report = sink.result()
        lost += sent - int(report["unique"])
        assert report.get("duplicates", 0) == 0, report
    with path.client() as client:
        ledger = client.check_ledger()
        restart = sum(p.rx_drops.get("restart", 0) for p in client.stats().ports)
    assert ledger.in_flight == 0
    assert lost <= usual + restart, f"{lost} lost, {restart} booked"
    assert lost <= usual + 2 * kills, f"{lost} lost at {kills} kills"


def test_the_interface_survives_the_forwarder(net: Topology, path: FastPath) -> None:
    with path.client() as client:
        join(client, net)
        revision = client.revision
        index = run("ip", "-n", net.hosts[0], "-o", "link", "show", net.host_ifs[0]).split(":")[0]
    path.wait_standby()
    started = time.monotonic()
    path.wait_replaced(path.kill_forwarder())
    net.run(net.hosts[0], "ping", "-c", "1", "-W", "5", net.addresses[1])
    assert time.monotonic() - started < 5
    link = run("ip", "-n", net.hosts[0], "-o", "link", "show", net.host_ifs[0])
    assert link.split(":")[0] == index
    with path.client() as client:
        client.revision = revision
        client.snapshot([bridge("br0")])
    wait_until(
        lambda: net.host_ifs[0] not in run("ip", "-n", net.hosts[0], "-o", "link"),
        5,
        "the interface goes with the port",
    )


def test_the_kernel_numbers_the_interface(net: Topology, home: Path) -> None:
    """ "vt%d" becomes the first free name; the keeper's patterns count for what it becomes."""
    denied = ("--deny", "vt1")
    with FastPath(home, netns=net.switch, arguments=denied) as path, path.client() as client:
        numbered = [port(f"p{i}", "tap", "br0", options={"name": "vt%d"}) for i in range(2)]
        ack = client.apply([bridge("br0"), *numbered])
        codes = sorted(ack.outcomes[f"port/p{i}"].code for i in range(2))
        assert codes == ["", "IFACE_DENIED"], ack.outcomes
        wait_until(
            lambda: {client.port(f"p{i}").device for i in range(2)} == {"vt0", ""},
            5,
            "the status names the interface",
        )
        links = run("ip", "-n", net.switch, "-o", "link")
        assert " vt0:" in links
        assert " vt1:" not in links
