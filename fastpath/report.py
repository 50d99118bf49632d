"""What the forwarder tells about itself: counters, port and bridge states, FDB rows."""

from __future__ import annotations

from collections.abc import Mapping

from fastpath.apply import Applier
from fastpath.native import ANY, NativeError
from fastpath.protocol import (
    BridgeState,
    Fdb,
    FdbRow,
    Ledger,
    Outcome,
    PortState,
    PortStats,
    QueueStats,
    Stats,
    WirePort,
)
from fastpath.readings import Counters

FDB_ROWS_MAX = 8192
OFFLOAD_DROPS = ("offload_refused", "offload_invalid")


def merged(*drops: Mapping[str, int]) -> dict[str, int]:
    """Sum by reason."""
    total: dict[str, int] = {}
    for part in drops:
        for reason, frames in part.items():
            total[reason] = total.get(reason, 0) + frames
    return total


def stats(applier: Applier, id: int) -> Stats:
    """Counters of every port that has a number, and the ledger."""
    ports = tuple(
        _port_stats(applier, name, slot) for name, slot in sorted(applier.port_slots.items())
    )
    return Stats(id, ports, ledger(applier.engine.total_counters()))


def ledger(total: Counters) -> Ledger:
    """The switch-wide equation; ``in_flight`` is what is left of it."""
    drops = sum(total.rx_drops.values()) + sum(total.tx_drops.values())
    came = total.rx_frames + total.copies + total.segments + total.originated
    return Ledger(
        rx_frames=total.rx_frames,
        copies=total.copies,
        segments=total.segments,
        originated=total.originated,
        tx_frames=total.tx_frames,
        drops=drops,
        consumed=total.consumed,
        in_flight=came - total.tx_frames - drops - total.consumed,
    )


def _port_stats(applier: Applier, name: str, slot: int) -> PortStats:
    sums = applier.engine.port_counters(slot)
    return PortStats(
        name=name,
        rx_frames=sums.rx_frames,
        rx_bytes=sums.rx_bytes,
        tx_frames=sums.tx_frames,
        tx_bytes=sums.tx_bytes,
        rx_drops=sums.rx_drops,
        tx_drops=sums.tx_drops,
        copies=sums.copies,
        segments=sums.segments,
        originated=sums.originated,
        consumed=sums.consumed,
        kernel_drops=sums.kernel_drops,
        learned=sums.learned,
        moved=sums.moved,
        queues=_queue_stats(applier, name, slot),
        zero_copy_frames=sums.zero_copy,
    )


def _queue_stats(applier: Applier, name: str, slot: int) -> tuple[QueueStats, ...]:
    status = applier.status(name)
    port = applier.wanted.ports.get(name)
    queues = []
    for queue in range(status.rx_queues if status else 0):
        try:
            cell, worker = applier.engine.queue_counters(slot, queue)
        except NativeError:
            break  # not published yet: nobody serves it
        cpu = port.cpus[queue % len(port.cpus)] if port and port.cpus else -1
        queues.append(
            QueueStats(
                id=queue,
                thread=f"{name}/{queue}",
                cpu=cpu,
                rx_frames=cell.rx_frames,
                rx_bytes=cell.rx_bytes,
                tx_frames=cell.tx_frames,
                tx_bytes=cell.tx_bytes,
                drops=merged(cell.rx_drops, cell.tx_drops),
                batches=worker.batches,
                sleeps=worker.sleeps,
                busy_ns=worker.busy_ns,
            )
        )
    return tuple(queues)


def bridge_states(applier: Applier) -> tuple[BridgeState, ...]:
    """Every wanted bridge, in force or not."""
    return tuple(
        BridgeState(
            name,
            applier.outcomes.get(f"bridge/{name}"),
            applier.engine.fdb_count(applier.bridge_slots[name])
            if name in applier.tables.live
            else 0,
        )
        for name in _names(applier, "bridge")
    )


def port_states(applier: Applier, links: Mapping[int, str]) -> tuple[PortState, ...]:
    """Every wanted port. ``links``: names of the kernel's interfaces by index."""
    return tuple(_port_state(applier, name, links) for name in _names(applier, "port"))


def outcome(applier: Applier, key: str) -> Outcome:
    """Of any object."""
    kind, _, name = key.partition("/")
    return port_outcome(applier, name) if kind == "port" else applier.outcomes.get(key)


def port_outcome(applier: Applier, name: str) -> Outcome:
    """A port whose device is still being opened is not in force, though nothing failed."""
    outcome = applier.outcomes.get(f"port/{name}")
    if outcome.ok and name not in applier.attached:
        return Outcome("PENDING", "the keeper is opening the device")
    return outcome


def _names(applier: Applier, kind: str) -> list[str]:
    prefix = f"{kind}/"
    return [key.removeprefix(prefix) for key in applier.switch if key.startswith(prefix)]


def _port_state(applier: Applier, name: str, links: Mapping[int, str]) -> PortState:
    outcome = port_outcome(applier, name)
    status = applier.status(name)
    if status is None:
        return PortState(
            name=name,
            outcome=outcome,
            link_up=False,
            lost=name in applier.lost,
            mtu=0,
            ifindex=0,
            mac="",
            caps=(),
            detail="",
            device="",
            rx_queues=0,
            tx_queues=0,
            offloads_ok=True,
            offloads_message="",
        )
    device = links.get(status.ifindex, "")
    message = _tags(device) if status.tags_unseen else _offloads(applier, name, links)
    return PortState(
        name=name,
        outcome=outcome,
        link_up=status.link_up,
        lost=status.lost or name in applier.lost,
        mtu=status.mtu,
        ifindex=status.ifindex,
        mac=status.mac,
        caps=status.caps,
        detail=status.detail,
        device=device,
        rx_queues=status.rx_queues,
        tx_queues=status.tx_queues,
        mem_region=status.mem_region,
        offloads_ok=not message,
        offloads_message=message,
    )


def _tags(device: str) -> str:
    """Frames would come out of their VLAN."""
    return (
        f"a VLAN tag that a sender or {device} itself keeps beside a frame is lost, for this "
        f"kernel or driver does not tell it: ethtool -K {device} rxvlan off; where it is an end "
        "of a pair, txvlan off and tx-vlan-stag-hw-insert off at the other end"
    )


def _offloads(applier: Applier, name: str, links: Mapping[int, str]) -> str:
    """Unfinished frames were dropped on their way out here: where they come from, and the cure."""
    drops = applier.engine.port_counters(applier.port_slots[name]).tx_drops
    frames = sum(drops.get(reason, 0) for reason in OFFLOAD_DROPS)
    port = applier.wanted.ports.get(name)
    if not frames or port is None:
        return ""
    sources = ", ".join(
        f"ethtool -K {links[status.ifindex]} tx off tso off gso off"
        for other in _neighbours(applier, port)
        if (status := applier.status(other)) is not None and status.ifindex in links
    )
    cure = f"; on the ports that send them: {sources}" if sources else ""
    return f"{frames} frames with unfinished checksums or segmentation were dropped{cure}"


def _neighbours(applier: Applier, port: WirePort) -> list[str]:
    return [
        other.name
        for other in applier.wanted.ports.values()
        if other.bridge == port.bridge and other.name != port.name and other.bridge is not None
    ]


def fdb(applier: Applier, id: int, bridge: str, cursor: int, limit: int) -> Fdb:
    """Rows from table position ``cursor``; KeyError when the bridge is not in force."""
    if bridge not in applier.tables.live:
        raise KeyError(bridge)
    limit = max(1, min(limit, FDB_ROWS_MAX))
    entries, after = applier.engine.fdb_dump(applier.bridge_slots[bridge], cursor, limit)
    names = {slot: name for name, slot in applier.port_slots.items()}
    rows = tuple(
        FdbRow(e.mac, e.vid, names.get(e.port, ""), e.static, e.age_s, e.moves) for e in entries
    )
    return Fdb(id, rows, after)


def flush(applier: Applier, bridge: str, port: str | None, vid: int | None) -> int:
    """Entries removed; KeyError when the bridge or port is not in force."""
    if bridge not in applier.tables.live:
        raise KeyError(bridge)
    slot = ANY if port is None else applier.port_slots[port]
    return applier.engine.fdb_flush(applier.bridge_slots[bridge], slot, ANY if vid is None else vid)
