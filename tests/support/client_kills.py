"""Programs on a switch, killed at random points, and the forwarder meanwhile.

    python -m tests.support.client_kills --programs 1000 --forwarders 100

Each program is a process that opens ports, sends to the others, receives, monitors, closes, for
ever. At the end nothing is left of them: no session, port or descriptor in keeper and forwarder, no
frame that is not accounted for; and no request was ever unanswered for long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fastpath import native_clients as wire
from fastpath import protocol
from tests.support.fastpath import FastPath
from tests.support.netmap_program import ALL, Program
from tests.support.topology import wait_until

PORTS = 6
ALIVE = 4
ANSWER_S = 10.0


def frame(dst: int, src: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xB5]) + bytes(46)


def one_life(path: Path, choose: random.Random) -> None:
    """Open a port, move frames, close."""
    number = choose.randrange(PORTS)
    flags = choose.choice((0, 0, 0, wire.MONITOR_TX, wire.MONITOR_RX, wire.EXCLUSIVE))
    with Program(path, ANSWER_S) as program:
        if program.register(f"vale0:p{number}", mode=ALL, flags=flags).error:
            return
        for _ in range(choose.randrange(200)):
            program.send(frame(choose.randrange(PORTS), number))
            while program.receive() is not None:
                pass


def live(path: Path, seed: int) -> None:
    """A program's process: until it is killed."""
    choose = random.Random(seed)
    while True:
        with contextlib.suppress(ConnectionError, FileNotFoundError):
            one_life(path, choose)


def start(path: Path, seed: int) -> int:
    """Forked, for a new interpreter takes longer than the life of most."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            live(path, seed)
        finally:
            os._exit(status)  # TimeoutError: an answer did not come
    return pid


def end(pid: int) -> int:
    """Exit status of a program that was killed, 0: it lived until then."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0


def descriptors(path: FastPath) -> tuple[int, int]:
    """Of keeper and forwarder."""
    pids = (path.pid("keeper"), path.pid("forwarder"))
    keeper, forwarder = (len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return keeper, forwarder


@dataclass(slots=True)
class Kills:
    """How often, and what was seen."""

    programs: int
    forwarders: int
    keepers: int = 0
    seed: int = 0
    ping_s: float = 0.0

    def run(self, path: FastPath) -> None:
        """AssertionError: something was left, or stalled."""
        choose = random.Random(self.seed)
        path.wait_standby()
        before = descriptors(path)
        alive: list[int] = []
        failed = 0
        try:
            for step in range(self.programs):
                while len(alive) < ALIVE:
                    alive.append(start(path.run / "netmap.sock", choose.randrange(1 << 32)))
                time.sleep(choose.random() * 0.06)
                failed += end(alive.pop(choose.randrange(len(alive))))
                if self._due(step, self.forwarders):
                    path.wait_standby()
                    path.wait_replaced(path.kill_forwarder())
                if self._due(step, self.keepers):
                    path.kill_keeper()
                    path.start()
                if step % 20 == 0:
                    with path.client() as client:
                        self.ping_s = max(self.ping_s, client.ping())
        finally:
            failed += sum([end(pid) for pid in alive])
        assert not failed, f"{failed} programs got no answer"
        self.nothing_left(path, before)

    def _due(self, step: int, times: int) -> bool:
        return times > 0 and (step + 1) * times // self.programs != step * times // self.programs

    @staticmethod
    def nothing_left(path: FastPath, before: tuple[int, int]) -> None:
        def empty() -> bool:
            with path.client() as client:
                asked = protocol.GetClients(client.next_id(), 0, 100)
                sessions = client.call(asked, protocol.ClientRows).rows
                return not sessions and not client.stats().ports

        wait_until(empty, 20, "sessions and their ports end")
        path.wait_standby()
        with path.client() as client:
            client.check_ledger()
        wait_until(
            lambda: all(n <= m for n, m in zip(descriptors(path), before, strict=True)),
            10,
            f"no descriptors are left: {descriptors(path)}, before {before}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--forwarders", type=int, default=100)
    parser.add_argument("--keepers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args = parser.parse_args()
    kills = Kills(args.programs, args.forwarders, args.keepers, args.seed)
    with tempfile.TemporaryDirectory(prefix="vswitch-kills-") as home:
        os.chmod(home, 0o755)  # for the forwarder's user
        with FastPath(Path(home)) as path:
            kills.run(path)
    sys.stdout.write(f"{kills}: nothing left\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
