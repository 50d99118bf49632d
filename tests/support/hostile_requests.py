"""Hostile programs at netmap.sock, one thing at a time, without a forwarder's process:

    python -m tests.support.hostile_requests --runs 1000000 --seed 1

A run is one thing that a program of one of four users does (open, close, half a close, a request
that is right, nearly right or noise, files of every sort along with it, reading or not), or that
happens meanwhile (time passes, the keeper answers or is away, the configuration changes, somebody
is evicted), and a round of the forwarder's loop. After each run: nothing was logged as a mistake,
quotas hold, tables are bounded, and no answer brought one user what is another's. Every EPISODE
runs all hang up, and nothing is left: no session, port, pair, region or descriptor, here and at the
keeper. The seed and the number of the run are in whatever goes wrong.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import errno
import os
import random
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from fastpath import native_clients as wire
from fastpath.channel import close_all
from fastpath.client_ports import a_client_port
from fastpath.client_quotas import MONITORS_MIN
from fastpath.protocol import WireBridge, WireClients
from fastpath.regions import PAIR_FDS_MAX, make_region
from tests.support.fastpath import bridge, port
from tests.support.netmap_program import ALL, ANSWER, ONE, REQUEST
from tests.support.request_world import SERVICE_UID, World
from tests.support.topology import wait_until

EPISODE = 500
LIMITS = {
    "netmap_connections_max": 20,
    "netmap_connections_user_max": 8,
    "netmap_ports_user_max": 3,
    "netmap_requests_s": 200,
    "netmap_opens_s": 50,
    "ports_max": 12,
    "bridges_max": 5,
}
FRIEND, OTHER, STRANGER = 1001, 1002, 1003  # the first two may use some switches
USERS = (SERVICE_UID, FRIEND, OTHER, STRANGER)
NAMES = (
    *("vale0:a", "vale0:b", "vale0:c", "vale0:p1", "vale1:a", "vale1:b", "vale2:a", "vale0:m"),
    *("vale0:a{1", "vale0:a}1", "x{1", "x}1", "vale2:q{7", "vale2:q}7"),
)
NO_NAMES = (
    *("", "vale0", "vale0:", "vale:x", "eth0", "{", "}", "vale0:a{", "vale0:" + "a" * 16, "\xff"),
)
WORDS = (0, 1, 2, 10, 12, 255, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)
FLAGS = (wire.MONITOR_RX, wire.MONITOR_TX, wire.EXCLUSIVE, wire.RX_ONLY, wire.TX_ONLY)
KINDS = (*[wire.REGISTER] * 6, *[wire.DESCRIBE, wire.PEER, wire.NEWS, wire.FDB] * 2, *range(1, 12))


def vale(name: str, mode: str, *uids: int) -> WireBridge:
    return bridge(name, ageing_s=0, clients=WireClients(mode, uids, ()))


BRIDGES = (
    (vale("vale0", "direct", FRIEND, OTHER), vale("vale1", "relay", FRIEND)),
    (vale("vale0", "relay", FRIEND, OTHER), vale("vale1", "direct", FRIEND)),
    (vale("vale0", "direct", FRIEND), vale("vale1", "relay", FRIEND, OTHER)),
)
DECLARED = a_client_port("user", "vale0", 2, 2)
DECLARED.options["name"] = "vale0:p1"


@dataclass(slots=True, eq=False)
class Program:
    """Its end of a connection, and the request that it sent last."""

    uid: int
    sock: socket.socket
    last: bytes = b""


@dataclass
class Hostiles:
    """``brought``: inodes of the memories that each user sent; ``given``: of the memories of ports
    that it got."""

    world: World
    choose: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    programs: list[Program] = field(default_factory=list)
    brought: dict[int, int] = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)

    # --- what programs do -----------------------------------------------------------------------

    def open(self) -> None:
        uid = self.choose.choice(USERS)
        if len(self.programs) < 2 * LIMITS["netmap_connections_max"]:
            self.programs.append(Program(uid, self.world.connect(uid, uid)))

    def close(self) -> None:
        if self.programs:
            self.programs.pop(self.choose.randrange(len(self.programs))).sock.close()

    def shut(self) -> None:
        if self.programs:
            how = self.choose.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR))
            with contextlib.suppress(OSError):
                self.choose.choice(self.programs).sock.shutdown(how)

    def ask(self) -> None:
        if not self.programs:
            return self.open()
        program = self.choose.choice(self.programs)
        how = self.choose.random()
        if how < 0.88 or not program.last:
            packet = self.request()
        elif how < 0.995:
            packet = self.mutated(program.last)
        else:
            packet = self.choose.randbytes(self.choose.choice((0, 1, 199, 200, 201, 4096)))
        program.last = packet if len(packet) == wire.REQUEST_BYTES else program.last
        fds = self.files(program, packet)
        try:
            self.send(program, packet, fds)
        finally:
            close_all(fds)
        return None

    def read(self) -> None:
        """Everything that there is, of one of them or of all."""
        if self.programs:
            few = self.choose.random() < 0.2
            for program in [self.choose.choice(self.programs)] if few else self.programs:
                while self.answer(program):
                    pass

    # --- requests -------------------------------------------------------------------------------

    def word(self, *likely: int) -> int:
        if self.choose.random() < 0.96:
            return self.choose.choice(likely)
        return self.choose.choice((*WORDS, self.choose.randrange(1 << 32)))

    def request(self) -> bytes:
        choose = self.choose
        flags = 0
        if choose.random() < 0.15:
            flags = choose.choice((*FLAGS, choose.getrandbits(18), choose.getrandbits(64)))
        return REQUEST.pack(
            choose.randrange(1, 5),
            1 if choose.random() < 0.995 else choose.randrange(1 << 16),
            choose.choice(KINDS) if choose.random() < 0.99 else choose.randrange(1 << 16),
            choose.choice(NAMES if choose.random() < 0.9 else NO_NAMES).encode("latin-1"),
            b"hostile",
            self.word(ALL, ALL, ONE),
            self.word(0, 0, 1),
            flags,
            *(self.word(0, 1, 1, 2) for _ in range(2)),
            *(self.word(0, 64) for _ in range(2)),
            self.word(0, 0, 0, 1, 2, 3),
            self.word(0, 10, 12),
            self.word(0, 1, 2, 3),
            self.word(0, 1),
        )

    def mutated(self, packet: bytes) -> bytes:
        changed = bytearray(packet)
        for _ in range(self.choose.randrange(1, 6)):
            changed[self.choose.randrange(len(changed))] = self.choose.choice(
                (0, 1, 255, self.choose.randrange(256))
            )
        return bytes(changed)

    def files(self, program: Program, packet: bytes) -> list[int]:
        """Copies, to be closed. A registration mostly brings a memory; anything brings anything."""
        registers = packet[6:8] == wire.REGISTER.to_bytes(2, "little")
        if self.choose.random() < 0.97:
            return [self.memory(program.uid)] if registers else []
        count = self.choose.choice((1, 2, 3, wire.FDS_MAX, wire.FDS_MAX + 4))
        return [self.file(program) for _ in range(count)]

    def memory(self, uid: int) -> int:
        kind = self.choose.randrange(3)
        if kind == 0:
            fd = make_region("sealed", self.choose.choice((0, 4096, 1 << 20)))
        else:
            fd = os.memfd_create("hostile", os.MFD_ALLOW_SEALING * (kind == 1))
        self.brought[os.fstat(fd).st_ino] = uid
        return fd

    def file(self, program: Program) -> int:
        """A memory, what is none, the connection itself, another one, one whose peer is gone."""
        kind = self.choose.randrange(7)
        if kind == 0:
            return os.dup(program.sock.fileno())
        if kind == 1:
            return os.dup(self.choose.choice(self.programs).sock.fileno())
        if kind == 2:
            gone, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            gone.close()
            return mine.detach()
        if kind == 3:
            return os.open("/dev/null", os.O_RDWR)
        if kind == 4:
            return os.eventfd(0)
        return self.memory(program.uid)

    def send(self, program: Program, packet: bytes, fds: list[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            program.sock.sendmsg([packet], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            self.counts[f"send {errno.errorcode.get(error.errno or 0)}"] += 1
        else:
            self.counts["requests"] += 1

    # --- answers --------------------------------------------------------------------------------

    def answer(self, program: Program) -> bool:
        try:
            packet, fds, _, _ = socket.recv_fds(program.sock, ANSWER.size + 1, wire.FDS_MAX)
        except OSError:
            return False
        try:
            if packet:
                self.check_answer(program, packet, fds)
            else:
                program.sock.close()
                self.programs.remove(program)
        finally:
            close_all(fds)
        return bool(packet)

    def check_answer(self, program: Program, packet: bytes, fds: list[int]) -> None:
        assert len(packet) == ANSWER.size
        values = ANSWER.unpack(packet)
        error, name, index = values[1], values[4].partition(b"\0")[0].decode(), values[15]
        assert error in errno.errorcode or not error
        self.counts[errno.errorcode[error] if error else "answers"] += 1
        if error:
            assert not fds, f"{errno.errorcode[error]} brings {len(fds)} files"
            return
        self.check_name(program, name)
        inodes = [os.fstat(fd).st_ino for fd in fds]
        for inode in inodes:
            owner = self.brought.get(inode, program.uid)
            assert owner == program.uid, f"user {program.uid} got a memory of {owner}'s"
        for inode in inodes:
            self.check_port_memory(program, inode, index)

    def check_name(self, program: Program, name: str) -> None:
        """Of a switch that it may know of, as far as that is configured."""
        at = self.world.applier.wanted.bridges.get(name.partition(":")[0])
        if name and at is not None and program.uid != SERVICE_UID:
            assert any(
                program.uid in both.clients.uids
                for pair in BRIDGES
                for both in pair
                if both.name == at.name
            ), f"user {program.uid} was told of {name}"

    def check_port_memory(self, program: Program, inode: int, index: int) -> None:
        """A port's is one user's for ever; pairs have two."""
        held = {
            os.fstat(held.fds[0]).st_ino
            for held in self.world.applier.held.values()
            if held.fds and held.bundle.type == "client"
        }
        if inode in held:
            owner = self.given.setdefault(inode, program.uid)
            assert owner == program.uid, f"user {program.uid} got the port memory of {owner}"

    # --- what happens meanwhile -----------------------------------------------------------------

    def pass_time(self) -> None:
        self.world.now += self.choose.choice((0.001, 0.02, 0.2, 1.0, 6.0))
        self.world.second()

    def keeper_wavers(self) -> None:
        if self.world.keeper.there:
            self.world.keeper_dies()
        else:
            self.world.keeper_comes()

    def evict(self) -> None:
        ids = [session.id for session in self.world.clients.sessions]
        if ids:
            self.world.clients.evict(self.choose.choice(ids))
        self.world.clients.rows(1, 0, 100)

    def configure(self) -> None:
        """Other users, another mode, a declared port that comes or goes."""
        if "port/user" in self.world.applier.objects and self.choose.random() < 0.3:
            self.world.configure(deletes=["port/user"])
        else:
            self.world.configure([*self.choose.choice(BRIDGES), DECLARED])

    # --- runs -----------------------------------------------------------------------------------

    def run(self) -> None:
        """One, and what has to hold after it."""
        what = self.choose.choices(
            (self.ask, self.read, self.open, self.close, self.shut, self.world.keeper_answers),
            (55, 20, 5, 2, 0.2, 15),
        )[0]
        if self.choose.random() < 0.03:
            what = self.choose.choices(
                (self.pass_time, self.evict, self.configure, self.keeper_wavers), (70, 6, 3, 1)
            )[0]
        what()
        self.world.now += 0.002
        self.world.turn()
        self.check()

    def check(self) -> None:
        world, limits = self.world, self.world.limits
        clients, applier = world.clients, world.applier
        assert not world.complaints.said, world.complaints.said
        users = Counter(c.uid for c in clients.connections.values())
        assert users.total() <= limits["netmap_connections_max"]
        assert max(users.values(), default=0) <= limits["netmap_connections_user_max"]
        ports: dict[int, set[str]] = {}
        for session in clients.sessions:
            ports.setdefault(session.uid, set()).add(session.state.name)
        assert all(len(p) <= limits["netmap_ports_user_max"] for p in ports.values()), ports
        monitors = Counter(s.uid for s in clients.sessions if s.state.kind == "monitor")
        assert max(monitors.values(), default=0) <= MONITORS_MIN
        assert len(clients.sessions) <= len(clients.connections)
        assert len(applier.port_slots) <= limits["ports_max"]
        assert len(applier.bridge_slots) <= limits["bridges_max"]
        assert len(applier.locals.ports) <= 2 * users.total()
        assert len(clients.pairs.regions) <= PAIR_FDS_MAX

    def hang_up(self) -> None:
        """All of them, and nothing is left."""
        for program in self.programs:
            program.sock.close()
        self.programs.clear()
        if not self.world.keeper.there:
            self.keeper_wavers()
        self.world.quiet()
        world, applier = self.world, self.world.applier
        assert not world.complaints.said, world.complaints.said
        assert not len(world.clients.sessions)
        assert not applier.locals.ports
        assert not applier.locals.bridges
        assert applier.port_slots.keys() <= {"user", "m"}, applier.port_slots
        assert not world.clients.pairs.regions
        assert not len(world.keeper.kept)
        assert all(name.startswith("fdb/") for name in world.keeper.regions), world.keeper.regions
        self.brought.clear()
        self.given.clear()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def attack(runs: int, seed: int) -> Counter[str]:
    """AssertionError: something did not hold; its notes say where."""
    with World(LIMITS) as world:
        hostiles = Hostiles(world, random.Random(seed))
        world.configure([*BRIDGES[0], DECLARED, port("m", "memory", "vale0")])
        hostiles.hang_up()
        before = descriptors()
        for number in range(runs):
            try:
                hostiles.run()
                if (number + 1) % EPISODE == 0 or number + 1 == runs:
                    hostiles.hang_up()
                    world.configure([*BRIDGES[0], DECLARED])
                    world.quiet()
                    wait_until(lambda: descriptors() <= before, 5, "nothing is left open")
            except BaseException as error:
                error.add_note(f"run {number} of seed {seed}")
                raise
        return hostiles.counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args()
    start = time.monotonic()
    counts = attack(args.runs, args.seed)
    rate = args.runs / (time.monotonic() - start)
    told = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    sys.stdout.write(f"{args.runs} runs of seed {args.seed} ({rate:.0f}/s): {told}; all held\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
