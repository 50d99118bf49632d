"""The forwarder's side of the control socket: clients, their requests, the order of changes.

One thread, nothing blocks: a client is a decoder, a bounded outbox and perhaps half a snapshot. A
change waits its turn while the one before it waits for devices; everything else is answered at
once. A client that does not read what it asked for is dropped.
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections import deque
from dataclasses import dataclass, field

from fastpath import analysis, connections, delta, report, rule_report, traces
from fastpath.apply import Applier
from fastpath.channel import peer_credentials
from fastpath.clients import Clients
from fastpath.delta import Delta, RefusalError, Snapshot
from fastpath.native import NativeError
from fastpath.protocol import (
    MESSAGE_BYTES_MAX,
    VERSION,
    Ack,
    Analyse,
    Apply,
    Begin,
    Chunk,
    Commit,
    Decoder,
    Event,
    EvictClient,
    Evicted,
    FlushConnections,
    Flushed,
    FlushFdb,
    FromForwarder,
    GetClients,
    GetConnections,
    GetFdb,
    GetRuleCounters,
    GetStats,
    GetStatus,
    Hello,
    Message,
    Outcome,
    Ping,
    Pong,
    ProtocolError,
    Refused,
    Status,
    ToForwarder,
    Trace,
    Welcome,
    encode,
)
from fastpath.regions import StateTooLarge
from fastpath.rule_report import RuleLogger

READ_BYTES = 256 * 1024
OUTBOX_BYTES_MAX = 4 * MESSAGE_BYTES_MAX
LOG_OUTBOX_BYTES_MAX = MESSAGE_BYTES_MAX  # who has so much left to read is told no more
FAILURES_MAX = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What Welcome says about this process, and who may talk to it."""

    build: str
    epoch: str
    pid: int
    restarts: int
    uids: frozenset[int]
    gid: int


@dataclass(slots=True)
class Facts:
    """What the keeper told; may change when another keeper comes."""

    port_types: dict[str, str]
    limits: dict[str, int]
    links: dict[int, str] = field(default_factory=dict)
    vale: dict[str, tuple[str, ...]] = field(default_factory=dict)
    keeper_connected: bool = True


@dataclass(slots=True)
class _Change:
    """A configuration that waits to be applied, or whose devices are waited for."""

    client: Client
    request: Apply | Commit
    snapshot: Snapshot | None = None


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.decoder = Decoder(ToForwarder)
        self.outbox = bytearray()
        self.greeted = False
        self.closing = False  # as soon as the outbox is empty
        self.snapshot: Snapshot | None = None

    def flush(self) -> None:
        """Send what the socket takes. OSError: the client is gone."""
        while self.outbox:
            try:
                sent = self.sock.send(self.outbox, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            del self.outbox[:sent]


class Server:
    """Accepts clients on ``listener`` and serves them from ``selector``'s events."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        applier: Applier,
        identity: Identity,
        facts: Facts,
        programs: Clients,
    ) -> None:
        self._programs = programs
        self._selector = selector
        self._listener = listener
        self._applier = applier
        self._identity = identity
        self._facts = facts
        self._clients: set[Client] = set()
        self._changes: deque[_Change] = deque()
        self._current: tuple[_Change, Delta] | None = None
        self._event_seq = 0
        self._logger = RuleLogger(applier.rules, applier.port_slots)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    # --- connections ----------------------------------------------------------------------------

    def _accept(self, mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        _, uid, gid = peer_credentials(sock)
        if uid not in self._identity.uids and gid != self._identity.gid:
            log.warning("a process of uid %d gid %d may not use the control socket", uid, gid)
            sock.close()
            return
        if len(self._clients) >= self._facts.limits["clients_max"]:
            log.warning("%d control clients are the limit", len(self._clients))
            sock.close()
            return
        client = Client(sock)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, lambda m: self._serve(client, m))

    def _serve(self, client: Client, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ and not client.closing:
                data = client.sock.recv(READ_BYTES)
                if not data:
                    self._drop(client)
                    return
                for message in client.decoder.feed(data):
                    self._handle(client, message)
            client.flush()
        except (BlockingIOError, InterruptedError):
            return
        except ProtocolError as error:
            self._refuse_and_close(client, "PROTOCOL", str(error))
        except OSError:
            self._drop(client)
            return
        self._after(client)

    def _after(self, client: Client) -> None:
        """What a client's outbox means for what we wait for."""
        if client not in self._clients:
            return
        if len(client.outbox) > OUTBOX_BYTES_MAX:
            log.warning("a control client does not read its answers; dropped")
            self._drop(client)
        elif client.closing and not client.outbox:
            self._drop(client)
        else:
            want = 0 if client.closing else selectors.EVENT_READ
            if client.outbox:
                want |= selectors.EVENT_WRITE
            key = self._selector.get_key(client.sock)
            if key.events != want:
                self._selector.modify(client.sock, want, key.data)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._selector.unregister(client.sock)
            client.sock.close()

    def _send(self, client: Client, message: FromForwarder) -> None:
        if client not in self._clients:
            return
        try:
            client.outbox += encode(message)
        except ProtocolError as error:
            request = getattr(message, "id", 0)
            client.outbox += encode(Refused(request, "TOO_LARGE", str(error)))
        try:
            client.flush()
        except OSError:
            self._drop(client)
            return
        self._after(client)

    def _refuse_and_close(self, client: Client, code: str, message: str) -> None:
        client.closing = True
        self._send(client, Refused(0, code, message))

    def close(self) -> None:
        """Drop everybody; the listener is the caller's."""
        for client in list(self._clients):
            self._drop(client)
        self._selector.unregister(self._listener)

    # --- requests -------------------------------------------------------------------------------

    def _handle(self, client: Client, message: Message) -> None:
        if client.closing:
            return
        if not client.greeted:
            self._greet(client, message)
            return
        try:
            self._request(client, message)
        except KeyError as error:
            name = error.args[0]
            id = getattr(message, "id", 0)
            self._send(client, Refused(id, "NOT_FOUND", f"{name} is not in force"))
        except NativeError as error:
            self._send(client, Refused(getattr(message, "id", 0), error.name, error.message))

    def _greet(self, client: Client, message: Message) -> None:
        if not isinstance(message, Hello):
            self._refuse_and_close(client, "PROTOCOL", "the first message must be hello")
            return
        if message.proto != VERSION:
            self._refuse_and_close(
                client,
                "VERSION_MISMATCH",
                f"the forwarder (build {self._identity.build}) speaks protocol {VERSION}, the "
                f"control plane (build {message.build}) {message.proto}: restart the older one",
            )
            return
        client.greeted = True
        self._send(
            client,
            Welcome(
                proto=VERSION,
                build=self._identity.build,
                epoch=self._identity.epoch,
                pid=self._identity.pid,
                applied_revision=self._applier.revision,
                config_hash=self._applier.hash,
                port_types=self._facts.port_types,
                limits=self._facts.limits,
            ),
        )

    def _request(self, client: Client, message: Message) -> None:
        match message:
            case Apply():
                self._enqueue(_Change(client, message))
            case Begin():
                client.snapshot = Snapshot(message.revision, message.hash)
            case Chunk():
                self._chunk(client, message)
            case Commit():
                self._commit(client, message)
            case GetStats(id):
                self._send(client, report.stats(self._applier, id))
            case GetStatus(id, rules_only):
                self._send(client, self._status(id, rules_only))
            case GetFdb(id, bridge, cursor, limit):
                self._send(client, report.fdb(self._applier, id, bridge, cursor, limit))
            case FlushFdb(id, bridge, port, vid):
                entries = report.flush(self._applier, bridge, port, vid)
                self._send(client, Flushed(id, entries))
            case GetRuleCounters(id, ruleset, cursor, limit):
                rows = rule_report.counters(self._applier, id, ruleset, cursor, limit)
                self._send(client, rows)
            case Trace():
                self._send(client, traces.trace(self._applier, message))
            case Analyse():
                self._send(client, analysis.analyse(self._applier, message))
            case GetConnections(id, query, cursor, limit):
                most = self._facts.limits["connections_max"]
                found = connections.rows(self._applier, id, query, cursor, limit, most)
                self._send(client, found)
            case FlushConnections(id, query):
                self._send(client, Flushed(id, connections.flush(self._applier, query)))
            case GetClients(id, cursor, limit):
                self._send(client, self._programs.rows(id, cursor, limit))
            case EvictClient(id, number):
                if self._programs.evict(number):
                    self._send(client, Evicted(id))
                else:
                    self._send(client, Refused(id, "NOT_FOUND", f"there is no client {number}"))
            case Ping(id):
                self._send(client, Pong(id))
            case _:
                raise ProtocolError("hello comes only once")

    def _status(self, id: int, rules_only: bool) -> Status:
        applier = self._applier
        return Status(
            id=id,
            applied_revision=applier.revision,
            config_hash=applier.hash,
            generation=applier.generation,
            keeper_connected=self._facts.keeper_connected,
            restarts=self._identity.restarts,
            ports=() if rules_only else report.port_states(applier, self._facts.links),
            bridges=() if rules_only else report.bridge_states(applier),
            statics={} if rules_only else applier.outcomes.failed("static/", FAILURES_MAX),
            vale={} if rules_only else self._facts.vale,
            rulesets=rule_report.set_states(applier),
            policers=rule_report.policer_states(applier),
        )

    def _chunk(self, client: Client, chunk: Chunk) -> None:
        if client.snapshot is None:
            raise ProtocolError("a chunk outside of begin and commit")
        client.snapshot.add(chunk.objects)
        limit = self._facts.limits["objects_max"]
        if len(client.snapshot.objects) > limit:
            raise ProtocolError(f"a snapshot holds at most {limit} objects")

    def _commit(self, client: Client, commit: Commit) -> None:
        snapshot, client.snapshot = client.snapshot, None
        if snapshot is None:
            self._send(client, Refused(commit.id, "NO_SNAPSHOT", "there was no begin"))
            return
        self._enqueue(_Change(client, commit, snapshot))

    # --- changes, one after the other -----------------------------------------------------------

    def _enqueue(self, change: _Change) -> None:
        self._changes.append(change)
        self.pump()

    def pump(self) -> None:
        """Answer the change whose devices are there now, begin the next one."""
        while True:
            if self._current is not None:
                if not self._applier.settled:
                    return
                self._acknowledge(*self._current)
                self._current = None
            if not self._changes:
                return
            self._begin(self._changes.popleft())

    def _begin(self, change: _Change) -> None:
        try:
            wanted = self._delta(change)
            self._applier.change(wanted)
        except RefusalError as refusal:
            self._send(change.client, Refused(change.request.id, refusal.code, str(refusal)))
        except StateTooLarge as error:
            self._send(change.client, Refused(change.request.id, "LIMIT", str(error)))
        else:
            self._current = (change, wanted)

    def _delta(self, change: _Change) -> Delta:
        """What a change means for the present configuration."""
        applier = self._applier
        if change.snapshot is not None:
            return change.snapshot.delta(applier.objects)
        assert isinstance(change.request, Apply)
        return delta.of_apply(
            applier.objects,
            applier.revision,
            applier.hash,
            change.request,
            self._facts.limits["objects_max"],
        )

    def _acknowledge(self, change: _Change, wanted: Delta) -> None:
        """What was sent, but for the thousands that are well; and whatever else is not."""
        applier = self._applier
        outcomes: dict[str, Outcome] = {}
        for key in wanted.mentioned:
            kind = key.partition("/")[0]
            if kind not in ("static", "rule"):
                outcomes[key] = report.outcome(applier, key)
        for key in (*(port.key for port in applier.wanted.ports.values()), *applier.outcomes):
            if len(outcomes) >= FAILURES_MAX:
                break
            if key in outcomes or applier.is_local(key):
                continue
            if not (outcome := report.outcome(applier, key)).ok:
                outcomes[key] = outcome
        self._send(
            change.client,
            Ack(change.request.id, applier.revision, applier.hash, outcomes),
        )

    # --- events ---------------------------------------------------------------------------------

    def event(self, kind: str, object: str, message: str) -> None:
        """Tell every client that it should ask for the status of ``object``."""
        self._event_seq += 1
        for client in list(self._clients):
            if client.greeted:
                self._send(client, Event(self._event_seq, kind, object, message))

    @property
    def logs(self) -> bool:
        """:meth:`push_log` may have something to tell."""
        return self._logger.wanted

    def push_log(self) -> None:
        """Tell every client which frames met rules that log."""
        told = self._logger.take()
        if told is None:
            return
        for client in list(self._clients):
            if client.greeted and len(client.outbox) < LOG_OUTBOX_BYTES_MAX:
                self._send(client, told)
