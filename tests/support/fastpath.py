"""A keeper with its forwarder for a test, and a blocking client of their wire.

with FastPath(home) as path, path.client() as client:
    ack = client.apply([bridge("br0"), port("p1", "memory", bridge="br0")])
    assert client.stats().ledger.in_flight == 0
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastpath import protocol as wire
from tests.support.topology import end_process, wait_until

UID = 64123  # has no passwd entry
GID = 64124
CONTROL_GID = 64125

Reply = TypeVar("Reply")


def bridge(name: str, **changes: Any) -> wire.WireBridge:
    """A bridge with the API's defaults."""
    values: dict[str, Any] = {
        "vlan_filtering": False,
        "learning": True,
        "ageing_s": 300,
        "fdb_entries_max": 8192,
        "flood_unknown_unicast": True,
        "flood_multicast": True,
        "flood_broadcast": True,
        "reserved_forward": False,
        "mtu": 0,
    }
    return wire.WireBridge(name=name, **(values | changes))


def port(
    name: str,
    type: str,
    bridge: str | None = None,
    *,
    options: Mapping[str, str] = {},
    **changes: Any,
) -> wire.WirePort:
    """A port with the API's defaults."""
    values: dict[str, Any] = {
        "admin_up": True,
        "learning": True,
        "flood": True,
        "isolation_group": 0,
        "vlan_mode": "access",
        "pvid": 1,
        "tagged": (),
        "offload_policy": "carry",
        "polling": "adaptive",
        "cpus": (),
    }
    return wire.WirePort(
        name=name, type=type, options=dict(options), bridge=bridge, **(values | changes)
    )


def rule(ruleset: str, id: str, **changes: Any) -> wire.WireRule:
    """A rule that drops every frame."""
    values: dict[str, Any] = {
        "priority": 10,
        "match": (),
        "action": wire.WireAction("drop"),
        "log": False,
        "expires_at": 0,
    }
    return wire.WireRule(ruleset=ruleset, id=id, **(values | changes))


def ruleset(name: str, *bridges: str, default_drop: bool = False) -> wire.WireRuleSet:
    """A set, asked at the ingress of these bridges' ports."""
    attach = tuple(wire.WireAttach(bridge, "", False, 0) for bridge in bridges)
    return wire.WireRuleSet(name, default_drop, attach)


class RefusedError(RuntimeError):
    """The forwarder refused; ``refused`` is what it said."""

    def __init__(self, refused: wire.Refused) -> None:
        super().__init__(f"{refused.code}: {refused.message}")
        self.refused = refused


class Client:
    """One connection. ``objects`` is the configuration it believes to be in force."""

    def __init__(self, path: Path, *, proto: int = wire.VERSION, timeout_s: float = 10) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout_s)
        self._decoder = wire.Decoder(wire.FromForwarder)
        self._inbox: list[wire.Message] = []
        self.events: list[wire.Event] = []
        self.logged: list[wire.RuleLogRow] = []
        self.objects: dict[str, wire.WireObject] = {}
        self.revision = 0
        self._id = 0
        try:
            self.sock.connect(os.fspath(path))
            self.send(wire.Hello(proto, "test"))
            self.welcome = self.receive(wire.Welcome)
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, message: wire.Message) -> None:
        self.sock.sendall(wire.encode(message))

    def receive(self, kind: type[Reply]) -> Reply:
        """The next answer of that kind; what comes by itself is put aside."""
        while True:
            while self._inbox:
                message = self._inbox.pop(0)
                if isinstance(message, kind):
                    return message
                if isinstance(message, wire.Refused):
                    raise RefusedError(message)
                if isinstance(message, wire.Event):
                    self.events.append(message)
                if isinstance(message, wire.RuleLog):
                    self.logged += message.rows
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionError("the forwarder closed the connection")
            self._inbox += self._decoder.feed(data)

    def next_id(self) -> int:
        self._id += 1
        return self._id

    def call(self, request: wire.Message, kind: type[Reply]) -> Reply:
        self.send(request)
        return self.receive(kind)

    def apply(
        self, upserts: Iterable[wire.WireObject] = (), deletes: Iterable[str] = ()
    ) -> wire.Ack:
        """A delta on what this client applied before."""
        after = dict(self.objects)
        for key in deletes:
            del after[key]
        upserts = tuple(upserts)
        after |= {obj.key: obj for obj in upserts}
        base = self.hash_of(self.objects)
        ack = self.call(
            wire.Apply(
                self.next_id(),
                self.revision + 1,
                base,
                self.hash_of(after),
                upserts,
                tuple(deletes),
            ),
            wire.Ack,
        )
        self.objects, self.revision = after, ack.revision
        return ack

    def snapshot(self, objects: Iterable[wire.WireObject]) -> wire.Ack:
        """The whole configuration, whatever was there."""
        after = {obj.key: obj for obj in objects}
        self.send(wire.Begin(self.next_id(), self.revision + 1, self.hash_of(after)))
        for chunk in wire.chunks(after.values()):
            self.send(chunk)
        ack = self.call(wire.Commit(self.next_id()), wire.Ack)
        self.objects, self.revision = after, ack.revision
        return ack

    @staticmethod
    def hash_of(objects: Mapping[str, wire.WireObject]) -> bytes:
        return wire.combine(wire.object_hash(obj) for obj in objects.values())

    def stats(self) -> wire.Stats:
        return self.call(wire.GetStats(self.next_id()), wire.Stats)

    def status(self) -> wire.Status:
        return self.call(wire.GetStatus(self.next_id()), wire.Status)

    def port(self, name: str) -> wire.PortState:
        return next(port for port in self.status().ports if port.name == name)

    def ping(self) -> float:
        """Seconds until the answer."""
        start = time.monotonic()
        self.call(wire.Ping(self.next_id()), wire.Pong)
        return time.monotonic() - start

    def fdb(self, bridge: str) -> list[wire.FdbRow]:
        rows: list[wire.FdbRow] = []
        cursor = 0
        while True:
            answer = self.call(wire.GetFdb(self.next_id(), bridge, cursor, 4096), wire.Fdb)
            rows += answer.rows
            cursor = answer.cursor
            if cursor == 0:
                return rows

    def receive_events(self, kinds: Iterable[str]) -> None:
        """Ask until an event of each kind has come."""
        missing = set(kinds)

        def seen() -> bool:
            self.ping()
            return missing <= {event.kind for event in self.events}

        wait_until(seen, 5, f"events {missing}")

    def wait_ready(self, *names: str, timeout_s: float = 10) -> None:
        """Until these ports are in force."""

        def ready() -> bool:
            states = {port.name: port for port in self.status().ports}
            return all(name in states and states[name].outcome.ok for name in names)

        wait_until(ready, timeout_s, f"{names} in force")

    def check_ledger(self) -> wire.Ledger:
        """The books balance as soon as the workers are quiet."""
        wait_until(lambda: self.stats().ledger.in_flight == 0, 5, "the ledger balances")
        return self.stats().ledger


class FastPath:
    """``python -m fastpath keeper`` with directories under ``home``; a context manager."""

    def __init__(
        self,
        home: Path,
        *,
        netns: str | None = None,
        arguments: Iterable[str] = (),
        uid: int = UID,
        prefix: Iterable[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.home = home
        self.run = home / "run"
        self.data = home / "data"
        self._netns = netns
        self._arguments = tuple(arguments)
        self._uid = uid
        self._prefix = tuple(prefix)
        self._python = python
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        enter = ["ip", "netns", "exec", self._netns] if self._netns else []
        return [
            *enter,
            *self._prefix,
            *(self._python, "-m", "fastpath", "keeper"),
            *("--run-dir", str(self.run), "--data-dir", str(self.data)),
            *("--forwarder-uid", str(self._uid), "--forwarder-gid", str(GID)),
            *("--control-gid", str(CONTROL_GID)),
            *self._arguments,
        ]

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start a keeper and wait until a forwarder serves."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        try:
            wait_until(self._serving, 20, "a forwarder serves")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log[-2000:]}") from None

    def _serving(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(
                f"the keeper ended with {self.process.returncode}\n{self.log[-2000:]}"
            )
        if self.pid("keeper") != self.process.pid or self.pid("forwarder") is None:
            return False
        try:
            with self.client() as client:
                return client.status().keeper_connected
        except OSError:
            return False

    def __enter__(self) -> FastPath:
        self.data.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """As an operator would; a forwarder without a keeper is killed."""
        if self.process is not None:
            end_process(self.process)
            self.process = None
        pid = self.pid("forwarder")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def client(self) -> Client:
        return Client(self.run / "forwarder.sock")

    def pid(self, name: str) -> int | None:
        """Process id of the keeper or the active forwarder; None when it does not live."""
        try:
            pid = int((self.run / f"{name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if b"fastpath" in command else None

    def children(self) -> dict[int, str]:
        """Every forwarder process of this keeper: pid -> its state in /proc."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {
            int(pid): Path(f"/proc/{pid}/status").read_text() for pid in path.read_text().split()
        }

    def standby(self) -> int | None:
        """Pid of the standby, once it waits in its sandbox."""
        active = self.pid("forwarder")
        for pid, status in self.children().items():
            if pid != active and "Seccomp:\t2" in status:
                return pid
        return None

    def wait_standby(self) -> int:
        wait_until(lambda: self.standby() is not None, 20, "a standby waits")
        pid = self.standby()
        assert pid is not None
        return pid

    def kill_forwarder(self) -> int:
        """SIGKILL; returns the pid it had."""
        pid = self.pid("forwarder")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_keeper(self) -> None:
        """SIGKILL; the forwarder goes on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def wait_replaced(self, old: int, timeout_s: float = 10) -> int:
        """Until another forwarder has taken the place of ``old``."""
        wait_until(
            lambda: self.pid("forwarder") not in (None, old), timeout_s, "a forwarder took over"
        )
        pid = self.pid("forwarder")
        assert pid is not None
        return pid
