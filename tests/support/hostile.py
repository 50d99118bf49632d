"""Hostile programs at a whole fast path, as root:

    python -m tests.support.hostile --runs 20000 --seed 1

Processes of three users, which may use one switch, do what programs should not, a run a thing: they
flood with opens, send half messages and whatever file there is, do not read, pass their connections
to each other and to the switch, write anything into the memories that they share with it (also
after the connection is closed), try to cut, seal and map what they were given. Meanwhile two honest
couples on switches of their own exchange frames, each marked with a key of its own.

What has to hold: no foreign frame reaches a couple and both go on exchanging; no hostile program
is given a memory with a couple's key in it, or one that it can cut or, where it is only to read,
write; the control plane is answered; and at the end nothing is left: no session, port or descriptor
in keeper and forwarder, no frame that is not accounted for.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import fcntl
import mmap
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastpath import native_clients as wire
from fastpath.channel import close_all
from fastpath.protocol import WireClients
from tests.support.client_kills import Kills, descriptors
from tests.support.fastpath import FastPath, bridge
from tests.support.netmap_program import ALL, ONE, Answered, Program

USERS = (64201, 64202, 64203)
COUPLES = ("vale1", "vale2")
KEY_BYTES = 16
STALL_S = 20.0  # a couple's frames may take that long under all of this
ANSWER_S = 30.0
WRITES = 300
MEMORIES = ("vale0:a", "vale0:b", "vale0:c", "vale0:d")
PIPES = ("vale0:a{1", "vale0:a}1", "x{1", "x}1")


# --- honest programs -----------------------------------------------------------------------------


def exchange(path: Path, switch: str, key: bytes, beat: mmap.mmap, at: int) -> None:
    """A couple, until it is killed; counts frames that arrived at ``beat[at]``."""
    with Program(path, ANSWER_S) as a, Program(path, ANSWER_S) as b:
        for program, name in ((a, "one"), (b, "two")):
            answer = program.register(f"{switch}:{name}")
            assert answer.error == 0, answer.error
        count = 0
        while True:
            for sender, receiver, ends in ((a, b, b"\2\1"), (b, a, b"\1\2")):
                head = bytes([2, 0, 0, 0, 0, ends[0], 2, 0, 0, 0, 0, ends[1], 0x88, 0xB5])
                sender.send(head + key + count.to_bytes(8, "little") + bytes(40))
                while (got := receiver.receive()) is not None:
                    assert got[14 : 14 + KEY_BYTES] == key, f"{switch}: foreign: {got.hex()}"
                    count += 1
            beat[at : at + 8] = count.to_bytes(8, "little")
            time.sleep(0.001)


# --- hostile programs ----------------------------------------------------------------------------


class NoneLeftError(Exception):
    """The switch has closed the connection, or refused it."""


@dataclass
class Hostile:
    """A process. ``others``: a socket by which all of them pass fds around."""

    path: Path
    choose: random.Random
    keys: tuple[bytes, ...]
    others: socket.socket

    def run(self) -> None:
        """One thing."""
        things: tuple[Callable[[], None], ...] = (
            self.flood,
            self.half_message,
            self.files,
            self.silence,
            self.pass_on,
            self.hold_itself,
            self.scribble,
            self.scribble,
            self.cut,
            self.direct,
            self.intrude,
        )
        with contextlib.suppress(NoneLeftError, ConnectionError, BrokenPipeError):
            self.choose.choice(things)()

    def call(self, program: Program, type: int, name: str = "", **fields: object) -> Answered:
        """An answer with nothing of the couples' in it."""
        answer = program.call(type, name, **fields)
        for fd in answer.fds:
            self.look(fd)
        return answer

    def look(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if not size:
            return
        with (
            contextlib.suppress(OSError, ValueError),
            mmap.mmap(fd, size, prot=mmap.PROT_READ) as m,
        ):
            for key in self.keys:
                assert m.find(key) < 0, f"a couple's frames in {os.readlink(f'/proc/self/fd/{fd}')}"

    def register(self, program: Program) -> Answered:
        name = self.choose.choice((*MEMORIES, *PIPES))
        region = os.memfd_create("hostile", os.MFD_ALLOW_SEALING)
        flags = self.choose.choice((0, 0, 0, wire.MONITOR_RX, wire.EXCLUSIVE))
        rings = (self.choose.choice((1, 1, 2, 16)), self.choose.choice((1, 1, 2)))
        try:
            mode = self.choose.choice((ALL, ALL, ONE))
            answer = self.call(
                program, wire.REGISTER, name, mode=mode, flags=flags, rings=rings, fds=[region]
            )
            if answer.error:
                raise NoneLeftError
            try:
                program.bind(answer, os.dup(region))
            except (AssertionError, ValueError):  # one of our own has scribbled on it before
                close_all(answer.fds)
                raise NoneLeftError from None
        finally:
            os.close(region)
        return answer

    def flood(self) -> None:
        for _ in range(self.choose.randrange(1, 30)):
            with contextlib.suppress(OSError), Program(self.path, ANSWER_S) as program:
                if self.choose.random() < 0.3:
                    program.post(wire.REGISTER, self.choose.choice(MEMORIES), mode=ALL)

    def half_message(self) -> None:
        with Program(self.path, ANSWER_S) as program:
            size = self.choose.choice((0, 1, 199, 201, 9000))
            program.sock.send(self.choose.randbytes(size))
            if self.choose.random() < 0.5:
                program.sock.shutdown(self.choose.choice((socket.SHUT_WR, socket.SHUT_RD)))

    def files(self) -> None:
        """Of every sort, up to more than fit."""
        ends = socket.socketpair()
        read, write = os.pipe()
        kinds = [os.open(p, os.O_RDONLY) for p in ("/dev/null", "/", "/proc/self/maps")]
        kinds += [read, write, ends[0].detach(), ends[1].detach(), os.memfd_create("x")]
        try:
            with Program(self.path, ANSWER_S) as program:
                fds = self.choose.choices(kinds, k=self.choose.choice((1, 2, 36, 60)))
                program.post(wire.REGISTER, self.choose.choice(MEMORIES), mode=ALL, fds=fds)
                if self.choose.random() < 0.5:
                    close_all(program.answered().fds)
        finally:
            close_all(kinds)

    def silence(self) -> None:
        """Asks and asks, and reads nothing, or late."""
        with Program(self.path, ANSWER_S) as program:
            self.register(program)
            program.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(self.choose.randrange(300)):
                    program.post(self.choose.choice((wire.DESCRIBE, wire.LIST, wire.INFO)))
            time.sleep(self.choose.random() * 0.05)

    def pass_on(self) -> None:
        """The connection goes to another process and is used there; one of another is used here."""
        with Program(self.path, ANSWER_S) as program:
            if self.choose.random() < 0.7:
                self.register(program)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            with contextlib.suppress(BlockingIOError):
                mine = array.array("i", [program.sock.fileno()])
                self.others.sendmsg([b"x"], [(*rights, mine)])
        with contextlib.suppress(BlockingIOError):
            _, fds, _, _ = socket.recv_fds(self.others, 1, 4)
            for fd in fds:
                self.use(socket.socket(fileno=fd))

    def use(self, sock: socket.socket) -> None:
        """Somebody else's connection, which the other one may be using, too."""
        with sock, contextlib.suppress(OSError):
            program = Program.__new__(Program)
            program.sock, program._id = sock, self.choose.randrange(1 << 16)
            sock.settimeout(0.2)
            program.post(wire.DESCRIBE)
            answer = program.answered()
            for fd in answer.fds:
                self.look(fd)
            close_all(answer.fds)

    def hold_itself(self) -> None:
        """Its own fd lies where the switch would read it only later, and by a bell."""
        with Program(self.path, ANSWER_S) as program:
            self.register(program)
            program.post(wire.DESCRIBE)
            program.post(wire.DESCRIBE)
            program.post(wire.DESCRIBE, fds=[program.sock.fileno()])

    def scribble(self) -> None:
        """Anything into the memory, the bells rung; also when the port is gone."""
        with Program(self.path, ANSWER_S) as program:
            self.register(program)
            assert program.memory is not None
            memory = program.memory.map
            closed = self.choose.random() < 0.3
            if closed:
                program.sock.close()
            for _ in range(self.choose.randrange(WRITES)):
                at = self.choose.randrange(2 * 4096) if self.choose.random() < 0.7 else 16384
                at = (at + self.choose.randrange(512)) & ~7
                memory[at : at + 8] = self.choose.getrandbits(
                    self.choose.choice((3, 12, 20, 32, 64))
                ).to_bytes(8, "little")
                if program.bells and self.choose.random() < 0.2:
                    with contextlib.suppress(OSError):
                        os.write(self.choose.choice(program.bells), b"xyz")

    def cut(self) -> None:
        """Memories that were given stay as long as they are, and writable for the switch."""
        with Program(self.path, ANSWER_S) as program:
            self.register(program)
            answer = self.call(program, wire.DESCRIBE)
            try:
                if answer.error or len(answer.fds) < 2:
                    return
                region, memory = answer.fds[:2]
                with contextlib.suppress(OSError):
                    os.ftruncate(region, self.choose.choice((0, 1, 1 << 20)))
                refused = 0
                for what in (
                    lambda: os.ftruncate(memory, 0),
                    lambda: os.ftruncate(memory, 1 << 30),
                    lambda: fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
                ):
                    try:
                        what()
                    except OSError:
                        refused += 1
                assert refused == 3, "a port's memory could be cut or sealed"
            finally:
                close_all(answer.fds)

    def direct(self) -> None:
        """The table of addresses, and pairs with whoever there is."""
        with Program(self.path, ANSWER_S) as program:
            self.register(program)
            for _ in range(self.choose.randrange(1, 20)):
                type = self.choose.choice((wire.FDB, wire.PEER, wire.NEWS))
                answer = self.call(program, type, index=self.choose.randrange(16))
                if type == wire.FDB and answer.fds:
                    self.check_view(answer.fds[0])
                close_all(answer.fds)

    def check_view(self, fd: int) -> None:
        fds = [os.dup(fd)]
        with contextlib.suppress(OSError):
            fds.append(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        for one in fds:
            with contextlib.suppress(OSError):
                mmap.mmap(one, 4096).close()
                raise AssertionError("the table of addresses could be mapped to be written")
        close_all(fds)

    def intrude(self) -> None:
        """Where it may not be."""
        with Program(self.path, ANSWER_S) as program:
            switch = self.choose.choice(COUPLES)
            name = f"{switch}:{self.choose.choice(('one', 'two', 'three', 'one{1'))}"
            type = self.choose.choice((wire.REGISTER, wire.INFO, wire.HDR_SET, wire.LIST))
            region = os.memfd_create("hostile")
            fds = [region] if type == wire.REGISTER else []
            flags = self.choose.choice((0, wire.MONITOR_RX, wire.MONITOR_TX))
            answer = self.call(program, type, name, mode=ALL, flags=flags, fds=fds)
            os.close(region)
            assert answer.error, f"{name} was open to it"


# --- all of them ---------------------------------------------------------------------------------


def start(work: Callable[[], None], uid: int) -> int:
    """A process of that user's."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            work()
            status = 0
        except BaseException as error:
            sys.stderr.write(f"user {uid}: {type(error).__name__}: {error}\n")
        finally:
            os._exit(status)
    return pid


@dataclass(slots=True)
class Siege:
    """``runs`` in all; what was seen."""

    runs: int
    seed: int
    frames: int = 0
    ping_s: float = 0.0

    def run(self, path: FastPath) -> None:
        path.wait_standby()
        with path.client() as client:
            couples = [bridge(name, ageing_s=0) for name in COUPLES]
            ours = WireClients("direct", USERS, ())
            client.apply([bridge("vale0", ageing_s=0, clients=ours), *couples])
        with Program(path.run / "netmap.sock", ANSWER_S) as first:
            first.register("vale0:a")  # a switch in direct mode keeps a table from then on
        time.sleep(1)  # the keeper has what it is to keep
        before = descriptors(path)
        self._under_siege(path)
        Kills.nothing_left(path, before)

    def _under_siege(self, path: FastPath) -> None:
        keys = tuple(os.urandom(KEY_BYTES) for _ in COUPLES)
        beat = mmap.mmap(-1, 4096)
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.setblocking(False)
        two.setblocking(False)
        netmap = path.run / "netmap.sock"
        choose = random.Random(self.seed)
        honest, hostile = [], []
        try:
            for i, (switch, key) in enumerate(zip(COUPLES, keys, strict=True)):
                honest.append(
                    start(lambda s=switch, k=key, i=i: exchange(netmap, s, k, beat, 8 * i), 0)  # type: ignore[misc]
                )
            for number, uid in enumerate(USERS):
                one_of = Hostile(
                    netmap, random.Random(choose.random()), keys, one if number % 2 else two
                )
                runs = self.runs // len(USERS)
                hostile.append(start(lambda h=one_of, n=runs: [h.run() for _ in range(n)], uid))  # type: ignore[misc]
            self._watch(path, beat, honest, hostile)
        finally:
            for pid in honest + hostile:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            one.close()
            two.close()

    def _watch(
        self, path: FastPath, beat: mmap.mmap, honest: list[int], hostile: list[int]
    ) -> None:
        """Until the last hostile program has done its runs."""
        forwarder = path.pid("forwarder")
        last, since = [0] * len(honest), [time.monotonic()] * len(honest)
        while hostile:
            for pid in (*honest, *hostile):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    (honest if pid in honest else hostile).remove(pid)
                    assert os.waitstatus_to_exitcode(status) == 0, "see what it said"
            for i in range(len(last)):
                now = int.from_bytes(beat[8 * i : 8 * i + 8], "little")
                if now != last[i]:
                    last[i], since[i] = now, time.monotonic()
                assert time.monotonic() - since[i] < STALL_S, f"couple {i} exchanges nothing"
            with path.client() as client:
                self.ping_s = max(self.ping_s, client.ping())
            assert path.pid("forwarder") == forwarder, "the forwarder died"
            time.sleep(0.05)
        self.frames = sum(last)
        assert all(last), "a couple never exchanged a frame"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args()
    siege = Siege(args.runs, args.seed)
    with tempfile.TemporaryDirectory(prefix="vswitch-hostile-") as home:
        os.chmod(home, 0o755)  # for the forwarder's user and the programs'
        with FastPath(Path(home)) as path:
            siege.run(path)
    sys.stdout.write(f"{siege}: all held, nothing left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
