"""netmap programs on the real appliance: with each other, with namespaces, and when either dies.

    program a ── netmap.sock ── vale0 ── p0 ══ veth ══ host 0
    program b ──────────────────┘

tests/unit/test_netmap_programs.py has what programs may do on their side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.appliance import Appliance
from tests.support.netmap_programs import NetmapPrograms
from tests.support.packet_socket import PacketSocket
from tests.support.topology import Topology, wait_until

pytestmark = pytest.mark.root

FRAMES = 2000
PACE = {"pause_us": 500}
ETHERTYPE = b"\x88\xb5"


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=1, addresses=False) as topology:
        yield topology


@pytest.fixture(scope="module")
def appliance(net: Topology) -> Iterator[Appliance]:
    """vale0 joins the programs and host 0."""
    with Appliance(net, net.switch) as started:
        started.put_bridge("vale0")
        started.put_port("p0", "vale0", {"type": "af_packet", "ifname": net.switch_ifs[0]})
        started.wait_ports("p0")
        yield started


@pytest.fixture
def programs(appliance: Appliance) -> Iterator[NetmapPrograms]:
    """However a test ends: no port of a program is left, and every frame is accounted for."""
    with NetmapPrograms(appliance.home / "run") as running:
        yield running
    wait_until(lambda: not clients(appliance), 10, "all ports of programs are gone")
    appliance.check_ledger()


def clients(appliance: Appliance) -> list[str]:
    return [str(item["name"]) for item in appliance.call("GET", "/clients")["items"]]


def frame(number: int, to: int = 0xFF) -> bytes:
    """As the programs make and check them (tests/programs/port.h)."""
    head = bytes.fromhex("ffffffffffff" if to == 0xFF else f"0200000000{to:02x}")
    body = head + bytes.fromhex("020000000077") + ETHERTYPE + number.to_bytes(8, "little")
    return body + bytes((number + i) & 0xFF for i in range(len(body), 60))


def received(host: PacketSocket, most: int) -> list[bytes]:
    """What the host has, its own frames left out."""
    frames: list[bytes] = []
    while len(frames) < most:
        try:
            taken, _ = host.receive(0.5)
        except TimeoutError:
            break
        if taken[6:12] != frame(0)[6:12]:
            frames.append(taken)
    return frames


def test_program_to_program(appliance: Appliance, programs: NetmapPrograms) -> None:
    receiver = programs.start("receive", "vale0:b", frames=FRAMES)
    assert clients(appliance) == ["vale0:b"]
    programs.start("send", "vale0:a", frames=FRAMES, bytes=1500, **PACE).result()
    counted = receiver.result()
    assert counted["frames"] == FRAMES
    assert (counted["bad"], counted["order"], counted["bytes"]) == (0, 0, FRAMES * 1500)


def test_a_pipe_between_programs_loses_nothing(programs: NetmapPrograms) -> None:
    """As fast as they may be, both ways at once."""
    ends = [programs.start("threads", f"vale0:x{end}1", frames=50_000) for end in "{}"]
    for end in ends:
        counted = end.result()
        assert (counted["frames"], counted["bad"], counted["order"]) == (50_000, 0, 0)


def test_monitors_of_a_pipe_while_the_forwarder_is_killed(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    """What one end receives, and what the other one has got back: all of it, in order."""
    count, copies, without_copies = 1500, 0x200, 0x400
    taker = programs.start("receive", "vale0:x{1", frames=count)
    monitors = [
        programs.start("receive", "vale0:x{1", frames=count, flags=copies),
        programs.start("receive", "vale0:x}1", frames=count, flags=without_copies),
    ]
    sender = programs.start("send", "vale0:x}1", frames=count, burst=1, pause_us=1000)
    time.sleep(0.5)
    appliance.wait_replaced("forwarder", appliance.kill("forwarder"))
    sender.result()
    for counted in (end.result() for end in (taker, *monitors)):
        assert (counted["frames"], counted["bad"], counted["order"]) == (count, 0, 0)


def test_a_bridge_of_a_program_between_two_switches(programs: NetmapPrograms) -> None:
    joint = programs.start("bridge", "vale0:j", "vale1:j", idle=1500)
    receiver = programs.start("receive", "vale1:b", frames=FRAMES)
    programs.start("send", "vale0:a", frames=FRAMES, **PACE).result()
    counted = receiver.result()
    assert (counted["frames"], counted["bad"], counted["order"]) == (FRAMES, 0, 0)
    joint.result()


def test_a_program_and_a_namespace(
    net: Topology, programs: NetmapPrograms, appliance: Appliance
) -> None:
    """Both ways, each frame byte by byte."""
    host = PacketSocket(net.hosts[0], net.host_ifs[0])
    try:
        receiver = programs.start("receive", "vale0:b", frames=100)
        for number in range(100):
            host.send(frame(number))
        counted = receiver.result()
        assert (counted["frames"], counted["bad"], counted["order"]) == (100, 0, 0)

        # back to a source that the switch has learned at the host's port
        before = appliance.port_stats()["p0"]["tx_frames"]
        programs.start("send", "vale0:a", frames=100, to=0x77, **PACE).result()
        taken = [bytes_ for bytes_ in received(host, 200) if bytes_[12:14] == ETHERTYPE]
        assert [int.from_bytes(bytes_[14:22], "little") for bytes_ in taken] == list(range(100))
        assert appliance.port_stats()["p0"]["tx_frames"] - before >= 100
    finally:
        host.close()


def test_static_programs_meet_others(programs: NetmapPrograms) -> None:
    receiver = programs.start("receive", "vale0:b", frames=500, linked=True)
    programs.start("send", "vale0:a", frames=500, **PACE).result()
    assert receiver.result()["frames"] == 500


@pytest.mark.parametrize("receiver", ["exec", "pass", "dup", "close-all"])
def test_an_fd_works_wherever_it_gets_to(programs: NetmapPrograms, receiver: str) -> None:
    taker = programs.start(receiver, "vale0:b", frames=500)
    programs.start("send", "vale0:a", frames=500, **PACE).result()
    assert taker.result()["frames"] == 500


def test_programs_that_are_killed_leave_nothing(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    """In the middle of sending and receiving; those who stay notice nothing."""
    stays = programs.start("receive", "vale0:stays", frames=10**9, idle=2000)
    for _ in range(5):
        receiver = programs.start("receive", "vale0:b", frames=10**9)
        sender = programs.start("send", "vale0:a", frames=10**9, to=0x0B, from_=3)
        time.sleep(0.1)
        sender.kill()
        receiver.kill()
        wait_until(lambda: clients(appliance) == ["vale0:stays"], 10, "their ports are gone")
    programs.start("send", "vale0:a", frames=FRAMES, first=1 << 40, to=0xFE, **PACE).result()
    counted = stays.result()
    assert counted["last"] == (1 << 40) + FRAMES - 1
    assert counted["bad"] == 0


def test_the_forwarder_is_killed_and_programs_go_on(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    """A flow at a pace that rings outlast: frames wait, and none comes twice or out of order."""
    receiver = programs.start("receive", "vale0:b", frames=10**9, idle=3000)
    sender = programs.start("send", "vale0:a", frames=4000, burst=1, pause_us=1000)
    for _ in range(2):
        time.sleep(1)
        appliance.wait_replaced("forwarder", appliance.kill("forwarder"))
    sender.result()
    counted = receiver.result()
    assert counted["frames"] == 4000
    assert (counted["bad"], counted["order"]) == (0, 0)
