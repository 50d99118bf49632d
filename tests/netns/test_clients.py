"""Netmap programs' sessions through deaths: of the forwarder, of the keeper, of programs."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath import channel, protocol
from fastpath import native_clients as wire
from tests.support.client_kills import Kills, descriptors, frame
from tests.support.fastpath import FastPath, bridge
from tests.support.netmap_program import ALL, Program
from tests.support.topology import wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def path(home: Path) -> Iterator[FastPath]:
    with FastPath(home) as started:
        yield started


def carries(a: Program, b: Program, *, timeout_s: float = 10) -> None:
    """Frames of `a` reach `b`."""
    marked = frame(2, 1)[:-8] + os.urandom(8)

    def arrived() -> bool:
        while (got := b.receive()) is not None:
            if got == marked:
                return True
        return False

    assert a.send(marked)
    wait_until(arrived, timeout_s, "a frame arrives")


def sessions(path: FastPath) -> list[int]:
    with path.client() as client:
        asked = protocol.GetClients(client.next_id(), 0, 100)
        return [row.id for row in client.call(asked, protocol.ClientRows).rows]


def test_sessions_survive_forwarders_and_keepers(path: FastPath) -> None:
    socket = path.run / "netmap.sock"
    path.wait_standby()
    before = descriptors(path)
    with Program(socket) as a, Program(socket) as b, Program(socket) as monitor:
        first = a.register("vale0:a", rings=(2, 2))
        assert b.register("vale0:b").error == 0
        assert monitor.register("vale0:a", flags=wire.MONITOR_TX).error == 0
        assert a.call(wire.HDR_SET, "vale0:a", hdr_len=10).error == 0
        carries(a, b)
        known = sessions(path)
        for _ in range(3):
            path.wait_standby()
            path.wait_replaced(path.kill_forwarder())
            carries(a, b)
            carries(b, a)
        path.kill_keeper()
        carries(a, b)
        path.start()  # the new keeper takes everything back
        path.wait_standby()
        path.wait_replaced(path.kill_forwarder())  # and gives it to the next forwarder
        carries(a, b)
        assert sessions(path) == known
        again = a.call(wire.REGISTER, "vale0:a", mode=ALL, id=first.id)
        assert (again.error, again.session, again.mem_id) == (0, first.session, first.mem_id)
        assert (again.tx_rings, again.hdr_len) == (2, 10)
        assert os.fstat(again.fds[0]).st_size > 0
        channel.close_all(again.fds)
        with path.client() as client:
            client.check_ledger()
            assert {row.port for row in client.fdb("vale0")} <= {"vale0:a", "vale0:b"}
    wait_until(lambda: not sessions(path), 10, "the sessions end")
    path.wait_standby()
    wait_until(
        lambda: all(n <= m for n, m in zip(descriptors(path), before, strict=True)),
        10,
        "keeper and forwarder keep nothing",
    )


def test_programs_end_while_nobody_forwards(path: FastPath) -> None:
    """Their successor sees that they are gone."""
    socket = path.run / "netmap.sock"
    path.wait_standby()
    with Program(socket) as a:
        assert a.register("vale0:a").error == 0
        b = Program(socket)
        assert b.register("vale0:b").error == 0
        path.wait_standby()
        old = path.kill_forwarder()
        b.close()
        path.wait_replaced(old)
        wait_until(lambda: len(sessions(path)) == 1, 10, "one session is left")
        with path.client() as client:
            assert [port.name for port in client.stats().ports] == ["vale0:a"]


def test_a_request_in_flight_is_answered_by_the_successor(path: FastPath) -> None:
    """Of a bound connection; it is asked again with the same id where it was lost."""
    with Program(path.run / "netmap.sock", timeout_s=1) as a:
        assert a.register("vale0:a").error == 0
        for n in range(10):
            path.wait_standby()
            old = path.kill_forwarder()
            time.sleep(n / 1000)
            id = a.post(wire.DESCRIBE)
            path.wait_replaced(old)
            answered = None
            while answered is None:
                try:
                    answered = a.answered()
                except TimeoutError:
                    a.post(wire.DESCRIBE, id=id)
            assert (answered.id, answered.error, answered.name) == (id, 0, "vale0:a")
            channel.close_all(answered.fds)


def test_foreign_fds_are_closed_in_the_sandbox(path: FastPath) -> None:
    path.wait_standby()
    before = descriptors(path)
    for _ in range(20):
        with Program(path.run / "netmap.sock") as program:
            program.post(wire.REGISTER, "vale0:a", mode=ALL, fds=[program.sock.fileno(), 2])
            with pytest.raises(ConnectionError):
                program.answered()
    wait_until(
        lambda: all(n <= m for n, m in zip(descriptors(path), before, strict=True)),
        10,
        "nothing is left open",
    )


def test_who_may_is_told_by_the_kernel(path: FastPath) -> None:
    """A user whom the bridge does not name gets no port; all may pass to the socket, none list."""
    assert stat.S_IMODE(path.run.stat().st_mode) == 0o751
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) & 0o7 for p in path.run.iterdir()}
    assert modes.pop("netmap.sock") == 0o6
    assert {name for name, mode in modes.items() if mode & 0o3} == set()
    assert {name for name, mode in modes.items() if mode} <= {"keeper.pid", "forwarder.pid"}
    with path.client() as client:
        client.apply([bridge("vale1", clients=protocol.WireClients("relay", (54321,), ()))])
        assert errors_of(54321, path) == {"vale0:a": "EACCES", "vale1:a": "0", "list": "EACCES"}
        client.apply([bridge("vale1", clients=protocol.WireClients("relay", (), (54321,)))])
        assert errors_of(54321, path)["vale1:a"] == "0"
        assert errors_of(54322, path)["vale1:a"] == "EACCES"


def errors_of(uid: int, path: FastPath) -> dict[str, str]:
    """What a process of that user is told: registering two ports, writing into the directory."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            said: dict[str, str] = {}
            for name in ("vale0:a", "vale1:a"):
                with Program(path.run / "netmap.sock") as program:
                    error = program.register(name).error
                    said[name] = errno.errorcode.get(error, str(error))
            try:
                os.listdir(path.run)
            except OSError as error:
                said["list"] = errno.errorcode[error.errno or 0]
            os.write(write, json.dumps(said).encode())
        except BaseException as error:
            os.write(write, json.dumps({"failed": repr(error)}).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as out:
        answer: dict[str, str] = json.loads(out.read())
    return answer


def test_kills_at_random_points(path: FastPath) -> None:
    """python -m tests.support.client_kills does it longer."""
    kills = Kills(programs=60, forwarders=6, keepers=1, seed=int.from_bytes(os.urandom(4)))
    kills.run(path)
    assert kills.ping_s < 5
