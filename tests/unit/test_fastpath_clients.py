"""Netmap programs' sessions over a real engine in this process. No root, no keeper process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath.regions import make_region
from tests.support.fastpath import Client
from tests.support.forwarder import Forwarder
from tests.support.netmap_program import Program
from tests.support.topology import wait_until


@pytest.fixture
def forwarder(tmp_path: Path) -> Iterator[Forwarder]:
    fd = make_region("test", 1 << 22)
    running = Forwarder(tmp_path / "f.sock", fd)
    yield running
    running.close()
    os.close(fd)


@pytest.fixture
def client(forwarder: Forwarder) -> Iterator[Client]:
    with Client(forwarder.path) as connected:
        yield connected


def frame(dst: int, src: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xB5]) + bytes(46)


def receive(program: Program) -> bytes:
    got: list[bytes] = []

    def taken() -> bool:
        one = program.receive()
        if one is not None:
            got.append(one)
        return bool(got)

    wait_until(taken, 5, "a frame arrives")
    return got[0]


def test_two_programs_exchange_frames(forwarder: Forwarder, client: Client) -> None:
    with Program(forwarder.netmap_path) as a, Program(forwarder.netmap_path) as b:
        first, second = a.register("vale0:a"), b.register("vale0:b")
        assert (first.error, second.error) == (0, 0)
        assert a.send(frame(2, 1))
        assert receive(b) == frame(2, 1)
        assert b.send(frame(1, 2))
        assert receive(a) == frame(1, 2)
        assert client.check_ledger().rx_frames == 2
    wait_until(lambda: not forwarder.applier.locals.ports, 5, "the ports go")
    assert not forwarder.applier.locals.bridges
