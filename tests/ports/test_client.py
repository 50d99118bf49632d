"""Client ports beyond what every port type does: virtio-net headers, what a program may write into
its memory, and how the two sides wake each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests.support import offload
from tests.support.client_rig import (
    COMMITTED,
    CONSUMER_WAITS,
    HEAD,
    NO_LEARN,
    PRODUCER_WAITS,
    TAIL,
    ClientRig,
    Program,
)
from tests.support.offload import Offload
from tests.support.rigs import frame
from tests.support.switch import NativeError, Switch, acquire
from tests.support.topology import wait_until


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ClientRig]:
    with contextlib.closing(ClientRig(tmp_path)) as rig:
        yield rig


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


def program_of(rig: ClientRig) -> Program:
    assert rig.program is not None
    return rig.program


def gso_frame() -> tuple[bytes, Offload]:
    """4,000 bytes of TCP to be cut at 1,000, checksums to be filled in."""
    head = Ether(dst="02:00:00:fd:00:02", src="02:00:00:fd:00:01") / IP(
        src="192.0.2.1", dst="192.0.2.2"
    )
    data = bytes(head / TCP(sport=1, dport=2, flags="A") / bytes(4000))
    wanted = Offload(
        flags=offload.CSUM_NEEDED,
        gso_type=offload.TCPV4,
        hdr_len=54,
        gso_size=1000,
        csum_start=34,
        csum_offset=16,
    )
    return data, wanted


@pytest.mark.parametrize("hdr_len", [0, 10, 12])
def test_virtio_net_header(hdr_len: int, rig: ClientRig, switch: Switch, tmp_path: Path) -> None:
    """A program with a header gets unfinished frames as they are, one without finished ones; the
    length may change while frames flow."""
    sender = switch.attach(acquire("sender", "client"))
    switch.attach(rig.open())
    switch.engine.client_header(sender.slot, 12)
    for length in (12, hdr_len):
        switch.engine.client_header(rig.port.slot, length)
    data, state = gso_frame()
    with contextlib.closing(Program(sender.fds)) as program:
        assert program.outboxes[0].put(data, vnet=state.pack())
        program.ring(0)
        wait_until(lambda: program.outboxes[0].drained, 10, "the switch takes it")
    switch.settle()
    inbox = program_of(rig).inboxes[0]
    received = []
    while (taken := inbox.take()) is not None:
        received.append(taken)
    if hdr_len:
        assert [(f, vnet and vnet[:10]) for f, _, vnet in received] == [(data, state.pack())]
    else:
        expected = [s.data for s in offload.cut(data, state, 0)]
        assert [f for f, _, _ in received] == expected
        assert len(expected) == 4
    detail = switch.status(rig.port).detail
    assert (f"header of {hdr_len} bytes" in detail) == bool(hdr_len)


def test_headers_that_are_none(rig: ClientRig, switch: Switch) -> None:
    attached = switch.attach(rig.open())
    memory = switch.add("m", "memory")
    for slot, length in ((attached.slot, 11), (memory.slot, 12), (31, 12)):
        with pytest.raises(NativeError):
            switch.engine.client_header(slot, length)
    assert "header" not in switch.status(attached).detail


def test_no_learn(rig: ClientRig, switch: Switch) -> None:
    switch.attach(rig.open())
    inside = switch.add("inside", "memory")
    assert program_of(rig).outboxes[0].put(frame(1), flags=NO_LEARN)
    program_of(rig).ring(0)
    assert switch.take(inside, 1) == [frame(1)]
    switch.settle()
    assert switch.counters(rig.port).learned == 0
    rig.send(switch, [frame(2)])
    switch.settle()
    assert switch.counters(rig.port).learned == 1


@pytest.mark.parametrize("where", [TAIL, "record"])
@pytest.mark.parametrize("value", [3, 1 << 40, (1 << 64) - 8])
def test_nonsense_of_a_program(
    where: int | str, value: int, rig: ClientRig, switch: Switch
) -> None:
    """Counted as malformed; what is sent properly afterwards is forwarded, and nobody else is
    disturbed."""
    switch.attach(rig.open())
    other = switch.add("other", "memory")
    inside = switch.add("inside", "memory")
    switch.send(inside, [frame(1, source=2, to=2)])
    lane = program_of(rig).outboxes[0]
    tail = lane.word(TAIL)
    if where == "record":
        lane.write(tail, value.to_bytes(8, "little"))
        lane.set_word(TAIL, tail + 8)
    else:
        lane.set_word(TAIL, tail + value)
    program_of(rig).ring(0)
    malformed = {"malformed": 1}
    wait_until(lambda: switch.counters(rig.port).rx_drops == malformed, 10, "it is counted")
    wait_until(lambda: lane.drained or lane.word(TAIL) % 8 != 0, 10, "the lane is empty")
    lane.set_word(TAIL, lane.word(HEAD))
    rig.send(switch, [frame(n) for n in range(100)])
    switch.send(other, [frame(500, source=3)])
    frames = switch.take(inside, 101)
    assert [f for f in frames if f != frame(500, source=3)] == [frame(n) for n in range(100)]
    switch.settle()
    assert switch.counters(rig.port).rx_drops == malformed


def test_bells(rig: ClientRig, switch: Switch) -> None:
    """Who sleeps is rung, once; who does not is left alone."""
    switch.attach(rig.open())
    inside = switch.add("inside", "memory")
    program = program_of(rig)
    inbox, outbox = program.inboxes[0], program.outboxes[0]
    switch.send(inside, [frame(1, source=2, to=1)] * 3)
    assert len(rig.receive(switch, 3)) == 3
    assert not program.rung(0), "nobody slept"
    inbox.set_waits(CONSUMER_WAITS, 1)
    switch.send(inside, [frame(1, source=2, to=1)] * 100)
    assert len(rig.receive(switch, 100)) == 100
    wait_until(lambda: program.rung(0), 10, "the program is woken")
    assert inbox.waits(CONSUMER_WAITS) == 0
    assert not program.rung(0), "once"

    wait_until(lambda: outbox.waits(CONSUMER_WAITS) == 1, 10, "the worker sleeps")
    outbox.set_waits(PRODUCER_WAITS, 1)
    rig.send(switch, [frame(2)])
    assert switch.take(inside, 1) == [frame(2)]
    wait_until(lambda: program.rung(0), 10, "the program learns that there is room")
    assert outbox.word(COMMITTED) == outbox.word(HEAD)


def test_descriptors(rig: ClientRig) -> None:
    """The memory cannot be cut short; every ring pair has a bell, and the program its end."""
    attached = rig.open({"tx_rings": "3", "rx_rings": "2"})
    assert len(attached.fds) == 1 + 2 * 3
    with pytest.raises(PermissionError):
        os.ftruncate(attached.fds[0], 4096)
    program = program_of(rig)
    assert (len(program.outboxes), len(program.inboxes), len(program.bells)) == (3, 2, 3)
    Switch.release(attached)


@pytest.mark.parametrize(
    "options",
    [{"tx_rings": "0"}, {"rx_rings": "17"}, {"inbox_bytes": "300000"}, {"outbox_bytes": "4096"}],
)
def test_options_that_are_none(options: dict[str, str]) -> None:
    with pytest.raises(NativeError):
        acquire("p", "client", options)
