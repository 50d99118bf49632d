"""Netmap programs' sessions over a real engine in this process. No root, no keeper process."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastpath import channel, client_sessions, protocol
from fastpath import native_clients as wire
from fastpath.regions import make_region
from tests.support.fastpath import Client, RefusedError, bridge, port, rule, ruleset
from tests.support.forwarder import LIMITS, Forwarder
from tests.support.netmap_program import ALL, ONE, Program
from tests.support.topology import wait_until

HOST_RINGS = (2, 3, 8)


@contextlib.contextmanager
def a_forwarder(home: Path, **arguments: Any) -> Iterator[Forwarder]:
    fd = make_region("test", 1 << 22)
    try:
        with Forwarder(home / "f.sock", fd, **arguments) as running:
            yield running
    finally:
        os.close(fd)


@pytest.fixture
def forwarder(tmp_path: Path) -> Iterator[Forwarder]:
    with a_forwarder(tmp_path) as running:
        yield running


@pytest.fixture
def client(forwarder: Forwarder) -> Iterator[Client]:
    with Client(forwarder.path) as connected:
        yield connected


@pytest.fixture
def program(forwarder: Forwarder) -> Iterator[Program]:
    with Program(forwarder.netmap_path) as opened:
        yield opened


def frame(dst: int, src: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xB5]) + bytes(46)


def receive(program: Program) -> bytes:
    got: list[bytes] = []

    def taken() -> bool:
        one = program.receive()
        if one is not None:
            got.append(one)
        return bool(got)

    wait_until(taken, 5, "a frame arrives")
    return got[0]


def rows(client: Client) -> tuple[protocol.ClientRow, ...]:
    asked = protocol.GetClients(client.next_id(), 0, 100)
    return client.call(asked, protocol.ClientRows).rows


def wait_nothing_left(forwarder: Forwarder) -> None:
    """No session, and nothing of what was there for them."""

    applier = forwarder.applier

    def nothing() -> bool:
        wanted = applier.locals.ports or applier.locals.bridges
        there = applier.held or applier.port_slots or applier.bridge_slots
        return not (len(forwarder.clients.sessions) or wanted or there)

    wait_until(nothing, 5, "the ports of programs go")


# --- ports --------------------------------------------------------------------------------------


def test_two_programs_exchange_frames(forwarder: Forwarder, client: Client) -> None:
    with Program(forwarder.netmap_path) as a, Program(forwarder.netmap_path) as b:
        first, second = a.register("vale0:a"), b.register("vale0:b")
        assert (first.error, second.error) == (0, 0)
        assert a.send(frame(2, 1))
        assert receive(b) == frame(2, 1)
        assert b.send(frame(1, 2))
        assert receive(a) == frame(1, 2)
        assert client.check_ledger().rx_frames == 2
        assert {(row.mac[-2:], row.port) for row in client.fdb("vale0")} == {
            ("01", "vale0:a"),
            ("02", "vale0:b"),
        }
    wait_nothing_left(forwarder)


def test_the_configuration_is_untouched(forwarder: Forwarder, client: Client) -> None:
    before = client.status()
    with Program(forwarder.netmap_path) as a:
        assert a.register("vale0:a").error == 0
        during = client.status()
        assert (during.applied_revision, during.config_hash) == (
            before.applied_revision,
            before.config_hash,
        )
        assert during.ports == ()
        assert [p.name for p in client.stats().ports] == ["vale0:a"]


def test_a_change_does_not_wait_for_programs(forwarder: Forwarder, client: Client) -> None:
    """Nor is it told what became of their ports."""
    forwarder.answer = False
    with Program(forwarder.netmap_path) as a:
        region = os.memfd_create("region")
        a.post(wire.REGISTER, "vale0:a", mode=ALL, fds=[region])
        os.close(region)
        forwarder.asked.get(timeout=5)
        start = time.monotonic()
        ack = client.apply([bridge("br0")])
        assert list(ack.outcomes) == ["bridge/br0"]
        assert time.monotonic() - start < 4  # a device may take 5 s


def test_a_program_and_ports_of_the_configuration_share_a_switch(
    forwarder: Forwarder, client: Client, program: Program
) -> None:
    """Rules of the switch are the program's as well."""
    client.apply([bridge("vale0"), port("m", "memory", "vale0")])
    assert program.register("vale0:a").error == 0
    slot = forwarder.applier.port_slots["m"]
    assert forwarder.engine.memory_put(slot, frame(1, 7))
    assert receive(program) == frame(1, 7)
    client.apply([ruleset("r", "vale0"), rule("r", "all")])
    assert program.send(frame(7, 1))
    wait_until(
        lambda: any(p.rx_drops.get("rule") for p in client.stats().ports), 5, "the rule drops"
    )
    assert forwarder.engine.memory_take(slot) is None


def test_a_declared_port_is_bound_to(forwarder: Forwarder, client: Client) -> None:
    options = {"name": "vale0:p1", "tx_rings": "2", "rx_rings": "2"}
    client.apply([bridge("vale0"), port("user", "client", "vale0", options=options)])
    client.wait_ready("user")
    with Program(forwarder.netmap_path) as a:
        answer = a.register("vale0:p1", rings=(5, 5))
        assert (answer.error, answer.tx_rings, answer.rx_rings) == (0, 2, 2)
        assert a.memory is not None
        assert a.memory.tx_rings == 2
        assert [row.port for row in rows(client)] == ["user"]
        before = os.fstat(forwarder.applier.held["user"].fds[0]).st_ino

    def renewed() -> bool:
        held = forwarder.applier.held.get("user")
        return held is not None and os.fstat(held.fds[0]).st_ino != before

    wait_until(renewed, 5, "what a program had mapped is not the next one's")
    client.wait_ready("user")
    with Program(forwarder.netmap_path) as b:
        assert b.register("vale0:p1").error == 0


def test_a_declared_port_takes_its_name_from_an_ephemeral_one(
    forwarder: Forwarder, client: Client, program: Program
) -> None:
    """Whoever has the name has the declared port: the other's session ends, as if evicted."""
    assert program.register("vale0:p1").error == 0
    client.apply([bridge("vale0"), port("user", "client", "vale0", options={"name": "vale0:p1"})])
    client.wait_ready("user")
    with pytest.raises(ConnectionError):
        program.answered()
    assert program.memory is not None
    assert program.memory.gone
    wait_until(lambda: forwarder.applier.locals.ports == {}, 5, "the ephemeral port goes")
    with Program(forwarder.netmap_path) as again:
        assert again.register("vale0:p1").error == 0
        assert [row.port for row in rows(client)] == ["user"]


def test_a_configured_switch_takes_over_without_a_pause(
    forwarder: Forwarder, client: Client
) -> None:
    with Program(forwarder.netmap_path) as a, Program(forwarder.netmap_path) as b:
        assert (a.register("vale0:a").error, b.register("vale0:b").error) == (0, 0)
        a.send(frame(2, 1))
        assert receive(b) == frame(2, 1)
        table = forwarder.applier.tables.fds["vale0"]
        client.apply([bridge("vale0", ageing_s=0, reserved_forward=True)])
        assert forwarder.applier.tables.fds["vale0"] == table
        assert [row.port for row in client.fdb("vale0")] == ["vale0:a"]
        b.send(frame(1, 2))
        assert receive(a) == frame(1, 2)
        client.apply(deletes=["bridge/vale0"])  # the programs' again
        a.send(frame(2, 1))
        assert receive(b) == frame(2, 1)


def test_rings_and_slots_are_taken_to_what_is_possible(program: Program) -> None:
    answer = program.register("vale0:a", rings=(16, 99), slots=(1, 1 << 30))
    assert (answer.error, answer.tx_rings, answer.rx_rings) == (0, 16, 16)
    assert (answer.tx_slots, answer.rx_slots) == (2, 65536)
    assert len(program.bells) == 16


def test_a_second_session_shares_port_and_memory(forwarder: Forwarder, program: Program) -> None:
    first = program.register("vale0:a", slots=(64, 128))
    with Program(forwarder.netmap_path) as second:
        answer = second.register("vale0:a")
        assert (answer.error, answer.shared, answer.mem_id) == (0, 1, first.mem_id)
        assert (answer.tx_slots, answer.rx_slots) == (64, 128)
        assert os.fstat(second.region).st_ino == os.fstat(program.region).st_ino
        assert answer.port_index == first.port_index
    wait_until(lambda: len(forwarder.clients.sessions) == 1, 5, "one session ends")
    assert forwarder.applier.in_force("vale0:a")
    assert program.memory is not None
    assert not program.memory.gone


def test_one_memory_for_two_ports_of_a_user(forwarder: Forwarder, program: Program) -> None:
    first = program.register("vale0:a")
    with Program(forwarder.netmap_path) as second:
        region = second.call(wire.REGION, mem_id=first.mem_id)
        assert region.error == 0
        assert os.fstat(region.fds[0]).st_ino == os.fstat(program.region).st_ino
        os.close(region.fds[0])
        answer = second.call(wire.REGISTER, "vale0:b", mode=ALL, mem_id=first.mem_id)
        assert (answer.error, answer.mem_id, answer.shared) == (0, first.mem_id, 0)
        second.bind(answer, os.dup(program.region))
    assert program.call(wire.REGION, mem_id=first.mem_id + 1).error == errno.EINVAL


def test_who_is_still_there(forwarder: Forwarder, program: Program) -> None:
    """So that programs that share a memory may have back what killed ones had of it."""
    with Program(forwarder.netmap_path) as second:
        answer = second.register("vale0:b")
        assert program.call(wire.ALIVE, index=answer.session).error == 0
        assert program.call(wire.ALIVE, index=answer.session + 1).error == errno.ENXIO
    wait_until(
        lambda: program.call(wire.ALIVE, index=answer.session).error == errno.ENXIO,
        5,
        "the session ends",
    )


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("", {}, errno.ENXIO),
        ("eth0", {}, errno.ENXIO),
        ("lo", {}, errno.ENXIO),
        ("vale0", {}, errno.ENOMEM),
        ("vale0:", {}, errno.ENOMEM),
        ("vale-0:a", {}, errno.ENOMEM),
        ("vale0:a.b", {}, errno.ENOMEM),
        ("vale0:" + "a" * 16, {}, errno.ENOMEM),
        ("vale" + "0" * 12 + ":a", {}, errno.ENOMEM),
        ("vale0:\xff", {}, errno.ENOMEM),
        *[("vale0:a", {"mode": mode}, errno.EINVAL) for mode in (0, 9, 1 << 31, *HOST_RINGS)],
        ("vale0:a", {"mode": ONE, "ring_id": 1}, errno.EINVAL),
        ("vale0:a", {"mode": ONE, "ring_id": 4, "rings": (4, 4)}, errno.EINVAL),
        ("vale0:a", {"mem_id": 7}, errno.EINVAL),
        ("vale0:a", {"version": 2}, errno.EPROTO),
        ("vale0:a", {"flags": wire.MONITOR_RX}, errno.ENXIO),
        ("vale0:a{x", {"flags": wire.MONITOR_RX}, errno.ENXIO),
    ],
)
def test_what_cannot_be_registered(
    name: str, fields: dict[str, Any], error: int, forwarder: Forwarder, program: Program
) -> None:
    assert program.register(name, **fields).error == error
    assert forwarder.applier.locals.ports == {}
    assert program.register("vale0:a").error == 0  # the connection is as good as before


@pytest.mark.parametrize("rings", [(4, 4), (1, 4)])
def test_the_last_ring_can_be_bound_to(rings: tuple[int, int], program: Program) -> None:
    answer = program.register("vale0:a", mode=ONE, ring_id=3, rings=rings)
    assert (answer.error, answer.mode, answer.ring_id) == (0, ONE, 3)


def test_a_memory_comes_along(program: Program) -> None:
    assert program.call(wire.REGISTER, "vale0:a", mode=ALL).error == errno.EINVAL


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ({}, {"flags": wire.EXCLUSIVE}, errno.EBUSY),
        ({"flags": wire.EXCLUSIVE}, {}, errno.EBUSY),
        ({"flags": wire.EXCLUSIVE, "mode": ONE, "ring_id": 0}, {"mode": ONE, "ring_id": 1}, 0),
        (
            {"flags": wire.EXCLUSIVE, "mode": ONE, "ring_id": 1},
            {"mode": ONE, "ring_id": 1},
            errno.EBUSY,
        ),
        ({"flags": wire.EXCLUSIVE | wire.TX_ONLY}, {"flags": wire.RX_ONLY}, 0),
        ({}, {"mem_id": 60000}, errno.EINVAL),
    ],
)
def test_who_wants_to_be_alone(
    first: dict[str, Any], second: dict[str, Any], error: int, forwarder: Forwarder
) -> None:
    with Program(forwarder.netmap_path) as a, Program(forwarder.netmap_path) as b:
        assert a.register("vale0:a", rings=(2, 2), **first).error == 0
        assert b.register("vale0:a", **second).error == error


def test_the_port_of_something_else_is_busy(client: Client, program: Program) -> None:
    client.apply([bridge("vale0"), port("m", "memory", "vale0")])
    assert program.register("vale0:m").error == errno.EBUSY


def test_registering_again(forwarder: Forwarder, program: Program) -> None:
    first = program.register("vale0:a")
    assert program.register("vale0:b").error == errno.EBUSY
    again = program.call(wire.REGISTER, "vale0:a", mode=ALL, id=first.id)
    assert (again.error, again.session, again.mem_id) == (0, first.session, first.mem_id)
    channel.close_all(again.fds)
    assert len(forwarder.clients.sessions) == 1


def test_describe(program: Program) -> None:
    assert program.call(wire.DESCRIBE).error == errno.ENXIO
    first = program.register("vale0:a", rings=(2, 3))
    answer = program.call(wire.DESCRIBE)
    assert (answer.session, answer.name, answer.tx_rings) == (first.session, "vale0:a", 2)
    inodes = [os.fstat(fd).st_ino for fd in answer.fds]
    assert inodes[0] == os.fstat(program.region).st_ino
    assert inodes[2:] == [os.fstat(fd).st_ino for fd in program.bells]
    channel.close_all(answer.fds)


def test_info(forwarder: Forwarder, program: Program) -> None:
    absent = program.call(wire.INFO, "vale0:a")
    assert (absent.error, absent.tx_rings, absent.tx_slots) == (0, 1, 1024)
    assert forwarder.applier.locals.ports == {}
    program.register("vale0:a", rings=(2, 3), slots=(64, 128))
    there = program.call(wire.INFO, "vale0:a")
    assert (there.tx_rings, there.rx_rings, there.tx_slots, there.rx_slots) == (2, 3, 64, 128)
    assert program.call(wire.INFO, "eth0").error == errno.ENXIO


def test_list(client: Client, forwarder: Forwarder, program: Program) -> None:
    """A port by its name; all of them one after the other."""
    assert program.call(wire.LIST).error == errno.ENOENT
    client.apply([bridge("vale0"), bridge("br0"), port("m", "memory", "vale0")])
    client.apply([port("n", "memory", "br0")])
    with Program(forwarder.netmap_path) as other:
        assert program.register("vale0:a").error == 0
        assert other.register("vale1:b").error == 0
        found = []
        at = {"switch_index": 0, "index": 0}
        while not (answer := program.call(wire.LIST, **at)).error:
            found.append(answer.name)
            at = {"switch_index": answer.switch_index, "index": answer.index + 1}
        assert answer.error == errno.ENOENT
        assert found == ["vale0:m", "vale0:a", "vale1:b"]
        one = program.call(wire.LIST, "vale1:b")
        assert (one.error, one.switch_index) == (0, forwarder.applier.bridge_slots["vale1"])
        assert one.index == forwarder.applier.port_slots["vale1:b"]
        assert program.call(wire.LIST, "vale1:x").index == 255
        assert program.call(wire.LIST, "vale9:x").error == errno.ENOENT


def test_virtio_net_headers(forwarder: Forwarder, program: Program) -> None:
    assert program.call(wire.HDR_SET, "vale0:a", hdr_len=12).error == errno.ENXIO
    program.register("vale0:a")
    assert program.call(wire.HDR_GET, "vale0:a").hdr_len == 0
    assert program.call(wire.HDR_SET, "vale0:a", hdr_len=11).error == errno.EINVAL
    assert program.call(wire.HDR_SET, "vale0:a", hdr_len=12).hdr_len == 12
    assert program.call(wire.HDR_GET, "vale0:a").hdr_len == 12
    answer = program.call(wire.DESCRIBE)
    assert answer.hdr_len == 12
    channel.close_all(answer.fds)
    kept = [m for m in forwarder.said if isinstance(m, channel.Session)]
    assert '"hdr_len":12' in kept[-1].state


@pytest.mark.parametrize("type", [0, 99, 0xFFFF])
def test_unknown_requests(type: int, program: Program) -> None:
    assert program.call(type).error == errno.EOPNOTSUPP


def test_no_keeper(forwarder: Forwarder, program: Program) -> None:
    forwarder.keeper = False
    assert program.register("vale0:a").error == errno.ENXIO
    forwarder.keeper = True
    assert program.register("vale0:a").error == 0


# --- who may ------------------------------------------------------------------------------------


def test_others_than_the_owners_need_the_bridges_word(tmp_path: Path) -> None:
    allowed = bridge("vale0", clients=protocol.WireClients("relay", (os.getuid(),), ()))
    with (
        a_forwarder(tmp_path, owners=()) as forwarder,
        Client(forwarder.path) as client,
        Program(forwarder.netmap_path) as program,
    ):
        assert program.register("vale0:a").error == errno.EACCES
        assert program.call(wire.INFO, "vale0:a").error == errno.EACCES
        client.apply([bridge("vale0"), port("m", "memory", "vale0")])
        assert program.register("vale0:a").error == errno.EACCES
        assert program.call(wire.LIST).error == errno.ENOENT
        client.apply([allowed])
        assert program.call(wire.LIST).name == "vale0:m"
        assert program.register("vale0:a").error == 0
        with Program(forwarder.netmap_path) as monitor:  # of a port that is not its user's
            assert monitor.register("vale0:m", flags=wire.MONITOR_RX).error == errno.EACCES
        client.apply([bridge("vale0")])
        forwarder.call(forwarder.clients.tick)
        with pytest.raises(ConnectionError):
            program.answered()
        assert program.memory is not None
        assert program.memory.gone


# --- evicting, vanishing ------------------------------------------------------------------------


def test_rows_and_eviction(forwarder: Forwarder, client: Client) -> None:
    with Program(forwarder.netmap_path) as a, Program(forwarder.netmap_path) as b:
        answer = a.register("vale0:a")
        b.register("vale0:b", slots=(256, 512))
        a.send(frame(2, 1))
        receive(b)
        first, second = rows(client)
        assert (first.id, first.name, first.switch, first.port) == (
            answer.session,
            "vale0:a",
            "vale0",
            "vale0:a",
        )
        assert (first.pid, first.uid, first.program, first.mode) == (
            os.getpid(),
            os.getuid(),
            "test",
            "relay",
        )
        assert (first.frames_from, first.bytes_from, second.frames_to) == (1, 60, 1)
        assert (second.tx_slots, second.rx_slots) == (256, 512)
        page = client.call(protocol.GetClients(client.next_id(), 0, 1), protocol.ClientRows)
        assert (len(page.rows), page.cursor) == (1, first.id)
        client.call(protocol.EvictClient(client.next_id(), first.id), protocol.Evicted)
        with pytest.raises(ConnectionError):
            a.answered()
        assert a.memory is not None
        assert a.memory.gone
        assert [row.id for row in rows(client)] == [second.id]
        with pytest.raises(RefusedError, match="NOT_FOUND"):
            client.call(protocol.EvictClient(client.next_id(), first.id), protocol.Evicted)
        client.check_ledger()


def test_a_declared_port_goes_with_its_session(forwarder: Forwarder, client: Client) -> None:
    options = {"name": "vale0:p1"}
    client.apply([bridge("vale0"), port("user", "client", "vale0", options=options)])
    client.wait_ready("user")
    with Program(forwarder.netmap_path) as a:
        assert a.register("vale0:p1").error == 0
        client.apply(deletes=["port/user"])
        forwarder.call(forwarder.clients.tick)
        with pytest.raises(ConnectionError):
            a.answered()


# --- monitors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        (wire.MONITOR_TX, [frame(2, 1)]),
        (wire.MONITOR_RX, [frame(1, 2)]),
        (wire.MONITOR_TX | wire.MONITOR_RX, [frame(2, 1), frame(1, 2)]),
    ],
)
def test_monitors(
    flags: int, seen: list[bytes], forwarder: Forwarder, client: Client, program: Program
) -> None:
    """What the watched program sends, or gets."""
    with Program(forwarder.netmap_path) as other, Program(forwarder.netmap_path) as monitor:
        program.register("vale0:a")
        other.register("vale0:b")
        assert monitor.register("vale0:a", flags=flags).error == 0
        program.send(frame(2, 1))
        receive(other)
        other.send(frame(1, 2))
        receive(program)
        assert [receive(monitor) for _ in seen] == seen
        assert monitor.receive() is None
        assert [row.mode for row in rows(client)] == ["relay", "relay", "monitor"]
        client.check_ledger()
    wait_until(lambda: list(forwarder.applier.locals.ports) == ["vale0:a"], 5, "the monitor goes")


# --- pipes --------------------------------------------------------------------------------------


def test_the_second_end_of_a_pipe_has_the_firsts_rings(
    forwarder: Forwarder, program: Program
) -> None:
    """What one sends by, the other receives by; whatever it asks for."""
    assert program.register("vale0:a{x", rings=(2, 1), slots=(64, 128)).error == 0
    with Program(forwarder.netmap_path) as other:
        answer = other.register("vale0:a}x", rings=(4, 4), slots=(1024, 1024))
        assert (answer.tx_rings, answer.rx_rings) == (1, 2)
        assert (answer.tx_slots, answer.rx_slots) == (128, 64)


def test_a_monitor_of_a_pipes_end(forwarder: Forwarder, client: Client, program: Program) -> None:
    """It gets the memory and no bells, costs no port, and ends with the pipe."""
    assert program.register("vale0:a{x", rings=(2, 1), slots=(64, 128)).error == 0
    with Program(forwarder.netmap_path) as monitor:
        assert monitor.register("vale0:a{y", flags=wire.MONITOR_RX).error == errno.ENXIO
        answer = monitor.register("vale0:a}x", flags=wire.MONITOR_RX)
        assert (answer.error, answer.side) == (0, 1)
        assert (answer.tx_rings, answer.rx_rings) == (1, 2)
        assert monitor.bells == []
        program.send(frame(1, 2))
        assert monitor.memory is not None
        assert monitor.memory.take() == frame(1, 2)  # the same memory
        assert [row.mode for row in rows(client)] == ["pipe", "monitor"]
        assert forwarder.applier.locals.ports == {}
        program.close()
        wait_until(lambda: [row.mode for row in rows(client)] == ["monitor"], 5, "the pipe ends")
        forwarder.call(forwarder.clients.tick)
        with pytest.raises(ConnectionError):
            monitor.answered()


# --- no port ------------------------------------------------------------------------------------


def test_a_region_without_a_port(forwarder: Forwarder, client: Client, program: Program) -> None:
    """NR_REG_NULL: rings and buffers where another session finds them."""
    region = os.memfd_create("region", os.MFD_CLOEXEC)
    answer = program.call(
        wire.REGISTER, "x", mode=wire.MODE_NULL, rings=(3, 0), mem_id=1, fds=[region]
    )
    assert (answer.error, answer.tx_rings, answer.rx_rings, answer.mem_id) == (0, 3, 0, 1)
    assert answer.fds == []
    assert [(row.mode, row.switch, row.port) for row in rows(client)] == [("null", "", "")]
    assert forwarder.applier.locals.ports == {}
    with Program(forwarder.netmap_path) as other:
        (found,) = other.call(wire.REGION, mem_id=1).fds
        assert os.path.sameopenfile(found, region)
        os.close(found)
        too_many = other.call(wire.REGISTER, "y", mode=wire.MODE_NULL, rings=(17, 0), mem_id=1)
        assert too_many.error == errno.EINVAL
    os.close(region)


# --- hostile programs ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 199, 201, 4096])
def test_packets_of_other_sizes_end_the_connection(size: int, program: Program) -> None:
    program.sock.send(bytes(size))
    with pytest.raises(ConnectionError):
        program.answered()


def fds_of_this_process() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_fds_that_are_no_memory_are_closed(forwarder: Forwarder) -> None:
    before = fds_of_this_process()
    with Program(forwarder.netmap_path) as program:
        read, write = os.pipe()
        program.post(wire.REGISTER, "vale0:a", mode=ALL, fds=[read, write])
        with pytest.raises(ConnectionError):
            program.answered()
        os.close(read)
        os.close(write)
    wait_until(lambda: fds_of_this_process() <= before, 5, "nothing is left open")


def test_memories_that_nobody_wants_are_closed(forwarder: Forwarder, program: Program) -> None:
    before = fds_of_this_process()
    fds = [os.memfd_create("x") for _ in range(30)]
    assert program.call(wire.INFO, "vale0:a", fds=fds).error == errno.EINVAL
    channel.close_all(fds)
    wait_until(lambda: fds_of_this_process() <= before, 5, "nothing is left open")


def test_connections_have_a_limit(tmp_path: Path) -> None:
    limits = LIMITS | {"netmap_connections_user_max": 3}
    with a_forwarder(tmp_path, limits=limits) as forwarder, ExitStack() as stack:
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(3)]
        for program in programs:
            assert program.call(wire.LIST).error == errno.ENOENT
        with Program(forwarder.netmap_path) as late, pytest.raises(ConnectionError):
            late.call(wire.LIST)
        programs[0].close()
        wait_until(lambda: len(forwarder.clients.connections) == 2, 5, "it is seen")
        with Program(forwarder.netmap_path) as late:
            assert late.call(wire.LIST).error == errno.ENOENT


def test_ports_have_a_limit(tmp_path: Path) -> None:
    """Each monitor counts, a further session of an open port does not."""
    limits = LIMITS | {"netmap_ports_user_max": 3}
    with a_forwarder(tmp_path, limits=limits) as forwarder, ExitStack() as stack:
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(5)]
        assert [programs[i].register(f"vale0:p{i}").error for i in range(2)] == [0, 0]
        assert programs[2].register("vale0:p0", flags=wire.MONITOR_RX).error == 0
        assert programs[3].register("vale0:p0", flags=wire.MONITOR_RX).error == errno.ENOMEM
        assert programs[3].register("vale0:p2").error == errno.ENOMEM
        assert programs[4].register("vale0:p0").error == 0
        programs[1].close()
        wait_until(lambda: len(forwarder.clients.sessions) == 3, 5, "it is seen")


def test_monitors_have_a_limit(tmp_path: Path) -> None:
    """Each is a bridge, of which others want some, too."""
    limits = LIMITS | {"bridges_max": 8}
    with a_forwarder(tmp_path, limits=limits) as forwarder, ExitStack() as stack:
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(4)]
        assert programs[0].register("vale0:a").error == 0
        flags = wire.MONITOR_RX
        errors = [program.register("vale0:a", flags=flags).error for program in programs[1:]]
        assert errors == [0, 0, errno.ENOMEM]


def test_memory_has_a_limit(tmp_path: Path) -> None:
    limits = LIMITS | {"netmap_memory_user_max": 20 << 20}
    with a_forwarder(tmp_path, limits=limits) as forwarder, ExitStack() as stack:
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(3)]
        assert programs[0].register("vale0:a", rings=(5, 4)).error == errno.ENOMEM
        assert programs[0].register("vale0:a", rings=(4, 3)).error == 0
        assert programs[1].register("vale0:b").error == errno.ENOMEM
        assert programs[1].register("vale0:a").error == 0
        programs[0].close()
        programs[1].close()
        wait_until(lambda: not len(forwarder.clients.sessions), 5, "it is seen")
        assert programs[2].register("vale0:b").error == 0


def test_opens_beyond_the_rate_wait(tmp_path: Path) -> None:
    with (
        a_forwarder(tmp_path, limits=LIMITS | {"netmap_opens_s": 5}) as forwarder,
        ExitStack() as stack,
    ):
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(7)]
        start = time.monotonic()
        assert [program.register("vale0:a").error for program in programs] == [0] * 7
        assert time.monotonic() - start >= 0.2  # 5 at once, 5 in a second
        with Program(forwarder.netmap_path) as hasty:
            region = os.memfd_create("region")
            hasty.post(wire.REGISTER, "vale0:b", mode=ALL, fds=[region])
            os.close(region)
    wait_nothing_left(forwarder)


def test_the_engine_has_a_limit(tmp_path: Path) -> None:
    with a_forwarder(tmp_path, limits=LIMITS | {"ports_max": 2}) as forwarder, ExitStack() as stack:
        programs = [stack.enter_context(Program(forwarder.netmap_path)) for _ in range(3)]
        errors = [program.register(f"vale0:p{i}").error for i, program in enumerate(programs)]
        assert errors == [0, 0, errno.ENOMEM]
        assert list(forwarder.applier.locals.ports) == ["vale0:p0", "vale0:p1"]


def test_requests_beyond_the_rate_wait(tmp_path: Path) -> None:
    with (
        a_forwarder(tmp_path, limits=LIMITS | {"netmap_requests_s": 20}) as forwarder,
        Program(forwarder.netmap_path) as program,
        Program(forwarder.netmap_path) as other,
    ):
        start = time.monotonic()
        for _ in range(40):
            assert program.call(wire.LIST).error == errno.ENOENT
        assert time.monotonic() - start >= 0.8  # 20 at once, 20 in a second
        assert other.call(wire.LIST).error == errno.ENOENT


def test_who_does_not_read_is_not_read(forwarder: Forwarder, client: Client) -> None:
    """The fds of its answers would fill the table of all."""
    with Program(forwarder.netmap_path) as lazy, Program(forwarder.netmap_path) as other:
        lazy.register("vale0:a", rings=(16, 16))
        lazy.sock.setblocking(False)
        for _ in range(200):
            with contextlib.suppress(BlockingIOError):
                lazy.post(wire.DESCRIBE)
        assert other.register("vale0:b").error == 0
        assert client.ping() < 5
        lazy.sock.settimeout(0.2)
        answers = 0
        with contextlib.suppress(TimeoutError):
            while True:
                channel.close_all(lazy.answered().fds)
                answers += 1
        assert answers > 10  # one after the other


def test_a_connection_does_not_hold_itself(forwarder: Forwarder) -> None:
    """By its own fd, on its way to a switch that waits for an answer to be read."""
    with Program(forwarder.netmap_path) as program:
        assert program.register("vale0:a").error == 0
        program.post(wire.DESCRIBE)
        for _ in range(3):
            program.post(wire.DESCRIBE, fds=[program.region])
        with contextlib.suppress(ConnectionError):
            program.post(wire.DESCRIBE, fds=[program.sock.fileno()])
    wait_nothing_left(forwarder)


def test_a_flood_of_opens(forwarder: Forwarder, client: Client) -> None:
    """The control plane is answered, and so are programs."""
    before = fds_of_this_process()
    choose = random.Random(5)
    for _ in range(500):
        with Program(forwarder.netmap_path) as program:
            what = choose.randrange(4)
            if what == 0:
                program.post(wire.REGISTER, "vale0:a", mode=ALL)
            elif what == 1:
                with contextlib.suppress(OSError):
                    program.sock.send(choose.randbytes(200))
            elif what == 2:
                program.sock.shutdown(socket.SHUT_WR)
        client.ping()
    with Program(forwarder.netmap_path) as program:
        wait_until(lambda: program.register("vale0:z").error == 0, 5, "a program gets its port")
    wait_nothing_left(forwarder)
    client.check_ledger()
    wait_until(lambda: fds_of_this_process() <= before, 5, "nothing is left open")


def test_hang_ups_while_the_keeper_thinks(forwarder: Forwarder, client: Client) -> None:
    before = fds_of_this_process()
    forwarder.answer = False
    for _ in range(3):
        with Program(forwarder.netmap_path) as program:
            region = os.memfd_create("region")
            program.post(wire.REGISTER, "vale0:a", mode=ALL, fds=[region])
            os.close(region)
            asked = forwarder.asked.get(timeout=5)
        wait_nothing_left(forwarder)
        forwarder.grant(asked)  # too late
        wait_nothing_left(forwarder)
    forwarder.answer = True
    with Program(forwarder.netmap_path) as program:
        assert program.register("vale0:a").error == 0
    wait_nothing_left(forwarder)
    wait_until(lambda: fds_of_this_process() <= before, 5, "nothing is left open")


def test_requests_of_all_sorts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is asked in whatever order: an answer each, nothing left, no exception."""
    limits = LIMITS | {"netmap_opens_s": 1 << 20, "netmap_requests_s": 1 << 20}
    with a_forwarder(tmp_path, limits=limits) as forwarder, Client(forwarder.path) as client:
        ask_anything(forwarder, client)
    assert not [record for record in caplog.records if record.exc_info]


def ask_anything(forwarder: Forwarder, client: Client) -> None:
    names = ("", "vale0:a", "vale0:b", "vale1:a", "vale0:a{x", "vale0:a}x", "x", "{")
    before = fds_of_this_process()
    choose = random.Random(seed := random.randrange(1 << 32))
    programs = [Program(forwarder.netmap_path) for _ in range(4)]
    memory = os.memfd_create("region")
    for _ in range(300):
        at = choose.randrange(len(programs))
        if choose.random() < 0.1:
            programs[at].close()
            programs[at] = Program(forwarder.netmap_path)
        answer = programs[at].call(
            choose.choice((*[wire.REGISTER] * 4, *range(12), 1 << 15)),
            choose.choice(names),
            mode=choose.choice((ALL, ALL, ONE, choose.randrange(1 << 32))),
            ring_id=choose.choice((0, 1, choose.randrange(1 << 32))),
            flags=choose.choice((0, 0, choose.randrange(1 << 18), choose.randrange(1 << 64))),
            rings=(choose.choice((0, 1, 99)), choose.choice((0, 2, (1 << 32) - 1))),
            mem_id=choose.choice((0, 0, 1, 2, choose.randrange(1 << 32))),
            hdr_len=choose.choice((0, 10, 12, choose.randrange(1 << 32))),
            index=choose.choice((0, 1, choose.randrange(1 << 32))),
            fds=[memory] * choose.choice((0, 1, 1, 2)),
        )
        assert 0 <= answer.error < 134, seed
        channel.close_all(answer.fds)
    for program in programs:
        program.close()
    os.close(memory)
    wait_nothing_left(forwarder)
    client.check_ledger()
    wait_until(lambda: fds_of_this_process() <= before, 5, f"nothing is left open (seed {seed})")


# --- successors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["", "{}", '{"kind":"port"}', "[" * 2000])
def test_states_that_make_no_sense(state: str) -> None:
    fds = [os.memfd_create("x"), os.memfd_create("y")]
    assert client_sessions.left(channel.Session(1, state), fds) is None
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
