"""The reconcile loop: one thread that makes the forwarder's configuration equal to ours.

Level-triggered: it compares hashes and sends the difference; no step matters by itself. After a
commit it sends a delta whose size follows the change; when the forwarder has anything else than
what we last knew (it restarted, or the process died between commit and push), a snapshot. About
once a second, and on every event, it asks for status: that is the heartbeat too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from fastpath import protocol
from fastpath.protocol import (
    Ack,
    Analysed,
    ClientRow,
    ClientRows,
    ConnectionQuery,
    Connections,
    Event,
    Evicted,
    Fdb,
    Flushed,
    RuleCounters,
    RuleLog,
    Stats,
    Status,
    Traced,
    WireObject,
)
from vswitch.kinds import Configuration, Key
from vswitch.reconcile.client import Client, ClientError, RefusedError
from vswitch.reconcile.compile import affected, compile_all, compile_one
from vswitch.view import ForwarderError, View

log = logging.getLogger(__name__)

POLL_S = 1.0
RULE_KINDS = frozenset({"group", "policer", "ruleset", "rule"})
PENDING_POLL_S = 0.1
REQUEST_S = 2.0
RECONNECT_S = 1.0
APPLY_S = 30.0
CLIENTS_A_PAGE = 1000
DELTA_OBJECTS_MAX = 2000
"""More would hardly fit into one message: they go as a snapshot, in messages of bounded size."""
BACKOFF_FIRST_S = 0.02
BACKOFF_LAST_S = 1.0

T = TypeVar("T")


@dataclass(slots=True)
class Mirror:
    """What the forwarder has: for each object its key on the wire and its hash."""

    configuration: Configuration
    items: dict[Key, tuple[str, bytes]]
    hash: bytes

    def take(self, delta: Delta, configuration: Configuration) -> None:
        for key, item in delta.items.items():
            if item is None:
                self.items.pop(key, None)
            else:
                self.items[key] = item
        self.hash, self.configuration = delta.hash, configuration


@dataclass(frozen=True, slots=True)
class Delta:
    """``compiled``: the upserts, by what they were made of."""

    upserts: tuple[WireObject, ...]
    compiled: Mapping[Key, WireObject]
    deletes: tuple[str, ...]
    items: Mapping[Key, tuple[str, bytes] | None]
    hash: bytes


_ORDER = {
    kind: place
    for place, kind in enumerate(
        ("bridge", "port", "static", "group", "policer", "ruleset", "rule")
    )
}


def full(configuration: Configuration) -> tuple[Mirror, list[WireObject]]:
    objects: list[WireObject] = []
    items: dict[Key, tuple[str, bytes]] = {}
    for key, obj in compile_all(configuration):
        objects.append(obj)
        items[key] = (obj.key, protocol.object_hash(obj))
    total = protocol.combine(digest for _, digest in items.values())
    return Mirror(configuration, items, total), objects


def difference(mirror: Mirror, after: Configuration, touched: frozenset[Key]) -> Delta:
    """What must be sent so that a forwarder that has `mirror` has `after`."""
    compiled: dict[Key, WireObject] = {}
    deletes: list[str] = []
    gone: list[bytes] = []
    come: list[bytes] = []
    items: dict[Key, tuple[str, bytes] | None] = {}
    for key in affected(mirror.configuration, after, touched):
        old = mirror.items.get(key)
        obj = compile_one(after, key)
        new = None if obj is None else (obj.key, protocol.object_hash(obj))
        if old == new:
            continue
        items[key] = new
        if old is not None:
            gone.append(old[1])
            if new is None or new[0] != old[0]:
                deletes.append(old[0])
        if obj is not None and new is not None:
            come.append(new[1])
            compiled[key] = obj
    upserts = sorted(compiled.values(), key=lambda obj: (_ORDER[obj.key.split("/", 1)[0]], obj.key))
    total = protocol.combine(come, protocol.remove(mirror.hash, gone))
    return Delta(tuple(upserts), compiled, tuple(sorted(deletes)), items, total)


class Loop:
    """Implements view.Forwarder. ``on_view`` is called on the loop's thread after each news,
    ``on_log`` on the connection's thread with what the forwarder's rules logged."""

    def __init__(
        self,
        socket_path: Path,
        build: str,
        configuration: Configuration,
        on_view: Callable[[View], None] = lambda view: None,
        on_log: Callable[[RuleLog], None] = lambda rows: None,
    ) -> None:
        self._path = socket_path
        self._build = build
        self._on_view = on_view
        self._on_log = on_log
        self._condition = threading.Condition()
        self._wanted = configuration
        self._touched: set[Key] = set()
        self._wake = False
        self._stopping = False
        self._view = View()
        self._client: Client | None = None
        self._lost_at = -RECONNECT_S
        self._mirror: Mirror | None = None
        self._news = False  # of something else than rules
        self._polled_at = 0.0
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    # --- any thread -----------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self._view

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        client = self._client
        if client is not None:
            client.close()
        self._thread.join(timeout=5)

    def nudge(self, configuration: Configuration, touched: frozenset[Key]) -> None:
        """There is a new revision. Called in the order of commits."""
        with self._condition:
            self._wanted = configuration
            self._touched |= touched
            self._wake = True
            self._condition.notify_all()

    def wait(self, fits: Callable[[View], bool], timeout_s: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: fits(self._view), timeout_s)

    def stats(self) -> Stats:
        return self._ask(protocol.GetStats, Stats)

    def fdb(self, bridge: str, cursor: int, limit: int) -> Fdb:
        return self._ask(lambda number: protocol.GetFdb(number, bridge, cursor, limit), Fdb)

    def flush_fdb(self, bridge: str, port: str | None, vid: int | None) -> int:
        return self._ask(
            lambda number: protocol.FlushFdb(number, bridge, port, vid), Flushed
        ).entries

    def connections(self, query: ConnectionQuery, cursor: int, limit: int) -> Connections:
        return self._ask(
            lambda number: protocol.GetConnections(number, query, cursor, limit), Connections
        )

    def flush_connections(self, query: ConnectionQuery) -> int:
        return self._ask(lambda number: protocol.FlushConnections(number, query), Flushed).entries

    def clients(self, cursor: int, limit: int) -> ClientRows:
        return self._ask(lambda number: protocol.GetClients(number, cursor, limit), ClientRows)

    def evict_client(self, client: int) -> None:
        self._ask(lambda number: protocol.EvictClient(number, client), Evicted)

    def analyse(self, ruleset: str, cursor: int) -> Analysed:
        return self._ask(lambda number: protocol.Analyse(number, ruleset, cursor), Analysed)

    def trace(self, in_port: str, frame: bytes, state: str) -> Traced:
        return self._ask(lambda number: protocol.Trace(number, in_port, frame, state), Traced)

    def rule_counters(self, ruleset: str, cursor: int, limit: int) -> RuleCounters:
        return self._ask(
            lambda number: protocol.GetRuleCounters(number, ruleset, cursor, limit), RuleCounters
        )

    def _ask(self, make: Callable[[int], protocol.Message], answer: type[T]) -> T:
        """A forwarder that was killed is back in milliseconds: its successor is asked again."""
        client = self._client or self._successor(None)
        if client is None:
            raise ForwarderError(self._view.why)
        try:
            return client.request(make, answer, REQUEST_S)
        except RefusedError as error:
            raise ForwarderError(str(error), refused=error.code) from error
        except ClientError as error:
            successor = None if client.alive else self._successor(client)
            if successor is None:
                raise ForwarderError(str(error)) from error
        try:
            return successor.request(make, answer, REQUEST_S)
        except ClientError as error:
            refused = error.code if isinstance(error, RefusedError) else ""
            raise ForwarderError(str(error), refused=refused) from error

    def _successor(self, lost: Client | None) -> Client | None:
        """Another connection than `lost`, waited for while one was there not long ago."""
        since = self._lost_at if lost is None else time.monotonic()
        with self._condition:
            self._condition.wait_for(
                lambda: self._client not in (None, lost),
                max(0.0, since + RECONNECT_S - time.monotonic()),
            )
            return None if self._client is lost else self._client

    def _broken(self) -> None:
        """On a thread of the client that is lost: the loop shall see it now."""
        with self._condition:
            self._wake = True
            self._condition.notify_all()

    def _event(self, event: Event | RuleLog) -> None:
        """On the client's reader thread."""
        if isinstance(event, RuleLog):
            self._on_log(event)
            return
        log.info("forwarder: %s %s: %s", event.kind, event.object, event.message)
        with self._condition:
            self._wake = self._news = True
            self._condition.notify_all()

    # --- the loop's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        backoff = BACKOFF_FIRST_S
        while not self._stopping:
            try:
                self._connect()
                backoff = BACKOFF_FIRST_S
                while not self._stopping:
                    if not self._apply():
                        self._poll()
                    self._sleep(PENDING_POLL_S if self._view.pending else POLL_S)
            except ClientError as error:
                self._lost(str(error))
            except Exception:
                # A fault of ours must not end reconciliation; it is reported and tried again.
                log.exception("reconciliation failed")
                self._lost("reconciliation failed, see the log")
            with self._condition:
                self._condition.wait_for(lambda: self._stopping, backoff)
            backoff = min(backoff * 2, BACKOFF_LAST_S)

    def _sleep(self, seconds: float) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._wake or self._stopping, seconds)
            self._wake = False
        client = self._client
        if client is None or not client.alive:
            raise ClientError("the connection to the forwarder is lost")

    def _lost(self, why: str) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._lost_at = time.monotonic()
        if self._stopping:
            return
        if self._view.connected or self._view.why != why:
            log.warning("no forwarder: %s", why)
        self._publish(replace(self._view, connected=False, why=why))

    def _publish(self, view: View) -> None:
        self._view = view
        self._on_view(view)
        with self._condition:
            self._condition.notify_all()

    def _connect(self) -> None:
        client = Client(self._path, self._build, self._event, self._broken)
        self._client = client
        welcome = client.welcome
        log.info(
            "forwarder %s connected: build %s, pid %d, revision %d",
            welcome.epoch,
            welcome.build,
            welcome.pid,
            welcome.applied_revision,
        )
        with self._condition:
            wanted = self._wanted
            self._touched.clear()
        mirror, objects = full(wanted)
        if welcome.config_hash != mirror.hash:
            self._mirror = None
            self._snapshot(client, mirror, objects)
        self._mirror = mirror
        self._adopt(welcome_of=client)

    def _snapshot(self, client: Client, mirror: Mirror, objects: list[WireObject]) -> None:
        revision = mirror.configuration.revision
        client.send(protocol.Begin(0, revision, mirror.hash))
        for chunk in protocol.chunks(objects):
            client.send(chunk)
        ack = client.request(protocol.Commit, Ack, APPLY_S)
        self._check_hash(ack, mirror.hash)
        log.info("snapshot of revision %d applied: %d objects", revision, len(objects))

    def _apply(self) -> bool:
        """Bring the forwarder from the mirror to what is wanted now. False: it has it."""
        with self._condition:
            wanted, touched = self._wanted, frozenset(self._touched)
            self._touched.clear()
        mirror, client = self._mirror, self._client
        if mirror is None or client is None or mirror.configuration.revision == wanted.revision:
            return False
        delta = difference(mirror, wanted, touched)
        base = mirror.hash
        mirror.take(delta, wanted)
        if delta.upserts or delta.deletes:
            self._send(client, mirror, delta, base)
        self._adopt(rules_only=all(key.kind in RULE_KINDS for key in touched))
        return True

    def _send(self, client: Client, mirror: Mirror, delta: Delta, base: bytes) -> None:
        """``mirror`` is what shall be there, ``base`` the hash of what is."""
        revision = mirror.configuration.revision

        def make(number: int) -> protocol.Apply:
            return protocol.Apply(number, revision, base, delta.hash, delta.upserts, delta.deletes)

        if len(delta.upserts) + len(delta.deletes) <= DELTA_OBJECTS_MAX:
            try:
                self._check_hash(client.request(make, Ack, APPLY_S), delta.hash)
                return
            except (RefusedError, protocol.ProtocolError) as error:
                # It has something else than we thought, or the delta is longer than a message.
                log.warning("delta to revision %d not taken, sending all: %s", revision, error)
        objects = [obj for _, obj in compile_all(mirror.configuration, delta.compiled)]
        self._snapshot(client, mirror, objects)

    @staticmethod
    def _check_hash(ack: Ack, expected: bytes) -> None:
        if ack.hash != expected:
            raise ClientError("the forwarder applied something else than it was sent")

    def _adopt(self, welcome_of: Client | None = None, *, rules_only: bool = False) -> None:
        """The mirror is in force. Published with a status taken after it, which is of rules only
        where nothing else was changed and what else there is was asked a moment ago."""
        mirror, client = self._mirror, self._client
        if mirror is None or client is None:
            return
        view = replace(self._view, applied=mirror.configuration)
        if welcome_of is not None:
            view = replace(view, welcome=welcome_of.welcome)
        asked_lately = not self._news and time.monotonic() < self._polled_at + POLL_S
        if rules_only and asked_lately and not view.pending:
            self._publish(self._with_rules(client, view))
        else:
            self._publish(self._with_status(client, view))

    def _poll(self) -> None:
        client = self._client
        if client is not None:
            self._publish(self._with_status(client, self._view))

    def _with_status(self, client: Client, view: View) -> View:
        self._polled_at, self._news = time.monotonic(), False
        status = self._status(client, rules_only=False)
        view = _with_rules_of(status, view)
        return replace(
            view,
            status=status,
            ports={state.name: state for state in status.ports},
            bridges={state.name: state for state in status.bridges},
            clients=_declared(client, view),
        )

    def _with_rules(self, client: Client, view: View) -> View:
        """The rest is as it was seen last."""
        new, old = self._status(client, rules_only=True), view.status
        if old is not None:
            new = structs.replace(
                new, ports=old.ports, bridges=old.bridges, statics=old.statics, vale=old.vale
            )
        return replace(_with_rules_of(new, view), status=new)

    def _status(self, client: Client, *, rules_only: bool) -> Status:
        ask = partial(protocol.GetStatus, rules_only=rules_only)
        status = client.request(ask, Status, REQUEST_S)
        if self._mirror is not None and status.config_hash != self._mirror.hash:
            raise ClientError("the forwarder has another configuration than it was given")
        return status


def _with_rules_of(status: Status, view: View) -> View:
    return replace(
        view,
        connected=True,
        why="",
        seen_at=time.monotonic(),
        rulesets={state.name: state for state in status.rulesets},
        policers={state.name: state for state in status.policers},
    )


def _declared(client: Client, view: View) -> dict[str, tuple[ClientRow, ...]]:
    """Who has ports of the configuration open. Nobody is asked where there is none for programs."""
    ports = view.applied.ports if view.applied and view.emulated_netmap else {}
    names = {name for name, stored in ports.items() if stored.spec.for_programs}
    found: dict[str, tuple[ClientRow, ...]] = {}
    cursor, more = 0, bool(names)
    while more:
        ask = partial(protocol.GetClients, cursor=cursor, limit=CLIENTS_A_PAGE)
        page = client.request(ask, ClientRows, REQUEST_S)
        for row in page.rows:
            if row.port in names:
                found[row.port] = (*found.get(row.port, ()), row)
        cursor, more = page.cursor, page.cursor > 0
    return found
