"""A forwarder that forwards nothing: speaks protocol.py on a Unix socket, for control plane tests.

It keeps what it was given, answers as the real one does, and does what a test tells it to:
refuse objects, answer late, forget everything, go away. `applies` and `snapshots` record what
came, so that a test sees how much was sent.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec

from fastpath import protocol
from fastpath.protocol import (
    Ack,
    Analyse,
    Analysed,
    Apply,
    Begin,
    BridgeState,
    Chunk,
    ClientRow,
    ClientRows,
    Commit,
    Connection,
    ConnectionQuery,
    Connections,
    Decoder,
    Event,
    EvictClient,
    Evicted,
    Fdb,
    FdbRow,
    Finding,
    FlushConnections,
    Flushed,
    FlushFdb,
    GetClients,
    GetConnections,
    GetFdb,
    GetRuleCounters,
    GetStats,
    GetStatus,
    Hello,
    Ledger,
    Message,
    Outcome,
    Ping,
    PolicerState,
    Pong,
    PortState,
    PortStats,
    QueueStats,
    Refused,
    RuleCounters,
    RuleHits,
    RuleSetState,
    Stats,
    Status,
    ToForwarder,
    Trace,
    Traced,
    Welcome,
    WireBridge,
    WireObject,
    WirePolicer,
    WirePort,
    WireRule,
    WireRuleSet,
    WireStatic,
)
from vswitch.kinds.backends import TYPES

CONNECTIONS_MAX = 65536


def _fits(row: Connection, query: ConnectionQuery) -> bool:
    return (
        query.bridge in ("", row.bridge)
        and query.port in ("", row.port)
        and query.address in ("", row.src, row.dst)
        and query.proto in (0, row.proto)
        and query.state in ("", row.state)
    )


class FakeForwarder:
    """Listens from construction on; `close` or `with` ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects: dict[str, WireObject] = {}
        self.revision = 0
        self.outcomes: dict[str, Outcome] = {}
        self.states: dict[str, dict[str, Any]] = {}  # of a port: what differs from the usual
        """By key of the wire: what the forwarder says instead of accepting the object."""
        self.rows: list[FdbRow] = []
        self.connections: list[Connection] = []
        self.clients: list[ClientRow] = []
        self.applies: list[Apply] = []
        self.rules_only: list[bool] = []  # of each question for the status
        self.traced: list[Trace] = []
        self.findings: dict[int, tuple[tuple[Finding, ...], int]] = {}
        """By cursor: a portion of an analysis, and the next cursor."""
        self.snapshots: list[dict[str, WireObject]] = []
        self.answering = threading.Event()
        """Cleared: requests are taken but not answered."""
        self.answering.set()
        self.proto = protocol.VERSION
        self.port_types = {
            **dict.fromkeys((*TYPES, "client"), ""),
            "netmap": "/dev/netmap is missing",
        }
        self._lock = threading.Lock()
        self._clients: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.listen()

    def __enter__(self) -> FakeForwarder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hash(self) -> bytes:
        return protocol.combine(protocol.object_hash(obj) for obj in self.objects.values())

    # --- life -----------------------------------------------------------------------------------

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """As when the process is killed: connections break, what it had stays in `objects`."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.path.unlink(missing_ok=True)
        self.answering.set()
        self.disconnect()

    def disconnect(self) -> None:
        with self._lock:
            clients, self._clients = self._clients, []
        for client in clients:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def forget(self) -> None:
        """As when it was started anew, without any state."""
        self.objects, self.revision = {}, 0

    def tell(self, object: str) -> None:
        """Send an event to everybody."""
        self.send(Event(1, "status", object, ""))

    def send(self, message: Message) -> None:
        """To everybody, unasked."""
        with self._lock:
            for client in self._clients:
                client.sendall(protocol.encode(message))

    # --- connections ----------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        decoder = Decoder(ToForwarder)
        snapshot: tuple[Begin, dict[str, WireObject]] | None = None
        with client:
            while True:
                try:
                    data = client.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                for message in decoder.feed(data):
                    if isinstance(message, Begin):
                        snapshot = (message, {})
                        continue
                    if isinstance(message, Chunk):
                        assert snapshot is not None
                        snapshot[1].update({obj.key: obj for obj in message.objects})
                        continue
                    if isinstance(message, Commit):
                        assert snapshot is not None
                        answer = self._commit(message, *snapshot)
                    else:
                        answer = self._answer(message)
                    self.answering.wait()
                    try:
                        with self._lock:
                            client.sendall(protocol.encode(answer))
                    except OSError:
                        return

    def _commit(self, commit: Commit, begin: Begin, objects: dict[str, WireObject]) -> Message:
        self.objects, self.revision = dict(objects), begin.revision
        self.snapshots.append(dict(objects))
        if self.hash != begin.hash:
            return Refused(commit.id, "HASH_INVALID", "the objects do not give the hash")
        return self._ack(commit.id)

    def _ack(self, id: int) -> Ack:
        failures = {key: o for key, o in self.outcomes.items() if key in self.objects}
        return Ack(id, self.revision, self.hash, failures)

    def _answer(self, message: Message) -> Message:
        match message:
            case Hello():
                return Welcome(
                    proto=self.proto,
                    build="fake",
                    epoch=f"fake-{id(self)}",
                    pid=os.getpid(),
                    applied_revision=self.revision,
                    config_hash=self.hash,
                    port_types=dict(self.port_types),
                    limits={"ports_max": 256},
                )
            case Apply():
                return self._apply(message)
            case GetStatus(number, rules_only):
                self.rules_only.append(rules_only)
                status = self._status(number)
                if rules_only:
                    status = msgspec.structs.replace(status, ports=(), bridges=(), statics={})
                return status
            case GetStats(number):
                return self._stats(number)
            case GetFdb(number, bridge, cursor, limit):
                if f"bridge/{bridge}" not in self.objects:
                    return Refused(number, "NOT_FOUND", f"{bridge} is not in force")
                page = self.rows[cursor : cursor + limit]
                after = cursor + len(page)
                return Fdb(number, tuple(page), after if after < len(self.rows) else 0)
            case GetRuleCounters():
                return self._rule_counters(message)
            case FlushFdb(number):
                count, self.rows = len(self.rows), []
                return Flushed(number, count)
            case GetConnections(number, query, cursor, limit):
                found = [row for row in self.connections if _fits(row, query)]
                part, after = tuple(found[cursor : cursor + limit]), cursor + limit
                end = after >= len(found) or not limit
                total = len(self.connections)
                return Connections(number, part, 0 if end else after, total, CONNECTIONS_MAX)
            case FlushConnections(number, query):
                left = [row for row in self.connections if not _fits(row, query)]
                gone, self.connections = len(self.connections) - len(left), left
                return Flushed(number, gone)
            case GetClients(number, cursor, limit):
                above = sorted(
                    (row for row in self.clients if row.id > cursor), key=lambda row: row.id
                )
                part = tuple(above[:limit])
                return ClientRows(number, part, part[-1].id if len(above) > limit else 0)
            case EvictClient(number, client):
                left = [row for row in self.clients if row.id != client]
                if len(left) == len(self.clients):
                    return Refused(number, "NOT_FOUND", f"there is no client {client}")
                self.clients = left
                return Evicted(number)
            case Analyse(number, ruleset, cursor):
                if f"ruleset/{ruleset}" not in self.objects:
                    return Refused(number, "NOT_FOUND", f"{ruleset} is not in force")
                portion, after = self.findings.get(cursor, ((), 0))
                return Analysed(number, portion, after, skipped=1)
            case Trace(number, in_port):
                if f"port/{in_port}" not in self.objects:
                    return Refused(number, "NOT_FOUND", f"{in_port} is not in force")
                self.traced.append(message)
                return Traced(number, 1, "drop", "no_destination", (), {"in_port": in_port}, ())
            case Ping(number):
                return Pong(number)
        raise AssertionError(message)

    def _apply(self, apply: Apply) -> Message:
        if apply.base_hash != self.hash:
            return Refused(apply.id, "HASH_MISMATCH", "another configuration is in force")
        self.applies.append(apply)
        for key in apply.deletes:
            del self.objects[key]
        self.objects |= {obj.key: obj for obj in apply.upserts}
        self.revision = apply.revision
        if self.hash != apply.hash:
            return Refused(apply.id, "HASH_INVALID", "the delta does not give the hash")
        return self._ack(apply.id)

    def _status(self, number: int) -> Status:
        ports = tuple(
            msgspec.structs.replace(
                PortState(
                    name=obj.name,
                    outcome=self.outcomes.get(obj.key, Outcome()),
                    link_up=True,
                    lost=False,
                    mtu=1500,
                    ifindex=7,
                    mac="02:00:00:00:00:07",
                    caps=("csum",),
                    detail=f"fake {obj.type}",
                    device="",
                    rx_queues=1,
                    tx_queues=1,
                    offloads_ok=True,
                    offloads_message="",
                ),
                **self.states.get(obj.name, {}),
            )
            for obj in self.objects.values()
            if isinstance(obj, WirePort)
        )
        bridges = tuple(
            BridgeState(obj.name, self.outcomes.get(obj.key, Outcome()), len(self.rows))
            for obj in self.objects.values()
            if isinstance(obj, WireBridge)
        )
        statics = {key: self.outcomes[key] for key in self.statics() if key in self.outcomes}
        return Status(
            number,
            self.revision,
            self.hash,
            1,
            True,
            0,
            ports,
            bridges,
            statics,
            rulesets=tuple(
                self._ruleset(obj) for obj in self.objects.values() if isinstance(obj, WireRuleSet)
            ),
            policers=tuple(
                PolicerState(obj.name, self.outcomes.get(obj.key, Outcome()), 10, 3)
                for obj in self.objects.values()
                if isinstance(obj, WirePolicer)
            ),
        )

    def rules(self, ruleset: str) -> list[WireRule]:
        """In their order."""
        found = [
            obj
            for obj in list(self.objects.values())
            if isinstance(obj, WireRule) and obj.ruleset == ruleset
        ]
        return sorted(found, key=lambda rule: (rule.priority, rule.id))

    def _ruleset(self, obj: WireRuleSet) -> RuleSetState:
        rules = self.rules(obj.name)
        failed = {rule.id: self.outcomes[rule.key] for rule in rules if rule.key in self.outcomes}
        count = len(rules) - len(failed)
        outcome = self.outcomes.get(obj.key, Outcome())
        return RuleSetState(obj.name, outcome, count, 2 * count, 1, 100 * count, failed)

    def _rule_counters(self, asked: GetRuleCounters) -> Message:
        if f"ruleset/{asked.ruleset}" not in self.objects:
            return Refused(asked.id, "NOT_FOUND", f"{asked.ruleset} is not in force")
        rules = self.rules(asked.ruleset)
        page = rules[asked.cursor : asked.cursor + asked.limit]
        after = asked.cursor + len(page)
        rows = tuple(
            RuleHits(rule.id, number, 100 * number, 1_900_000_000 if number else 0)
            for number, rule in enumerate(page, asked.cursor)
        )
        return RuleCounters(asked.id, rows, after if after < len(rules) else 0)

    def _stats(self, number: int) -> Stats:
        queue = QueueStats(0, "w0", -1, 9, 900, 6, 600, {"queue_full": 2}, 3, 1, 1000)
        ports = tuple(
            PortStats(
                name=obj.name,
                rx_frames=9,
                rx_bytes=900,
                tx_frames=6,
                tx_bytes=600,
                rx_drops={"malformed": 1},
                tx_drops={"queue_full": 2},
                copies=0,
                segments=0,
                originated=0,
                consumed=0,
                kernel_drops=0,
                learned=1,
                moved=0,
                queues=(queue,),
            )
            for obj in self.objects.values()
            if isinstance(obj, WirePort)
        )
        count = len(ports)
        return Stats(number, ports, Ledger(9 * count, 0, 0, 0, 6 * count, 3 * count, 0, 0))

    def statics(self) -> dict[str, WireStatic]:
        return {key: obj for key, obj in self.objects.items() if isinstance(obj, WireStatic)}
