"""The forwarder's control socket over a real engine with memory ports. No root, no keeper process:
the test answers in the keeper's place, when and as it likes."""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath import protocol as wire
from fastpath.regions import make_region
from fastpath.server import OUTBOX_BYTES_MAX
from tests.support.fastpath import Client, RefusedError, bridge, port
from tests.support.forwarder import LIMITS, Forwarder
from tests.support.topology import wait_until


@pytest.fixture
def state_fd() -> Iterator[int]:
    fd = make_region("test", 1 << 22)
    yield fd
    os.close(fd)


@pytest.fixture
def forwarder(tmp_path: Path, state_fd: int) -> Iterator[Forwarder]:
    running = Forwarder(tmp_path / "f.sock", state_fd)
    yield running
    running.close()


@pytest.fixture
def client(forwarder: Forwarder) -> Iterator[Client]:
    with Client(forwarder.path) as connected:
        yield connected


def frame(dst: int, src: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xB5]) + bytes(46)


# --- frames -------------------------------------------------------------------------------------


def test_frames_go_through_what_was_applied(forwarder: Forwarder, client: Client) -> None:
    ack = client.apply([bridge("br0"), *(port(f"p{i}", "memory", "br0") for i in range(3))])
    assert all(outcome.ok for outcome in ack.outcomes.values())
    slots = forwarder.applier.port_slots
    assert forwarder.engine.memory_put(slots["p0"], frame(9, 1))
    got: list[bytes | None] = []
    for name in ("p1", "p2"):

        def taken(slot: int = slots[name]) -> bool:
            got.append(forwarder.engine.memory_take(slot))
            return got[-1] is not None

        wait_until(taken, 5, f"{name} gets the flooded frame")
        assert got[-1] == frame(9, 1)
    ledger = client.check_ledger()
    assert (ledger.rx_frames, ledger.tx_frames, ledger.copies) == (1, 2, 1)
    assert [(row.mac, row.port) for row in client.fdb("br0")] == [("02:00:00:00:00:01", "p0")]
    flushed = client.call(wire.FlushFdb(client.next_id(), "br0", "p0", None), wire.Flushed)
    assert flushed.entries == 1
    assert client.fdb("br0") == []


def test_static_entries_come_move_and_go(client: Client) -> None:
    mac = "02:00:00:00:00:07"
    ports = [port("p0", "memory", "br0"), port("p1", "memory", "br0")]
    client.apply([bridge("br0"), *ports, wire.WireStatic("br0", mac, 0, "p0")])
    assert [(row.port, row.static) for row in client.fdb("br0")] == [("p0", True)]
    client.apply([wire.WireStatic("br0", mac, 0, "p1")])
    assert [(row.port, row.static) for row in client.fdb("br0")] == [("p1", True)]
    client.apply([bridge("br0", fdb_entries_max=1024)])  # another table, the same entries
    assert [(row.port, row.static) for row in client.fdb("br0")] == [("p1", True)]
    client.apply(deletes=[f"static/br0/{mac}/0"])
    assert client.fdb("br0") == []


def test_random_changes_while_frames_move(forwarder: Forwarder, client: Client) -> None:
    """Whatever comes and goes, no frame is unaccounted and nothing is left open."""
    choose = random.Random(choose_seed())
    gc.collect()  # what other tests left
    fds = len(os.listdir("/proc/self/fd"))
    threads = len(os.listdir("/proc/self/task"))
    client.apply([bridge("b0"), bridge("b1")])
    for step in range(300):
        client.apply(*a_change(choose, client))
        forwarder.call(lambda n=step: put_frames(forwarder, n))
    client.check_ledger()
    ledger = client.stats().ledger
    assert ledger.tx_frames > 0
    client.snapshot([])
    assert client.check_ledger().rx_frames >= ledger.rx_frames  # departed ports stay in the sums
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert len(os.listdir("/proc/self/task")) <= threads


def choose_seed() -> int:
    seed = random.randrange(1 << 32)
    logging.getLogger(__name__).info("seed %d", seed)  # shown when the test fails
    return seed


def a_change(choose: random.Random, client: Client) -> tuple[list[wire.WireObject], list[str]]:
    present = sorted(client.objects)
    deletes = choose.sample(present, min(len(present), choose.choice((0, 0, 1, 2))))
    upserts: dict[str, wire.WireObject] = {}
    for _ in range(choose.randint(0, 3)):
        to = choose.choice(("b0", "b0", "b1", None))
        name = f"p{choose.randrange(5)}"
        obj: wire.WireObject = choose.choice(
            (
                bridge(f"b{choose.randrange(2)}", fdb_entries_max=choose.choice((64, 128))),
                port(name, "memory", to, polling=choose.choice(("block", "adaptive"))),
                port(name, "null", to),
                port(name, "memory", to, admin_up=False),
                wire.WireStatic("b0", "02:00:00:00:00:01", 0, name),
            )
        )
        if obj.key not in deletes:
            upserts[obj.key] = obj
    return list(upserts.values()), deletes


def put_frames(forwarder: Forwarder, seed: int) -> None:
    for name, (type, _) in forwarder.applier.attached.items():
        if type == "memory":
            slot = forwarder.applier.port_slots[name]
            for n in range(20):
                forwarder.engine.memory_put(slot, frame((seed + n) % 7, n % 5))
            while forwarder.engine.memory_take(slot) is not None:
                pass


# --- outcomes -----------------------------------------------------------------------------------


def test_what_cannot_be_says_why_and_the_rest_is_in_force(client: Client) -> None:
    ack = client.apply(
        [
            bridge("br0"),
            port("p0", "memory", "br0"),
            port("p1", "no-such-type", "br0"),
            port("p2", "memory", "nowhere"),
            port("p3", "memory", "br0", vlan_mode="sideways"),
            port("p4", "memory", "br0", pvid=5000),
            bridge("br1", fdb_entries_max=0),
            wire.WireStatic("br0", "02:00:00:00:00:01", 0, "p1"),
        ]
    )
    codes = {key: outcome.code for key, outcome in ack.outcomes.items()}
    assert codes == {
        "bridge/br0": "",
        "port/p0": "",
        "port/p1": "PORT_TYPE_UNKNOWN",
        "port/p2": "BRIDGE_ABSENT",
        "port/p3": "INVALID",
        "port/p4": "INVALID",
        "bridge/br1": "INVALID",
        "static/br0/02:00:00:00:00:01/0": "PORT_ABSENT",
    }
    assert "sideways" in ack.outcomes["port/p3"].message
    states = {state.name: state.outcome.code for state in client.status().ports}
    assert states == {"p0": "", "p1": "PORT_TYPE_UNKNOWN", "p2": "BRIDGE_ABSENT"} | {
        "p3": "INVALID",
        "p4": "INVALID",
    }
    ack = client.apply([bridge("nowhere"), port("p3", "memory", "br0")])
    assert ack.outcomes["port/p3"].ok
    assert client.port("p2").outcome.ok


def test_the_limits_are_outcomes_too(client: Client) -> None:
    ack = client.apply([port(f"p{i}", "memory") for i in range(LIMITS["ports_max"] + 1)])
    refused = [key for key, outcome in ack.outcomes.items() if not outcome.ok]
    assert len(refused) == 1
    assert ack.outcomes[refused[0]].code == "LIMIT"
    # One goes, and the one that waited gets its place in the same change.
    ack = client.apply(deletes=["port/p0"])
    assert client.port(refused[0].removeprefix("port/")).outcome.ok


def test_ports_that_never_came_leave_no_number(client: Client) -> None:
    for n in range(3 * LIMITS["ports_max"]):
        ack = client.apply([port(f"p{n}", "no-such-type")])
        assert ack.outcomes[f"port/p{n}"].code == "PORT_TYPE_UNKNOWN"
        client.apply(deletes=[f"port/p{n}"])
    assert client.stats().ports == ()
    for n in range(3 * LIMITS["bridges_max"]):
        assert client.apply([bridge(f"b{n}")]).outcomes[f"bridge/b{n}"].ok
        client.apply(deletes=[f"bridge/b{n}"])


def test_a_device_is_waited_for_and_others_are_answered(
    forwarder: Forwarder, client: Client
) -> None:
    forwarder.answer = False
    with Client(forwarder.path) as other:
        objects = [bridge("br0"), port("p0", "memory", "br0")]
        hash = Client.hash_of({obj.key: obj for obj in objects})
        client.send(wire.Apply(1, 1, bytes(16), hash, tuple(objects), ()))
        request = forwarder.asked.get(timeout=5)
        assert other.ping() < 5
        assert other.port("p0").outcome.code == "PENDING"
        # A change of another client waits for its turn, and is then told what is in force.
        other.send(wire.Apply(2, 2, hash, hash, (), ()))
        forwarder.grant(request)
        assert client.receive(wire.Ack).outcomes["port/p0"].ok
        assert other.receive(wire.Ack).revision == 2


def test_without_a_keeper_ports_wait(forwarder: Forwarder, client: Client) -> None:
    forwarder.keeper = False
    ack = client.apply([bridge("br0"), port("p0", "memory", "br0")])
    assert ack.outcomes["bridge/br0"].ok
    assert ack.outcomes["port/p0"].code == "KEEPER_ABSENT"
    assert ack.outcomes["port/p0"].hint
    forwarder.keeper = True
    forwarder.call(forwarder.applier.reconcile)
    client.wait_ready("p0")
    client.receive_events(["failed", "in_force"])


def test_a_keeper_that_dies_while_asked(forwarder: Forwarder, client: Client) -> None:
    forwarder.answer = False
    objects = (port("p0", "memory"),)
    hash = Client.hash_of({obj.key: obj for obj in objects})
    client.send(wire.Apply(1, 1, bytes(16), hash, objects, ()))
    forwarder.asked.get(timeout=5)
    forwarder.call(forwarder.applier.keeper_gone)
    assert client.receive(wire.Ack).outcomes["port/p0"].code == "KEEPER_ABSENT"


# --- hashes, snapshots --------------------------------------------------------------------------


def test_a_delta_on_another_base_is_refused(client: Client) -> None:
    client.apply([bridge("br0")])
    with pytest.raises(RefusedError) as refused:
        client.call(wire.Apply(9, 2, bytes(16), bytes(16), (), ("bridge/br0",)), wire.Ack)
    assert (refused.value.refused.id, refused.value.refused.code) == (9, "HASH_MISMATCH")
    assert [state.name for state in client.status().bridges] == ["br0"]


def test_a_delta_that_does_not_lead_to_its_hash_is_refused(client: Client) -> None:
    client.apply([bridge("br0")])
    base = Client.hash_of(client.objects)
    for upserts, deletes in (((bridge("br1"),), ()), ((), ("bridge/br7",))):
        with pytest.raises(RefusedError) as refused:
            client.call(wire.Apply(9, 2, base, bytes(16), upserts, deletes), wire.Ack)
        assert refused.value.refused.code == "HASH_INVALID"
    assert [state.name for state in client.status().bridges] == ["br0"]


def test_nothing_of_a_snapshot_is_visible_before_its_end(
    forwarder: Forwarder, client: Client
) -> None:
    with Client(forwarder.path) as other:
        new = [bridge(f"b{i}") for i in range(3)]
        client.apply([bridge("old")])
        client.send(wire.Begin(7, 5, Client.hash_of({obj.key: obj for obj in new})))
        for chunk in wire.chunks(new, 1):
            client.send(chunk)
            assert client.ping() < 5
            assert [state.name for state in other.status().bridges] == ["old"]
        ack = client.call(wire.Commit(8), wire.Ack)
        assert (ack.id, ack.revision) == (8, 5)
        assert {state.name for state in other.status().bridges} == {"b0", "b1", "b2"}


def test_a_snapshot_that_broke_off_leaves_nothing(forwarder: Forwarder, client: Client) -> None:
    client.apply([bridge("old")])
    with Client(forwarder.path) as other:
        other.send(wire.Begin(1, 9, bytes(16)))
        other.send(wire.Chunk((bridge("new"),)))
    assert [state.name for state in client.status().bridges] == ["old"]
    with pytest.raises(RefusedError) as refused:
        client.call(wire.Commit(3), wire.Ack)
    assert refused.value.refused.code == "NO_SNAPSHOT"


def test_the_next_forwarder_reads_all_of_it(tmp_path: Path, state_fd: int) -> None:
    first = Forwarder(tmp_path / "1.sock", state_fd)
    with Client(first.path) as client:
        client.apply([bridge("br0"), *(port(f"p{i}", "memory", "br0") for i in range(3))])
        client.apply(deletes=["port/p0"])
        before = client.status()
        slots = dict(first.applier.port_slots)
    first.close()
    second = Forwarder(tmp_path / "2.sock", state_fd)
    with Client(second.path) as client:
        assert client.welcome.applied_revision == before.applied_revision
        assert client.welcome.config_hash == before.config_hash
        client.wait_ready("p1", "p2")
        assert second.applier.port_slots == slots
    second.close()


# --- bad clients --------------------------------------------------------------------------------


def raw(forwarder: Forwarder) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(os.fspath(forwarder.path))
    return sock


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(1 << 16):
        data += part
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\x01\xc1",
        b"\0\0\0\0",
        wire.encode(wire.Ping(1)),
        wire.encode(wire.Hello(wire.VERSION, "x")) * 2,
        wire.encode(wire.Hello(wire.VERSION, "x")) + wire.encode(wire.Chunk(())),
        wire.encode(wire.Pong(1)),
    ],
    ids=["length", "no MessagePack", "empty", "no hello", "two hellos", "no begin", "ours"],
)
def test_nonsense_ends_the_connection_with_a_reason(
    forwarder: Forwarder, client: Client, data: bytes
) -> None:
    with raw(forwarder) as sock:
        sock.sendall(data)
        answers = list(wire.Decoder(wire.FromForwarder).feed(until_closed(sock)))
    assert isinstance(answers[-1], wire.Refused)
    assert answers[-1].code == "PROTOCOL"
    assert client.ping() < 5


def test_another_version_is_named(forwarder: Forwarder) -> None:
    with raw(forwarder) as sock:
        sock.sendall(wire.encode(wire.Hello(wire.VERSION + 1, "next")))
        (answer,) = wire.Decoder(wire.FromForwarder).feed(until_closed(sock))
    assert isinstance(answer, wire.Refused)
    assert answer.code == "VERSION_MISMATCH"
    assert "next" in answer.message


def test_a_byte_at_a_time_is_fine(forwarder: Forwarder) -> None:
    with raw(forwarder) as sock:
        for byte in wire.encode(wire.Hello(wire.VERSION, "x")) + wire.encode(wire.Ping(3)):
            sock.send(bytes([byte]))
        decoder = wire.Decoder(wire.FromForwarder)
        got: list[wire.Message] = []
        while len(got) < 2:
            got += decoder.feed(sock.recv(1))
    assert got[1] == wire.Pong(3)


def test_who_does_not_read_is_dropped_and_costs_no_memory(
    forwarder: Forwarder, client: Client
) -> None:
    client.apply([port(f"p{i}", "memory") for i in range(8)])
    with raw(forwarder) as sock:
        sock.sendall(wire.encode(wire.Hello(wire.VERSION, "x")))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ask_without_end(sock)
    assert client.ping() < 5


def ask_without_end(sock: socket.socket) -> None:
    request = wire.encode(wire.GetStats(1)) * 200
    sent = 0
    while sent < 100 * OUTBOX_BYTES_MAX:
        sent += sock.send(request)


def test_more_clients_than_the_limit_are_turned_away(forwarder: Forwarder, client: Client) -> None:
    others = [Client(forwarder.path) for _ in range(LIMITS["clients_max"] - 1)]
    with raw(forwarder) as sock:
        assert sock.recv(1) == b""
    for other in others:
        other.sock.close()
    wait_until(lambda: connects(forwarder), 5, "there is room again")
    assert client.ping() < 5


def connects(forwarder: Forwarder) -> bool:
    try:
        with Client(forwarder.path):
            return True
    except OSError:
        return False


def test_unknown_names_are_not_found(client: Client) -> None:
    for request in (
        wire.GetFdb(1, "br9", 0, 10),
        wire.FlushFdb(2, "br9", None, None),
    ):
        with pytest.raises(RefusedError) as refused:
            client.call(request, wire.Fdb)
        assert refused.value.refused.code == "NOT_FOUND"
