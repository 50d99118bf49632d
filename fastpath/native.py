"""Typed face of the C half: the engine, the port types, the sandbox.

Nothing but this module and native_rules.py touches ``fastpath._native``. C failures become
:class:`NativeError` with the stable API code where C gave one ("IFACE_NOT_FOUND"), else the
errno's name ("EBUSY").
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastpath._native import ffi, lib
from fastpath.protocol import WireBridge, WirePort
from fastpath.readings import (
    Counters,
    FdbEntry,
    PortStatus,
    WorkerCounters,
)

PORT_FDS_MAX: int = lib.PORT_FDS_MAX
NO_BRIDGE: int = lib.ENGINE_NO_BRIDGE
ANY = 0xFFFF

VLAN_MODES = {
    "access": lib.VLAN_ACCESS,
    "trunk": lib.VLAN_TRUNK,
    "native": lib.VLAN_NATIVE,
    "tunnel": lib.VLAN_TUNNEL,
}
OFFLOAD_POLICIES = {
    "carry": lib.OFFLOAD_CARRY,
    "complete": lib.OFFLOAD_COMPLETE,
    "refuse": lib.OFFLOAD_REFUSE,
}
POLLING = {
    "block": lib.PORT_POLL_BLOCK,
    "adaptive": lib.PORT_POLL_ADAPTIVE,
    "busy": lib.PORT_POLL_BUSY,
}
CAPS = {
    lib.PORT_CAP_CSUM: "csum",
    lib.PORT_CAP_TSO4: "tso4",
    lib.PORT_CAP_TSO6: "tso6",
    lib.PORT_CAP_USO: "uso",
    lib.PORT_CAP_FRAGS: "frags",
}


def _text(array: Any) -> str:
    """A NUL-terminated char array as text; kernel names may hold any byte."""
    raw: bytes = ffi.string(array)
    return raw.decode(errors="replace")


DROP_REASONS = tuple(_text(lib.drop_reason_name(reason)) for reason in range(lib.DROP_REASONS))


class NativeError(Exception):
    """A refusal of the C half: ``code`` errno, ``name`` stable, ``message`` one sentence."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name or errno.errorcode.get(code, "FAILED")
        self.message = message


def _check(rc: int, err: Any, what: str) -> None:
    if rc < 0:
        message = _text(err.message) or f"{what}: {errno.errorcode.get(-rc, str(-rc))}"
        raise NativeError(-rc, _text(err.name), message)


class _Options:
    """``struct port_options`` and everything it points to, alive as long as this object."""

    def __init__(self, port: str, options: Mapping[str, str]) -> None:
        self._alive: list[Any] = [ffi.new("char[]", port.encode())]
        items = ffi.new("struct port_option[]", max(len(options), 1))
        for item, (name, value) in zip(items, options.items(), strict=False):
            item.name = self._hold(name)
            item.value = self._hold(value)
        self._alive.append(items)
        self.pointer = ffi.new("struct port_options *")
        self.pointer.port = self._alive[0]
        self.pointer.items = items
        self.pointer.count = len(options)

    def _hold(self, text: str) -> Any:
        self._alive.append(ffi.new("char[]", text.encode()))
        return self._alive[-1]


def _port_fds(fds: Sequence[int], state: str) -> Any:
    result = ffi.new("struct port_fds *")
    if len(fds) > PORT_FDS_MAX:
        raise NativeError(errno.EINVAL, "", f"{len(fds)} fds, at most {PORT_FDS_MAX} are allowed")
    result.count = len(fds)
    for index, fd in enumerate(fds):
        result.fd[index] = fd
    raw = state.encode()
    ffi.memmove(result.state, raw, min(len(raw), ffi.sizeof(result.state) - 1))
    return result


def port_types() -> tuple[str, ...]:
    """Every driver linked in: ("af_packet", "memory", ...)."""
    names = lib.port_type_names()
    result: list[str] = []
    while names[len(result)] != ffi.NULL:
        result.append(_text(names[len(result)]))
    return tuple(result)


def port_prepare() -> None:
    """What ports need that the keeper's rights will not be enough for later."""
    lib.port_prepare()


def netmap_device_use(address: int) -> None:
    """For tests: a ``struct netmap_device`` in this process; 0: the kernel's again."""
    lib.netmap_device_use(ffi.cast("struct netmap_device *", address))


def portspec(text: str) -> dict[str, Any]:
    """What a netmap portspec says, by the names of ``struct portspec``; NativeError if it is none.

    Pure: nothing is opened.
    """
    err = ffi.new("struct error *")
    out = ffi.new("struct portspec *")
    _check(lib.portspec_parse(text.encode(), out, err), err, f"portspec {text}")
    return _fields(out[0])


def _fields(struct: Any) -> dict[str, Any]:
    """A struct of numbers, texts and such structs."""
    fields: dict[str, Any] = {}
    for name, member in ffi.typeof(struct).fields:
        value = getattr(struct, name)
        if member.type.kind == "struct":
            fields[name] = _fields(value)
        elif member.type.kind == "array":
            fields[name] = _text(value)
        elif isinstance(value, bytes):  # a char
            fields[name] = value.decode().rstrip("\0")
        else:
            fields[name] = value
    return fields


def port_acquire(type: str, port: str, options: Mapping[str, str]) -> tuple[list[int], str]:
    """Open a device (keeper). Returns its fds in the driver's order and the driver's notes."""
    err = ffi.new("struct error *")
    opened = ffi.new("struct port_fds *")
    text = _Options(port, options)
    rc = lib.port_acquire(type.encode(), text.pointer, opened, err)
    _check(rc, err, f"{type}: open {port}")
    return [opened.fd[i] for i in range(opened.count)], _text(opened.state)


def port_release(
    type: str, port: str, options: Mapping[str, str], fds: Sequence[int], state: str
) -> None:
    """Undo what closing the fds does not (keeper). The caller closes them afterwards."""
    text = _Options(port, options)  # a name of its own: it has to outlive the call
    lib.port_release(type.encode(), text.pointer, _port_fds(fds, state))


def sandbox_drop(uid: int, gid: int) -> None:
    """Give up groups, ids and capabilities for good; uid 0 keeps the ids."""
    err = ffi.new("struct error *")
    _check(lib.sandbox_drop(uid, gid, err), err, "drop privileges")


def sandbox_limit(keep: int) -> None:
    """Keep only the capabilities whose bits are set."""
    err = ffi.new("struct error *")
    _check(lib.sandbox_limit(keep, err), err, "limit capabilities")


def sandbox_enter() -> None:
    """Install the system call filter in every thread."""
    err = ffi.new("struct error *")
    _check(lib.sandbox_enter(err), err, "system call filter")


def stats_bytes(workers_max: int, ports_max: int) -> int:
    """Size of the counters' memfd."""
    return int(lib.engine_stats_bytes(workers_max, ports_max))


def fdb_bytes(entries_max: int) -> int:
    """Size of one bridge's FDB memfd."""
    return int(lib.engine_fdb_bytes(entries_max))


def _reasons(array: Any) -> dict[str, int]:
    values = ffi.unpack(array, len(DROP_REASONS))
    return {name: n for name, n in zip(DROP_REASONS, values, strict=True) if n}


def _counters(cell: Any) -> Counters:
    return Counters(
        cell.rx_frames,
        cell.rx_bytes,
        cell.tx_frames,
        cell.tx_bytes,
        cell.copies,
        cell.segments,
        cell.originated,
        cell.consumed,
        cell.kernel_drops,
        cell.learned,
        cell.moved,
        cell.zero_copy,
        _reasons(cell.rx_drops),
        _reasons(cell.tx_drops),
    )


def mac_text(raw: bytes) -> str:
    """Six lower-case pairs with colons."""
    return raw.hex(":")


def _mac(text: str) -> Any:
    return ffi.new("uint8_t[6]", bytes.fromhex(text.replace(":", "")))


@dataclass(frozen=True, slots=True)
class PlacedBridge:
    """A bridge and the slot it has in the engine."""

    slot: int
    spec: WireBridge


@dataclass(frozen=True, slots=True)
class PlacedPort:
    """A port, its slot, and the slot of its bridge (NO_BRIDGE: in none)."""

    slot: int
    spec: WirePort
    bridge: int


class Engine:
    """``struct engine``: see engine.h for the contract of every call. One thread at a time."""

    def __init__(
        self,
        *,
        ports_max: int,
        bridges_max: int,
        workers_max: int,
        stats_fd: int = -1,
        spin_us: int = 200,
        sets_max: int = 256,
        rules_max: int = 1 << 18,
        policers_max: int = 256,
        connections_max: int = 65536,
        conntrack_fd: int = -1,
    ) -> None:
        params = ffi.new("struct engine_params *")
        params.ports_max = ports_max
        params.bridges_max = bridges_max
        params.workers_max = workers_max
        params.stats_fd = stats_fd
        params.spin_us = spin_us
        params.sets_max = sets_max
        params.rules_max = rules_max
        params.policers_max = policers_max
        params.connections_max = connections_max
        params.conntrack_fd = conntrack_fd
        out = ffi.new("struct engine **")
        self._err = ffi.new("struct error *")
        self._check(lib.engine_create(params, out, self._err), "engine")
        self._engine = out[0]

    @property
    def handle(self) -> Any:
        """``struct engine *``, for the modules that call what is not called here."""
        return self._engine

    def _check(self, rc: int, what: str) -> None:
        self.check(rc, self._err, what)

    @staticmethod
    def check(rc: int, err: Any, what: str) -> None:
        """NativeError when ``rc`` is one; ``err`` can be used again."""
        try:
            _check(rc, err, what)
        finally:
            err.code = 0
            err.name[0] = b"\0"
            err.message[0] = b"\0"

    def destroy(self) -> None:
        """Stop the workers, detach all ports, free."""
        if self._engine != ffi.NULL:
            lib.engine_destroy(self._engine)
            self._engine = ffi.NULL

    def take_over(self) -> None:
        """Go on with what a dead engine left in these memories; before anything is added."""
        self._check(lib.engine_take_over(self._engine, self._err), "take over")

    def bridge_add(self, slot: int, name: str, entries_max: int, fdb_fd: int) -> None:
        rc = lib.engine_bridge_add(
            self._engine, slot, name.encode(), entries_max, fdb_fd, self._err
        )
        self._check(rc, f"bridge {name}")

    def bridge_remove(self, slot: int) -> None:
        self._check(lib.engine_bridge_remove(self._engine, slot, self._err), "remove bridge")

    def port_add(
        self,
        slot: int,
        name: str,
        type: str,
        options: Mapping[str, str],
        fds: Sequence[int],
        state: str,
    ) -> None:
        text = _Options(name, options)  # a name of its own: it has to outlive the call
        rc = lib.engine_port_add(
            self._engine,
            slot,
            name.encode(),
            type.encode(),
            text.pointer,
            _port_fds(fds, state),
            self._err,
        )
        self._check(rc, f"{type}: attach {name}")

    def port_remove(self, slot: int, *, keep_counters: bool) -> None:
        rc = lib.engine_port_remove(self._engine, slot, keep_counters, self._err)
        self._check(rc, "remove port")

    def publish(
        self, generation: int, bridges: Sequence[PlacedBridge], ports: Sequence[PlacedPort]
    ) -> None:
        """Make this the configuration; returns when no worker uses the one before."""
        bridge_array = ffi.new("struct bridge_config[]", max(len(bridges), 1))
        for into, bridge in zip(bridge_array, bridges, strict=False):
            _fill_bridge(into, bridge)
        port_array = ffi.new("struct port_config[]", max(len(ports), 1))
        for into, port in zip(port_array, ports, strict=False):
            _fill_port(into, port)
        config = ffi.new("struct engine_config *")
        config.generation = generation
        config.bridges = bridge_array
        config.bridge_count = len(bridges)
        config.ports = port_array
        config.port_count = len(ports)
        self._check(lib.engine_publish(self._engine, config, self._err), "publish")

    def quiesce(self) -> None:
        lib.engine_quiesce(self._engine)

    def tick(self) -> None:
        lib.engine_tick(self._engine)

    def port_status(self, slot: int) -> PortStatus:
        status = ffi.new("struct port_status *")
        self._check(lib.engine_port_status(self._engine, slot, status), "port status")
        mac = bytes(ffi.buffer(status.mac))
        return PortStatus(
            link_up=status.link_up,
            lost=status.lost,
            tags_unseen=status.tags_unseen,
            mtu=status.mtu,
            ifindex=status.ifindex,
            mac=mac_text(mac) if any(mac) else "",
            caps=tuple(name for bit, name in CAPS.items() if status.caps & bit),
            detail=_text(status.detail),
            rx_queues=status.rx_queues,
            tx_queues=status.tx_queues,
            mem_region=status.mem_region,
        )

    def port_counters(self, slot: int) -> Counters:
        cell = ffi.new("struct port_counters *")
        lib.engine_port_counters(self._engine, slot, cell)
        return _counters(cell)

    def queue_counters(self, slot: int, queue: int) -> tuple[Counters, WorkerCounters]:
        cell = ffi.new("struct port_counters *")
        worker = ffi.new("struct worker_counters *")
        self._check(
            lib.engine_queue_counters(self._engine, slot, queue, cell, worker), "queue counters"
        )
        return _counters(cell), WorkerCounters(worker.batches, worker.sleeps, worker.busy_ns)

    def total_counters(self) -> Counters:
        """Everything, departed ports included."""
        cell = ffi.new("struct port_counters *")
        lib.engine_total_counters(self._engine, cell)
        return _counters(cell)

    def fdb_dump(self, bridge: int, cursor: int, limit: int) -> tuple[list[FdbEntry], int]:
        """At most ``limit`` entries from table position ``cursor``; the next one, 0 at the end."""
        rows = ffi.new("struct fdb_row[]", limit)
        position = ffi.new("uint32_t *", cursor)
        count = lib.engine_fdb_dump(self._engine, bridge, position, rows, limit)
        self._check(count, "fdb dump")
        entries = [
            FdbEntry(
                mac_text(bytes(ffi.buffer(row.mac))),
                row.vid,
                row.port,
                row.is_static,
                row.age_s,
                row.moves,
            )
            for row in rows[0:count]
        ]
        return entries, int(position[0])

    def fdb_show(self, bridge: int, ports: Collection[int]) -> int:
        """Programs may see the addresses at these ports: an fd that shows them, the engine's own.

        Nobody can write through it. The same one as before while the bridge lives.
        """
        rc = lib.engine_fdb_show(
            self._engine, bridge, ffi.new("uint16_t[]", list(ports)), len(ports), self._err
        )
        self._check(rc, "fdb show")
        return int(rc)

    def pair_add(self, low: int, high: int, fd: int) -> None:
        """Book what programs of these ports send each other through this memory."""
        rc = lib.engine_pair_add(self._engine, low, high, fd, self._err)
        self._check(rc, "pair")

    def pair_remove(self, low: int, high: int) -> None:
        lib.engine_pair_remove(self._engine, low, high)

    def pairs_retain(self) -> None:
        """After a takeover: pairs that were not added again are gone."""
        lib.engine_pairs_retain(self._engine)

    def fdb_flush(self, bridge: int, port: int = ANY, vid: int = ANY) -> int:
        rc: int = lib.engine_fdb_flush(self._engine, bridge, port, vid)
        self._check(rc, "fdb flush")
        return rc

    def fdb_set_static(self, bridge: int, mac: str, vid: int, port: int) -> None:
        rc = lib.engine_fdb_set_static(self._engine, bridge, _mac(mac), vid, port, self._err)
        self._check(rc, f"static entry {mac}")

    def fdb_clear_static(self, bridge: int, mac: str, vid: int) -> None:
        rc = lib.engine_fdb_clear_static(self._engine, bridge, _mac(mac), vid, self._err)
        self._check(rc, f"static entry {mac}")

    def fdb_count(self, bridge: int) -> int:
        return int(lib.engine_fdb_count(self._engine, bridge))

    def memory_put(self, slot: int, frame: bytes, queue: int = 0) -> bool:
        """Put a frame into a memory port from its far end; False: the ring is full."""
        rc = lib.engine_memory_put(self._engine, slot, queue, frame, len(frame))
        if rc == -errno.EAGAIN:
            return False
        self._check(rc, "memory put")
        return True

    def memory_take(self, slot: int, queue: int = 0) -> bytes | None:
        """Take a frame the switch sent to a memory port; None: there is none."""
        room = ffi.new("uint8_t[]", 65554)
        rc = lib.engine_memory_take(self._engine, slot, queue, room, len(room))
        if rc == -errno.EAGAIN:
            return None
        self._check(rc, "memory take")
        return bytes(ffi.buffer(room, rc))

    def client_header(self, slot: int, hdr_len: int) -> None:
        """Bytes of the virtio-net header of a client port's program: 0, 10 or 12."""
        rc = lib.engine_client_header(self._engine, slot, hdr_len, self._err)
        self._check(rc, "virtio-net header")


def _fill_bridge(into: Any, bridge: PlacedBridge) -> None:
    spec = bridge.spec
    into.id = bridge.slot
    into.vlan_filtering = spec.vlan_filtering
    into.learning = spec.learning
    into.flood_unknown_unicast = spec.flood_unknown_unicast
    into.flood_multicast = spec.flood_multicast
    into.flood_broadcast = spec.flood_broadcast
    into.reserved_forward = spec.reserved_forward
    into.ageing_s = spec.ageing_s
    into.mtu = spec.mtu


def _fill_port(into: Any, port: PlacedPort) -> None:
    spec = port.spec
    into.id = port.slot
    into.bridge = port.bridge
    into.admin_up = spec.admin_up
    into.learning = spec.learning
    into.flood = spec.flood
    into.isolation_group = spec.isolation_group
    into.vlan_mode = VLAN_MODES[spec.vlan_mode]
    into.offload_policy = OFFLOAD_POLICIES[spec.offload_policy]
    into.polling = POLLING[spec.polling]
    into.pvid = spec.pvid
    into.cpu_count = len(spec.cpus)
    for queue, cpu in enumerate(spec.cpus):
        into.cpus[queue] = cpu
    for first, last in spec.tagged:
        for vid in range(first, last + 1):
            into.tagged[vid // 64] |= 1 << (vid % 64)
