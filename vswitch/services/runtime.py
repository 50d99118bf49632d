"""What is: status of objects, statistics, the FDB, readiness. Reads only, from the last view.

Conditions keep the time of their last change in memory; it begins anew with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from fastpath.protocol import (
    ClientRow,
    ClientRows,
    ConnectionQuery,
    Connections,
    Fdb,
    Outcome,
    PortState,
    RuleCounters,
    Stats,
    Traced,
)
from vswitch import vale
from vswitch.kinds import KINDS, Configuration, Key, Stored, identity, switches
from vswitch.kinds.backends import Pipe, Vale, Veth
from vswitch.kinds.bridge import BridgeStatus
from vswitch.kinds.fdb import FdbStatus
from vswitch.kinds.port import LastError, PortClient, PortSpec, PortStatus
from vswitch.kinds.resource import Condition
from vswitch.problems import Detail, Problem, fastpath_down, not_found, of_details
from vswitch.services import analysis, rules
from vswitch.services.netmap import idle_host_rings
from vswitch.services.preflight import fixing_commands
from vswitch.services.rule_log import RuleLogBook
from vswitch.services.tunnels import narrow
from vswitch.values import now
from vswitch.view import PENDING, Forwarder, ForwarderError, View

T = TypeVar("T")
_Facts = tuple[str, str, str, str]  # status, reason, message, hint
_OK = Outcome()
_NETMAP_HINT = "load the module netmap; only root may open its device"
_PRIVILEGE_CODES = frozenset({"PRIVILEGE"})


class Runtime:
    """``current`` gives the desired configuration."""

    def __init__(self, forwarder: Forwarder, current: Callable[[], Configuration]) -> None:
        self._forwarder = forwarder
        self._current = current
        self._lock = threading.Lock()
        self._since: dict[tuple[str, str], tuple[str, datetime, Key]] = {}
        self.rule_log = RuleLogBook()

    @property
    def view(self) -> View:
        return self._forwarder.view

    def refresh(self, view: View) -> None:
        """Notice conditions that changed, and forget those of objects that are gone."""
        configuration = self._current()
        # Static entries, rules and groups may be many: theirs are noticed when they are looked at.
        objects = (configuration.bridges, configuration.ports, configuration.rulesets)
        for stored in (stored for found in objects for stored in found.values()):
            self._conditions(stored, view)
        with self._lock:
            for uid, kind in [
                (uid, kind)
                for (uid, kind), (_, _, key) in self._since.items()
                if (present := configuration.get(key)) is None or present.uid != uid
            ]:
                del self._since[uid, kind]
        self.rule_log.keep_only(configuration.rulesets)

    # --- status of objects ----------------------------------------------------------------------

    def document(self, stored: Stored[Any]) -> dict[str, Any]:
        """The object as the API shows it: what is wanted and what is."""
        return {
            **identity(stored.key),
            "uid": stored.uid,
            "labels": dict(stored.labels),
            "description": stored.description,
            "generation": stored.generation,
            "spec": stored.spec.document(),
            "status": self._status(stored),
            "created_at": stored.created_at,
            "updated_at": stored.updated_at,
        }

    def observed_generation(self, stored: Stored[Any], view: View) -> int:
        applied = view.applied.get(stored.key) if view.applied else None
        return applied.generation if applied and applied.uid == stored.uid else 0

    def _status(self, stored: Stored[Any]) -> Any:
        view = self.view
        conditions = self._conditions(stored, view)
        observed = self.observed_generation(stored, view)
        if stored.key.kind == "bridge":
            name = stored.key.name
            bridge = view.bridges.get(name)
            ports = self._current().members(name)
            if vale.is_kernel(stored.spec):
                ports = list(view.status.vale.get(name, ())) if view.status else []
            return BridgeStatus(
                conditions=conditions,
                observed_generation=observed,
                ports=ports,
                fdb_entries=bridge.fdb_entries if bridge and observed else 0,
            )
        if stored.key.kind == "fdb":
            return FdbStatus(conditions=conditions, observed_generation=observed)
        if stored.key.kind == "port":
            return self._port_status(stored, view, conditions, observed)
        return rules.status(self._current(), stored, view, conditions, observed)

    def _port_status(
        self, stored: Stored[Any], view: View, conditions: list[Condition], observed: int
    ) -> PortStatus:
        state = view.ports.get(stored.key.name) if observed else None
        outcome = self._outcome(stored, view)
        error = None
        if not outcome.ok and outcome.code != PENDING and observed:
            error = LastError(code=outcome.code, message=outcome.message, hint=outcome.hint)
        return PortStatus(
            conditions=conditions,
            observed_generation=observed,
            backend_effective=state.detail if state else "",
            device=state.device if state else "",
            mac=state.mac if state else "",
            mtu=state.mtu if state else 0,
            ifindex=state.ifindex if state else 0,
            mem_region=state.mem_region if state else 0,
            capabilities=list(state.caps) if state else [],
            rx_queues=state.rx_queues if state else 0,
            tx_queues=state.tx_queues if state else 0,
            clients=[
                PortClient(id=row.id, pid=row.pid, uid=row.uid, program=row.program)
                for row in (view.clients.get(stored.key.name, ()) if observed else ())
            ],
            last_error=error,
        )

    def _outcome(self, stored: Stored[Any], view: View) -> Outcome:
        """The forwarder's newest word on the object."""
        key = stored.key
        if key.kind == "port":
            outcomes = [state.outcome for state in view.port_states(key)]
            return next((outcome for outcome in outcomes if not outcome.ok), _OK)
        if key.kind == "bridge" and key.name in view.bridges:
            return view.bridges[key.name].outcome
        if key.kind == "bridge" and vale.is_kernel(stored.spec) and view.welcome is not None:
            missing = view.welcome.port_types.get("vale_nic", "this forwarder has no such driver")
            return Outcome("NETMAP_ABSENT", missing, _NETMAP_HINT) if missing else _OK
        if key.kind == "fdb" and view.status is not None:
            prefix = f"static/{key.parent}/{key.name}/"
            found = view.status.statics.items()
            return next((outcome for name, outcome in found if name.startswith(prefix)), _OK)
        return rules.outcome(key, view)

    def _conditions(self, stored: Stored[Any], view: View) -> list[Condition]:
        observed = self.observed_generation(stored, view)
        known = bool(observed) and view.connected
        outcome = self._outcome(stored, view)
        state = view.ports.get(stored.key.name) if stored.key.kind == "port" else None
        facts: dict[str, _Facts] = {"Ready": _ready(stored, view, observed, outcome, state)}
        if stored.key.kind == "rule" and facts["Ready"][0] == "True":
            facts["Ready"] = rules.readiness(stored.spec) or facts["Ready"]
        if stored.key.kind == "port":
            known_state = state if known and outcome.ok else None
            facts["LinkUp"] = _link(known_state, stored.spec)
            if known_state is not None and stored.spec.for_programs:
                facts["LinkUp"] = _program(known_state, stored, view)
            facts["OffloadsSafe"] = _offloads(known_state)
            facts["PrivilegesOk"] = _privileges(outcome) if known else _UNKNOWN
            if (ifname := idle_host_rings(stored.spec, self._current())) is not None:
                facts["HostRingsIdle"] = _idle(ifname)
            if stored.spec.backend.sockets():
                facts["MtuFits"] = self._mtu(stored, view, known_state)
        return [self._stamped(stored, kind, fact) for kind, fact in facts.items()]

    def _mtu(self, stored: Stored[Any], view: View, state: PortState | None) -> _Facts:
        if state is None:
            return _UNKNOWN
        found = narrow(stored.key.name, stored.spec, self._current(), view)
        if found is None:
            return ("True", "MTU_FITS", "", "")
        return ("False", "OUTER_FRAGMENTS", found.message, found.fix)

    def _stamped(self, stored: Stored[Any], kind: str, fact: _Facts) -> Condition:
        status, reason, message, hint = fact
        with self._lock:
            before = self._since.get((stored.uid, kind))
            if before is None or before[0] != status:
                before = self._since[stored.uid, kind] = (status, now(), stored.key)
        return Condition(
            type=kind,
            status=status,
            reason=reason,
            message=message,
            hint=hint,
            last_transition=before[1],
        )

    # --- questions to the forwarder -------------------------------------------------------------

    def stats(self) -> Stats:
        return self._asked(self._forwarder.stats)

    def fdb(self, bridge: str, cursor: int, limit: int) -> Fdb:
        self._need_bridge(bridge)
        return self._asked(lambda: self._forwarder.fdb(bridge, cursor, limit))

    def flush_fdb(self, bridge: str, port: str | None, vid: int | None) -> int:
        self._need_bridge(bridge)
        if port is not None:
            stored = self._current().ports.get(port)
            if stored is None:
                raise not_found("Port", port)
            port = switches.station(port, stored.spec, bridge)
        return self._asked(lambda: self._forwarder.flush_fdb(bridge, port, vid))

    def connections(self, query: ConnectionQuery, cursor: int, limit: int) -> Connections:
        """Connections in force; a Problem names the parameter that names nothing."""
        self._check_query(query, "?")
        return self._asked(lambda: self._forwarder.connections(query, cursor, limit))

    def flush_connections(self, query: ConnectionQuery) -> int:
        self._check_query(query, "/")
        return self._asked(lambda: self._forwarder.flush_connections(query))

    def _check_query(self, query: ConnectionQuery, place: str) -> None:
        current = self._current()
        faults = [
            Detail(f"{place}{kind}", "REFERENCE_NOT_FOUND", f"There is no {kind} named {name}.")
            for kind, name, known in (
                ("bridge", query.bridge, current.bridges),
                ("port", query.port, current.ports),
            )
            if name and name not in known
        ]
        if faults:
            raise of_details(faults)

    def trace(self, in_port: str, frame: bytes, state: str) -> Traced:
        """422 when there is no such port. What netmap names ("vale0:p1") only the forwarder knows:
        the port of a program, or a switch's side of a joint."""
        text = f"There is no port named {in_port}."
        missing = of_details([Detail("/in_port", "REFERENCE_NOT_FOUND", text)])
        of_switch = ":" in in_port
        if not of_switch and in_port not in self._current().ports:
            raise missing
        return self._asked(
            lambda: self._forwarder.trace(in_port, frame, state), missing if of_switch else None
        )

    def clients(self, cursor: int, limit: int) -> ClientRows:
        return self._asked(lambda: self._forwarder.clients(cursor, limit))

    def client(self, number: int) -> ClientRow:
        for row in self.clients(number - 1, 1).rows:
            if row.id == number:
                return row
        raise not_found("client", str(number))

    def evict_client(self, number: int) -> None:
        missing = not_found("client", str(number))
        self._asked(lambda: self._forwarder.evict_client(number), missing)

    def rule_counters(self, ruleset: str, cursor: int, limit: int) -> RuleCounters:
        if ruleset not in self._current().rulesets:
            raise not_found(KINDS["ruleset"].title, ruleset)
        return self._asked(lambda: self._forwarder.rule_counters(ruleset, cursor, limit))

    def analyse(
        self, ruleset: str, kinds: frozenset[str] | None, at: analysis.Position, limit: int
    ) -> analysis.Page:
        """Findings from there on; what takes long ends early and is gone on with."""
        if ruleset not in self._current().rulesets:
            raise not_found(KINDS["ruleset"].title, ruleset)
        return self._asked(
            lambda: analysis.page(
                lambda cursor: self._forwarder.analyse(ruleset, cursor),
                self._forwarder.trace,
                kinds,
                at,
                limit,
            )
        )

    def _need_bridge(self, bridge: str) -> None:
        if bridge not in self._current().bridges:
            raise not_found(KINDS["bridge"].title, bridge)
        if vale.is_kernel(self._current().bridges[bridge].spec):
            text = "The kernel does not show what stations its VALE switches know, and keeps them."
            raise Problem("VALE_LIMIT", text)

    def _asked(self, question: Callable[[], T], missing: Problem | None = None) -> T:
        """``missing``: the problem, where only the forwarder knows what there is."""
        try:
            return question()
        except ForwarderError as error:
            if missing is not None and error.refused == "NOT_FOUND":
                raise missing from error
            if error.refused:
                raise Problem("FASTPATH_REFUSED", f"The forwarder refused: {error}.") from error
            raise fastpath_down(f"The forwarder cannot be asked: {error}.") from error

    # --- readiness ------------------------------------------------------------------------------

    def wait_in_force(self, revision: int, key: Key, timeout_s: float) -> bool:
        return self._forwarder.wait(lambda view: view.in_force(revision, key), timeout_s)

    def check_ready(self) -> dict[str, Any]:
        """Facts of a switch that forwards what it was told to; a Problem says why it does not."""
        view, wanted = self.view, self._current().revision
        if not view.fresh or view.status is None or view.welcome is None:
            raise fastpath_down(view.why or "The forwarder has not been heard of for a while.")
        applied = view.applied.revision if view.applied else 0
        if applied != wanted:
            raise Problem("FASTPATH_BEHIND", f"Revision {applied} is in force, {wanted} is wanted.")
        return {
            "ready": True,
            "revision": wanted,
            "config_hash": view.status.config_hash.hex(),
            "forwarder_pid": view.welcome.pid,
            "keeper_connected": view.status.keeper_connected,
            "restarts": view.status.restarts,
        }


_UNKNOWN: _Facts = ("Unknown", "UNKNOWN", "The forwarder has not said.", "")


def _ready(
    stored: Stored[Any], view: View, observed: int, outcome: Outcome, state: PortState | None
) -> _Facts:
    if not view.connected:
        return ("Unknown", "FASTPATH_DOWN", view.why, "")
    if observed != stored.generation:
        return ("Unknown", PENDING, "The forwarder has not applied this generation yet.", "")
    if outcome.code == PENDING:
        return ("Unknown", PENDING, outcome.message, "")
    if not outcome.ok:
        return ("False", outcome.code, outcome.message, outcome.hint)
    if state is not None and state.lost:
        return ("False", "BACKEND_LOST", state.detail or "The device is gone.", "")
    return ("True", "IN_FORCE", "", "")


def _link(state: PortState | None, spec: PortSpec) -> _Facts:
    if state is None:
        return _UNKNOWN
    if state.lost:
        return ("False", "BACKEND_LOST", "The device is gone.", "")
    if not state.link_up:
        if isinstance(spec.backend, Pipe | Vale):
            return ("False", "LINK_DOWN", "Nobody has the other end.", "")
        hint = f"ip link set {state.device} up" if state.device else ""
        if isinstance(spec.backend, Veth):
            # Our own end is up: what is missing is the other one.
            peer = spec.backend.peer
            where = f"ip -n {peer.netns}" if peer.netns else "ip"
            hint = f"{where} link set {peer.name} up"
        return ("False", "LINK_DOWN", "The device is down or has no carrier.", hint)
    return ("True", "LINK_UP", "", "")


def _program(state: PortState, stored: Stored[PortSpec], view: View) -> _Facts:
    """Its driver is there all the time; the other side is a program's."""
    if view.clients.get(stored.key.name):
        return _link(state, stored.spec)
    return ("False", "LINK_DOWN", "No netmap program has it open.", "")


def _offloads(state: PortState | None) -> _Facts:
    if state is None:
        return _UNKNOWN
    if state.offloads_ok:
        return ("True", "OFFLOADS_SAFE", state.offloads_message, "")
    hint = fixing_commands(state.offloads_message) or ""
    return ("False", "OFFLOADS_ENABLED", state.offloads_message, hint)


def _idle(ifname: str) -> _Facts:
    text = (
        f"netmap takes what the host sends through {ifname} only while a ring of the interface "
        "itself is in netmap mode, and no port here opens one."
    )
    return ("True", "HOST_RINGS_IDLE", text, f"use netmap:{ifname}*, or add a port netmap:{ifname}")


def _privileges(outcome: Outcome) -> _Facts:
    if outcome.code in _PRIVILEGE_CODES:
        return ("False", outcome.code, outcome.message, outcome.hint)
    return ("True", "PRIVILEGES_OK", "", "")
