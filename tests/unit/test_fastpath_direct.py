"""Pipes and direct mode over a real engine in this process: who gets which memory, when it may be
used, what is booked. The programs are played without a library. No root, no keeper process."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath import channel, protocol
from fastpath import native_clients as wire
from fastpath.protocol import WireAttach, WireClients, WireRuleSet
from fastpath.regions import PAIR_PREFIX, make_region
from tests.support.fastpath import Client, bridge, port
from tests.support.forwarder import LIMITS, Forwarder
from tests.support.netmap_program import ONE, Answered, Memory, Program
from tests.support.topology import wait_until

DIRECT = WireClients("direct")
GROUP = 16


@pytest.fixture
def forwarder(tmp_path: Path) -> Iterator[Forwarder]:
    fd = make_region("test", 1 << 22)
    running = Forwarder(tmp_path / "f.sock", fd)
    yield running
    running.close()
    os.close(fd)


@pytest.fixture
def client(forwarder: Forwarder) -> Iterator[Client]:
    with Client(forwarder.path) as connected:
        yield connected


@pytest.fixture
def programs(forwarder: Forwarder) -> Iterator[list[Program]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(4)]


def frame(dst: int, src: int, length: int = 60) -> bytes:
    head = bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xB5])
    return head + bytes(length - len(head))


def close(answer: Answered) -> None:
    for fd in answer.fds:
        os.close(fd)


def pair_of(answer: Answered) -> Memory:
    memory = Memory(answer.fds[0], answer.side)
    close(answer)
    return memory


def is_direct(program: Program) -> bool:
    assert program.memory is not None
    return program.memory.direct != 0


def wait_direct(*programs: Program) -> None:
    for program in programs:
        wait_until(lambda: is_direct(program), 5, "the program is in direct mode")  # noqa: B023


def group(client: Client, programs: list[Program], *names: str) -> list[int]:
    """A switch in direct mode with these ports; their numbers in the table of addresses."""
    client.apply([bridge("vale0", clients=DIRECT)])
    for program, name in zip(programs, names, strict=False):
        assert program.register(f"vale0:{name}").error == 0
    members = programs[: len(names)]
    wait_direct(*members)
    numbers = []
    for program in members:
        answer = program.call(wire.FDB)
        assert answer.error == 0
        numbers.append(answer.index)
        close(answer)
    return numbers


# --- direct mode --------------------------------------------------------------------------------


def test_relay_gives_nothing(client: Client, programs: list[Program]) -> None:
    a, b = programs[:2]
    client.apply([bridge("vale0")])
    assert (a.register("vale0:a").error, b.register("vale0:b").error) == (0, 0)
    assert not is_direct(a)
    for type in (wire.FDB, wire.PEER):
        assert a.call(type, index=b.call(wire.DESCRIBE).port_index).error == errno.ENXIO
    assert a.call(wire.NEWS).error == errno.ENOENT
    assert programs[2].call(wire.NEWS).error == errno.ENXIO  # bound to nothing


def test_the_table_shows_the_group_and_cannot_be_written(
    client: Client, programs: list[Program]
) -> None:
    a, b = programs[:2]
    numbers = group(client, programs, "a", "b")
    answer = a.call(wire.FDB)
    assert a.memory is not None
    assert (answer.index, answer.fdb_number) == (numbers[0], a.memory.direct)
    (fd,) = answer.fds
    size = os.fstat(fd).st_size
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as table:
        before = table[:]
        a.send(frame(2, 1))
        wait_until(lambda: table[:] != before, 5, "the sender is learned")
        words = memoryview(table).cast("Q")
        found = [word for word in words[512:] if word]
        words.release()
        assert found == [int.from_bytes(frame(2, 1)[6:12]) << 16 | (numbers[0] + 1)]
    with pytest.raises(PermissionError):
        mmap.mmap(fd, size)
    with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as again:
        with pytest.raises(PermissionError):
            again.write(b"x")
        with pytest.raises(PermissionError):
            mmap.mmap(again.fileno(), size)
        with pytest.raises(PermissionError):
            again.truncate(0)
    os.close(fd)
    assert b.receive() is not None


def test_a_pair_is_made_once_and_booked_on_both_ports(
    forwarder: Forwarder, client: Client, programs: list[Program]
) -> None:
    a, b = programs[:2]
    number_a, number_b = group(client, programs, "a", "b")
    assert b.memory is not None
    news = b.memory.news
    first = a.call(wire.PEER, index=number_b)
    assert (first.error, first.index, first.side) == (0, number_b, int(number_a > number_b))
    assert b.memory.news != news
    told = b.call(wire.NEWS)
    assert (told.error, told.index, told.more) == (0, number_a, 0)
    assert os.fstat(told.fds[0]).st_ino == os.fstat(first.fds[0]).st_ino
    again = a.call(wire.PEER, index=number_b)
    assert os.fstat(again.fds[0]).st_ino == os.fstat(first.fds[0]).st_ino
    close(again)
    mine, theirs = pair_of(first), pair_of(told)
    assert mine.put(frame(2, 1))
    mine.count(1, 60, full=3)
    theirs.count(7, 700)
    assert theirs.take() == frame(2, 1)
    ports = {row.name: row for row in client.stats().ports}
    one, two = ports["vale0:a"], ports["vale0:b"]
    assert (one.rx_frames, one.rx_bytes, one.tx_frames) == (4, 60, 7)
    assert (two.rx_frames, two.tx_frames, two.tx_drops) == (7, 1, {"queue_full": 3})
    client.check_ledger()
    mine.close()
    theirs.close()


def test_a_pair_goes_with_either_port(
    forwarder: Forwarder, client: Client, programs: list[Program]
) -> None:
    a, b, c = programs[:3]
    _, number_b, number_c = group(client, programs, "a", "b", "c")
    pairs = [pair_of(a.call(wire.PEER, index=number)) for number in (number_b, number_c)]
    assert a.memory is not None
    news = a.memory.news
    pairs[0].count(5, 300)
    b.close()
    wait_until(lambda: a.memory is not None and a.memory.news != news, 5, "a is told")
    answer = a.call(wire.NEWS)
    assert (answer.index, answer.more) == (number_c, 0)
    close(answer)
    assert a.call(wire.NEWS, index=number_c + 1).error == errno.ENOENT
    forgotten = [m for m in forwarder.said if isinstance(m, channel.Forget)]
    assert sum(m.name.startswith(PAIR_PREFIX) for m in forgotten) == 3
    wait_until(lambda: a.call(wire.PEER, index=number_b).error == errno.ENXIO, 5, "it is gone")
    assert {row.name: row.rx_frames for row in client.stats().ports}["vale0:a"] == 5
    client.check_ledger()
    for pair in pairs:
        pair.close()
    c.close()


def test_sixteen_ports_in_one_group(tmp_path: Path) -> None:
    """Each has a pair with each, by rings of its own, and all of it goes again."""
    fd = make_region("test", 1 << 22)
    limits = LIMITS | {"ports_max": 32, "workers_max": 128}
    with contextlib.ExitStack() as stack:
        forwarder = stack.enter_context(Forwarder(tmp_path / "f.sock", fd, limits))
        client = stack.enter_context(Client(forwarder.path))
        client.apply([bridge("vale0", clients=DIRECT)])
        with contextlib.ExitStack() as running:
            programs = [running.enter_context(Program(forwarder.netmap_path)) for _ in range(GROUP)]
            for number, program in enumerate(programs):
                rings = (1 + number % 3, 2)
                assert program.register(f"vale0:p{number}", rings=rings).error == 0
            wait_direct(*programs)
            for program in programs:
                for slot in range(GROUP):
                    close(program.call(wire.PEER, index=slot))
            for program in programs:
                assert paired(program) == GROUP - 1
            assert pair_memories() == GROUP * (GROUP - 1) // 2
            client.check_ledger()
        wait_until(lambda: not forwarder.applier.held, 10, "the ports go")
        wait_until(lambda: not pair_memories(), 10, "no pair is left")
    os.close(fd)


def pair_memories() -> int:
    """That this process, the forwarder's, has open."""
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum("client-pair" in os.readlink(link) for link in links if os.path.lexists(link))


def paired(program: Program) -> int:
    """How many pairs a program is told of; each has a lane for each ring of both."""
    index, count = 0, 0
    while True:
        answer = program.call(wire.NEWS, index=index)
        if answer.error:
            assert answer.error == errno.ENOENT
            return count
        memory = pair_of(answer)
        sides = (memory.tx_rings, memory.rx_rings)
        assert program.memory is not None
        assert sides[answer.side] == program.memory.tx_rings
        memory.close()
        index, count = answer.index + 1, count + 1


def attached(bridge_name: str = "", port_name: str = "", *, egress: bool = False) -> WireRuleSet:
    return WireRuleSet("fw", False, (WireAttach(bridge_name, port_name, egress, 0),))


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ([bridge("vale0", clients=WireClients("relay"))], ""),
        ([bridge("vale0", clients=DIRECT, vlan_filtering=True)], ""),
        ([bridge("vale0", clients=DIRECT, learning=False)], ""),
        ([bridge("vale0", clients=DIRECT, mtu=1500)], ""),
        ([attached("vale0")], ""),
        ([attached("vale0", egress=True)], ""),
        ([attached(port_name="vale0:a")], "bc"),
        ([bridge("br0"), port("m", "monitor", "br0", options={"port": "vale0:b"})], "ac"),
    ],
)
def test_what_suspends(
    change: list[protocol.WireObject], left: str, client: Client, programs: list[Program]
) -> None:
    """Whoever's frames have to be seen is out of it when the change is acknowledged, and in it
    again after what saw them has gone."""
    numbers = dict(zip("abc", group(client, programs, "a", "b", "c"), strict=True))
    members = dict(zip("abc", programs, strict=False))
    before = [obj for key, obj in client.objects.items() if key == "bridge/vale0"]
    client.apply(change)
    for name, program in members.items():
        assert is_direct(program) == (name in left)
        for other, number in numbers.items():
            answer = program.call(wire.PEER, index=number)
            assert (answer.error == 0) == (name != other and name in left and other in left)
            close(answer)
    keys = [obj.key for obj in change]
    client.apply(before, deletes=[key for key in reversed(keys) if key != "bridge/vale0"])
    wait_direct(*members.values())


def test_a_monitor_session_suspends_too(client: Client, programs: list[Program]) -> None:
    a, b, monitor = programs[:3]
    group(client, programs, "a", "b")
    assert monitor.register("vale0:a", flags=wire.MONITOR_TX).error == 0
    assert (is_direct(a), is_direct(b)) == (False, True)
    monitor.close()
    wait_direct(a)


def test_stations_that_are_no_programs_are_not_in_the_table(
    forwarder: Forwarder, client: Client, programs: list[Program]
) -> None:
    group(client, programs, "a", "b")
    client.apply([port("p1", "memory", "vale0")])
    client.wait_ready("p1")
    slot = forwarder.applier.port_slots["p1"]
    forwarder.engine.memory_put(slot, frame(1, 9))
    wait_until(lambda: len(client.fdb("vale0")) == 1, 5, "it is learned")
    answer = programs[0].call(wire.FDB)
    with mmap.mmap(answer.fds[0], 0, prot=mmap.PROT_READ) as table:
        assert not any(table[4096:])
    close(answer)
    assert programs[0].call(wire.PEER, index=slot).error == errno.ENXIO


# --- pipes --------------------------------------------------------------------------------------


def test_a_pipe_carries_frames_both_ways(
    forwarder: Forwarder, client: Client, programs: list[Program]
) -> None:
    master, slave = programs[:2]
    first = master.register("vale0:p{1", rings=(2, 1), slots=(64, 128))
    assert (first.error, first.side, first.tx_rings, first.rx_rings) == (0, 0, 2, 1)
    assert master.memory is not None
    assert master.send(frame(2, 1))
    assert master.memory.put(frame(2, 1, 1500), ring=1)
    second = slave.register("vale0:p}1", rings=(16, 16))
    assert (second.error, second.side, second.tx_rings, second.rx_rings) == (0, 1, 1, 2)
    assert slave.receive() == frame(2, 1)  # what was sent before it came
    assert slave.receive(1) == frame(2, 1, 1500)
    assert slave.send(frame(1, 2))
    assert master.receive() == frame(1, 2)
    rows = client.call(protocol.GetClients(client.next_id(), 0, 10), protocol.ClientRows).rows
    assert [(row.name, row.port, row.mode) for row in rows] == [
        ("vale0:p{1", "", "pipe"),
        ("vale0:p}1", "", "pipe"),
    ]
    assert not forwarder.applier.locals.ports  # no port, no switch
    assert client.check_ledger().rx_frames == 0


def test_a_full_pipe_refuses(programs: list[Program]) -> None:
    """Its sender keeps the frame; nothing is dropped."""
    master, slave = programs[:2]
    master.register("vale0:p{1")
    sent = 0
    while master.send(frame(2, 1, 1000 + sent % 100)):
        sent += 1
    assert sent > 900
    slave.register("vale0:p}1")
    assert slave.receive() == frame(2, 1, 1000)
    assert slave.receive() is not None
    assert master.send(frame(2, 1, 1000 + sent % 100))
    assert sum(slave.receive() is not None for _ in range(sent)) == sent - 1
    assert slave.receive() is None


def test_the_other_end_goes_and_comes_back(programs: list[Program]) -> None:
    master, slave, again, third = programs
    master.register("vale0:p{1")
    slave.register("vale0:p}1")
    slave.close()
    assert master.send(frame(2, 1))
    wait_until(lambda: again.register("vale0:p}1").error == 0, 5, "the end can be opened again")
    assert again.receive() == frame(2, 1)
    master.close()
    again.close()
    # with its last end the pipe is gone, and what was in it
    wait_until(lambda: third.register("vale0:p}1", rings=(3, 3)).error == 0, 5, "a new pipe")
    assert third.memory is not None
    assert third.memory.tx_rings == 3
    assert third.receive() is None


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("vale0:p{", errno.EINVAL),
        ("vale0:p{a}b", errno.EINVAL),
        ("vale0:p{a b", errno.EINVAL),
        ("vale0{1", errno.ENOMEM),
        ("vale0:{1", errno.ENOMEM),
    ],
)
def test_names_that_are_no_pipes(name: str, error: int, programs: list[Program]) -> None:
    assert programs[0].register(name).error == error


def test_ends_are_shared_as_ports_are(programs: list[Program]) -> None:
    a, b, c = programs[:3]
    first = a.register("vale0:p{1", rings=(2, 2))
    assert b.register("vale0:p{1", flags=wire.EXCLUSIVE).error == errno.EBUSY
    second = b.register("vale0:p{1", mode=ONE, ring_id=1)
    assert (second.error, second.shared, second.mem_id) == (0, 1, first.mem_id)
    assert c.register("vale0:p}1", flags=wire.EXCLUSIVE).error == 0
    assert c.register("vale0:p}2").error == errno.EBUSY  # one registration a connection
