"""Ports of switches for netmap programs: declared ones of the configuration, and ephemeral ones,
which come with the first session and go with the last.

An ephemeral port, and an ephemeral switch where the configuration has none of that name, are wanted
like anything configured (``Applier.locals``); so they have rules, books, monitors and traces. A
port's memory is one user's at a time: when its last session ends the port gets a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Mapping

import msgspec

from fastpath import client_names as names
from fastpath import native_clients as wire
from fastpath import native_links
from fastpath.apply import Applier
from fastpath.channel import close_all
from fastpath.client_names import RequestError
from fastpath.client_sessions import Reading, Session, check_sharing
from fastpath.native import NativeError
from fastpath.native_clients import Answer, Request
from fastpath.protocol import WireBridge, WirePort

CLIENT = "client"
FDB_ENTRIES = 8192
PROGRAM_SIDE = 0  # of a port's memory
REFUSED = {"LIMIT": errno.ENOMEM, "INVALID": errno.EINVAL}
HDR_LENGTHS = (0, 10, 12)


def a_switch(name: str) -> WireBridge:
    """As VALE: never forgets a station, and forwards what bridges keep for themselves."""
    return WireBridge(
        name=name,
        vlan_filtering=False,
        learning=True,
        ageing_s=0,
        fdb_entries_max=FDB_ENTRIES,
        flood_unknown_unicast=True,
        flood_multicast=True,
        flood_broadcast=True,
        reserved_forward=True,
        mtu=0,
    )


def a_port(name: str, type: str, bridge: str, options: Mapping[str, str]) -> WirePort:
    """With the API's defaults."""
    return WirePort(
        name=name,
        type=type,
        options=dict(options),
        bridge=bridge,
        admin_up=True,
        learning=True,
        flood=True,
        isolation_group=0,
        vlan_mode="access",
        pvid=1,
        tagged=(),
        offload_policy="carry",
        polling="adaptive",
        cpus=(),
    )


def a_client_port(name: str, bridge: str, tx_rings: int, rx_rings: int) -> WirePort:
    rings = {"tx_rings": str(tx_rings), "rx_rings": str(rx_rings)}
    return a_port(name, CLIENT, bridge, {"name": name, **rings})


def rings_of(port: WirePort) -> tuple[int, int]:
    """tx and rx, from the program's side."""
    return int(port.options.get("tx_rings", "1")), int(port.options.get("rx_rings", "1"))


class Places:
    """Ports of programs as the configuration and the applier have them, whoever uses them."""

    def __init__(self, applier: Applier, owners: Collection[int]) -> None:
        self.applier = applier
        self._owners = owners

    # --- who may --------------------------------------------------------------------------------

    def is_owner(self, uid: int) -> bool:
        """Root, or the switch's own users."""
        return uid in self._owners

    def may(self, switch: str, uid: int, gid: int) -> bool:
        """Root and the switch's own users may everything, others what a bridge says."""
        bridge = self.applier.wanted.bridges.get(switch)
        clients = bridge.clients if bridge is not None else None
        return uid in self._owners or (
            clients is not None and (uid in clients.uids or gid in clients.gids)
        )

    def admit(self, switch: str, uid: int, gid: int) -> None:
        if not self.may(switch, uid, gid):
            raise RequestError(errno.EACCES)

    # --- what there is --------------------------------------------------------------------------

    def find(self, name: str) -> WirePort | None:
        """The port that programs know by netmap's name, "vale0:p1": a configured one, if any."""
        found = [p for p in self.applier.wanted.ports.values() if vale_name(p) == name]
        ephemeral = self.applier.locals.ports
        return min(found, key=lambda port: port.name in ephemeral, default=None)

    def memory(self, port: str) -> list[int]:
        """The fds of a port in force."""
        return self.applier.held[port].fds

    def inode(self, port: str) -> int:
        """Of its memory, 0: it has none now."""
        held = self.applier.held.get(port)
        return os.fstat(held.fds[0]).st_ino if held is not None and held.fds else 0

    def ready(self, port: str) -> bool:
        """RequestError: it will not be."""
        if self.applier.in_force(port):
            return True
        outcome = self.applier.outcomes.get(f"port/{port}")
        if port not in self.applier.wanted.ports:
            raise RequestError(errno.ENXIO)
        if not outcome.ok:
            raise RequestError(REFUSED.get(outcome.code, errno.ENXIO))
        return False

    # --- what comes and goes --------------------------------------------------------------------

    def want(self, ports: Collection[WirePort], bridge: WireBridge | None) -> None:
        """These, and the bridge they are in where there is none of that name."""
        wanted = self.applier.locals
        if bridge is not None and bridge.name not in self.applier.wanted.bridges:
            wanted.bridges[bridge.name] = bridge
        for port in ports:
            wanted.ports[port.name] = port

    def come(self, *ports: WirePort, bridge: WireBridge | None) -> None:
        self.want(ports, bridge)
        for port in ports:
            self.applier.forgive(port.name)
        self.applier.follow_locals()

    def go(self, *ports: str) -> None:
        """Nobody uses these any more: ephemeral ones go, all others get new devices."""
        wanted = self.applier.locals
        for name in ports:
            with contextlib.suppress(NativeError, KeyError, IndexError):
                wire.gone(self.memory(name)[0])
            wanted.ports.pop(name, None)
            self.applier.wear_out(name)
        used = {port.bridge for port in wanted.ports.values()}
        for name in wanted.bridges.keys() - used:
            del wanted.bridges[name]
        self.applier.follow_locals()

    def reading(self, port: str, memory: str = "") -> Reading:
        """Books of ``port``, and what the program counts in the memory of ``memory`` or itself."""
        slot = self.applier.port_slots.get(port)
        if slot is None or not self.applier.in_force(port):
            return Reading()
        counters = self.applier.engine.port_counters(slot)
        view = wire.View()
        with contextlib.suppress(NativeError, KeyError, IndexError):
            view = wire.view(self.memory(memory or port)[0])
        return Reading(
            view,
            counters.rx_frames,
            counters.rx_bytes,
            counters.tx_frames,
            counters.tx_bytes,
            sum(counters.tx_drops.values()),
        )


def vale_name(port: WirePort) -> str:
    """As netmap writes it; "" for what has no such name."""
    if port.type == CLIENT:
        return port.options.get("name", port.name)
    if port.bridge is None or not names.is_switch(port.bridge):
        return ""
    return port.name if ":" in port.name else f"{port.bridge}:{port.name}"


class Ports:
    """The kind of sessions that are a switch's ports (``Kind`` of client_sessions.py)."""

    name = "port"

    def __init__(self, places: Places) -> None:
        self._places = places
        self._users: dict[str, dict[int, Session]] = {}  # of each port
        self._headers: dict[str, int] = {}  # bytes of the virtio-net header

    # --- life -----------------------------------------------------------------------------------

    def open(self, session: Session, request: Request) -> None:
        switch, _ = names.vale(request.name)
        self._places.admit(switch, session.uid, session.gid)
        port = self._places.find(request.name)
        if port is not None and port.type != CLIENT:
            raise RequestError(errno.EBUSY)  # another one's: a NIC, a join
        if port is None:
            tx_rings = names.within(request.tx_rings, 1, 1, names.RINGS_MAX)
            rx_rings = names.within(request.rx_rings, 1, 1, names.RINGS_MAX)
            made = a_client_port(request.name, switch, tx_rings, rx_rings)
        else:
            tx_rings, rx_rings = rings_of(port)
            made = port
        names.check_mode(request, tx_rings, rx_rings)
        users = self._users.get(made.name, {})
        check_sharing(session, request, users.values())
        self._fill(session, request, made, switch, users)
        self._users.setdefault(made.name, {})[session.id] = session
        if port is None:
            self._places.come(made, bridge=a_switch(switch))

    def _fill(
        self,
        session: Session,
        request: Request,
        port: WirePort,
        switch: str,
        users: Mapping[int, Session],
    ) -> None:
        tx_rings, rx_rings = rings_of(port)
        first = next(iter(users.values()), None)
        slots = {
            side: names.within(wanted, names.SLOTS, names.SLOTS_MIN, names.SLOTS_MAX)
            for side, wanted in (("tx_slots", request.tx_slots), ("rx_slots", request.rx_slots))
        }
        if first is not None:
            slots = {side: getattr(first.state, side) for side in slots}
        session.state = msgspec.structs.replace(
            session.state,
            kind=self.name,
            switch=switch,
            port=port.name,
            tx_rings=tx_rings,
            rx_rings=rx_rings,
            mem_id=first.state.mem_id if first is not None else request.mem_id,
            shared=first is not None,
            **slots,
        )

    def restore(self, session: Session, fds: list[int]) -> None:
        close_all(fds)
        state = session.state
        self._users.setdefault(state.port, {})[session.id] = session
        if state.hdr_len:
            self._headers[state.port] = state.hdr_len
        with contextlib.suppress(RequestError):  # then it is not valid either
            switch, _ = names.vale(state.name)
            if self._places.find(state.name) is None and state.port == state.name:
                made = a_client_port(state.name, switch, state.tx_rings, state.rx_rings)
                self._places.want([made], a_switch(switch))

    def ready(self, session: Session) -> bool:
        state = session.state
        if not self._places.ready(state.port):
            return False
        inode = self._places.inode(state.port)
        session.state = msgspec.structs.replace(state, memory=inode)
        if state.port in self._headers:
            self._tell_header(state.port)
        return True

    def valid(self, session: Session) -> bool:
        """An ephemeral port's end with it when a configured one gets its name: what is said of that
        one (rules, VLAN) shall hold for whoever has the name."""
        state = session.state
        port = self._places.find(state.name)
        return (
            port is not None
            and port.name == state.port
            and self._places.may(state.switch, session.uid, session.gid)
            and self._places.inode(state.port) == state.memory
        )

    def close(self, session: Session) -> None:
        port = session.state.port
        users = self._users.get(port, {})
        if users.pop(session.id, None) is None or users:
            return
        del self._users[port]
        self._headers.pop(port, None)
        self._places.go(port)

    def evict(self, session: Session) -> list[Session]:
        """The memory is all sessions', so they go together."""
        return list(self._users.get(session.state.port, {}).values())

    # --- what it is -----------------------------------------------------------------------------

    def fds(self, session: Session) -> list[int]:
        return native_links.side(self._places.memory(session.state.port), PROGRAM_SIDE)

    def kept(self, session: Session) -> list[int]:
        return []  # the port's fds are in its bundle

    def describe(self, session: Session, answer: Answer) -> None:
        answer.port_index = self._places.applier.port_slots.get(session.state.port, 0)
        answer.side = PROGRAM_SIDE
        answer.hdr_len = self._headers.get(session.state.port, 0)

    def mode(self, session: Session) -> str:
        bridge = self._places.applier.wanted.bridges.get(session.state.switch)
        return bridge.clients.mode if bridge is not None else "relay"

    def reading(self, session: Session) -> Reading:
        return self._places.reading(session.state.port)

    # --- virtio-net headers ---------------------------------------------------------------------

    def users(self, port: str) -> Collection[Session]:
        return self._users.get(port, {}).values()

    def header(self, port: str) -> int:
        return self._headers.get(port, 0)

    def set_header(self, port: str, hdr_len: int) -> None:
        """From the next frame on."""
        if hdr_len not in HDR_LENGTHS:
            raise RequestError(errno.EINVAL)
        self._headers[port] = hdr_len
        self._tell_header(port)
        for session in self.users(port):
            session.state = msgspec.structs.replace(session.state, hdr_len=hdr_len)

    def _tell_header(self, port: str) -> None:
        applier = self._places.applier
        if applier.in_force(port):
            with contextlib.suppress(NativeError):
                applier.engine.client_header(applier.port_slots[port], self._headers[port])


class Monitors:
    """Sessions that get copies of a port's frames: a hidden bridge of a monitor and a port."""

    name = "monitor"

    def __init__(self, places: Places, ports: Ports) -> None:
        self._places = places
        self._ports = ports

    def open(self, session: Session, request: Request) -> None:
        switch, _ = names.vale(request.name)
        self._places.admit(switch, session.uid, session.gid)
        watched = self._places.find(request.name)
        if watched is None:
            raise RequestError(errno.ENXIO)
        own = {user.uid for user in self._ports.users(watched.name)} == {session.uid}
        if not own and not self._places.is_owner(session.uid):
            raise RequestError(errno.EACCES)  # of another user's frames
        tx_rings, rx_rings = rings_of(watched) if watched.type == CLIENT else (1, 1)
        names.check_mode(request, tx_rings, rx_rings)
        session.state = msgspec.structs.replace(
            session.state,
            kind=self.name,
            switch=switch,
            port=f"{_hidden(session)}/out",
            tx_rings=1,
            rx_rings=1,
            tx_slots=names.within(request.tx_slots, names.SLOTS, names.SLOTS_MIN, names.SLOTS_MAX),
            rx_slots=names.within(request.rx_slots, names.SLOTS, names.SLOTS_MIN, names.SLOTS_MAX),
            mem_id=request.mem_id,
            extra={"port": watched.name, "direction": _direction(watched, request.flags)},
        )
        self._places.come(*_monitor_ports(session), bridge=a_switch(_hidden(session)))

    def restore(self, session: Session, fds: list[int]) -> None:
        close_all(fds)
        self._places.want(_monitor_ports(session), a_switch(_hidden(session)))

    def ready(self, session: Session) -> bool:
        if not all(self._places.ready(port.name) for port in _monitor_ports(session)):
            return False
        inode = self._places.inode(session.state.port)
        session.state = msgspec.structs.replace(session.state, memory=inode)
        return True

    def valid(self, session: Session) -> bool:
        state = session.state
        return (
            self._places.may(state.switch, session.uid, session.gid)
            and self._places.inode(state.port) == state.memory
        )

    def close(self, session: Session) -> None:
        self._places.go(*(port.name for port in _monitor_ports(session)))

    def evict(self, session: Session) -> list[Session]:
        return [session]

    def fds(self, session: Session) -> list[int]:
        return native_links.side(self._places.memory(session.state.port), PROGRAM_SIDE)

    def kept(self, session: Session) -> list[int]:
        return []

    def describe(self, session: Session, answer: Answer) -> None:
        answer.port_index = self._places.applier.port_slots.get(session.state.port, 0)
        answer.side = PROGRAM_SIDE

    def mode(self, session: Session) -> str:
        return "monitor"

    def reading(self, session: Session) -> Reading:
        return self._places.reading(session.state.port)


def _hidden(session: Session) -> str:
    """No name that a user can give a bridge or port."""
    return f"monitor:{session.id}"


def _direction(watched: WirePort, flags: int) -> str:
    """As the switch sees it: what a program sends is what the switch receives. Other ports' sides
    are those of a NIC."""
    if flags & names.MONITOR == names.MONITOR:
        return "both"
    received = bool(flags & wire.MONITOR_RX)
    return "rx" if received != (watched.type == CLIENT) else "tx"


def _monitor_ports(session: Session) -> tuple[WirePort, WirePort]:
    hidden = _hidden(session)
    extra = session.state.extra
    options = {"port": extra.get("port", ""), "direction": extra.get("direction", "both")}
    return (
        a_port(f"{hidden}/in", "monitor", hidden, options),
        a_client_port(f"{hidden}/out", hidden, 1, 1),
    )
