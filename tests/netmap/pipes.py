"""N10, N11: pipes, monitors, and a forwarder that is killed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.netmap.report import Check
from tests.netmap.rings import Client
from tests.netmap.world import ETHERTYPE, World, carry, netmap, numbered
from tests.support.topology import wait_until

MILLION = 1_000_000
KILLS = 3


def pipe(world: World) -> str:
    """A million frames from one pipe to another: a full pipe waits, so none is lost."""

    def run() -> tuple[int, float]:
        with Client("vale5:a}in") as source, Client("vale5:a}out") as sink:
            frames = [numbered(i, 60 + i % 1400) for i in range(2000)]
            carry(source.send, lambda: [f for f, _ in sink.receive(0)], frames)
            return _flood(source, sink, MILLION)

    with world.bridge("br0", p0=netmap("vale5:a{in"), p1=netmap("vale5:a{out")):
        count, seconds = world.here(run)
        stats = world.switch.port_stats()
        ledger = world.switch.check_ledger()
    assert count == MILLION, f"{MILLION - count} of {MILLION} lost: {stats}"
    assert ledger["drops"] == 0, ledger
    return f"{count} frames in {seconds:.0f} s, 0 lost"


def _flood(source: Client, sink: Client, total: int) -> tuple[int, float]:
    """As fast as there is room; counts what comes out."""
    header = numbered(0)[:14]
    began = time.monotonic()
    sent = came = 0
    last = began
    while came < total:
        sent += source.again(header, min(total - sent, 1000))
        sink.rxsync()
        arrived = sum(ring.drop()[0] for ring in sink.rx)
        came += arrived
        if arrived:
            last = time.monotonic()
        elif time.monotonic() - last > 30:
            break
        else:
            time.sleep(0.0005)
    return came, time.monotonic() - began


def monitors(world: World) -> str:
    """What a port receives and sends is seen by monitor ports, copied or not."""
    said = []
    for flags in ("r", "t", "rt", "rtz"):
        ports = {"p0": world.portspec(0), "p1": world.portspec(1)}
        if "z" in flags:
            # it sees a slot when its owner is done with it: not what came, if buffers are exchanged
            ports["p1"] = {"type": "af_packet", "ifname": world.net.switch_ifs[1]}
        with world.bridge("br0", **ports), world.wire(0, 1, 2) as (one, two, watch):
            world.switch.wait_ports("p0", "p1", timeout_s=60)
            copies = {
                "m0": world.portspec(0, f"/{flags}"),
                "m1": {"type": "af_packet", "ifname": world.net.switch_ifs[2]},
            }
            with world.bridge("mon", {"fdb": {"learning": False}}, **copies):
                out = [numbered(i, 60 + i) for i in range(200)]
                back = [numbered(i, 60 + i, source=2, to=1) for i in range(200)]
                carry(one.send_all, two.receive, out)
                carry(two.send_all, one.receive, back)
                want = (out if "r" in flags else []) + (back if "t" in flags else [])
                seen: list[bytes] = []

                deadline = time.monotonic() + 30
                while len(seen) < len(want) and time.monotonic() < deadline:
                    # without copies a slot is seen when its owner is done with it: by later ones
                    one.send(_other(1, 2))
                    two.send(_other(2, 1))
                    time.sleep(0.05)
                    seen += [f for f in watch.receive() if f[12:14] == ETHERTYPE]
                assert sorted(seen) == sorted(want), f"/{flags}: {len(seen)} of {len(want)}"
                said.append(f"/{flags} {len(seen)}")
    return ", ".join(said) + " copies, as many as frames"


def _other(source: int, to: int) -> bytes:
    """A frame that is not counted."""
    frame = numbered(0, source=source, to=to)
    return frame[:12] + b"\x88\xb6" + frame[14:]


def killed(world: World) -> str:
    """Forwarders die under traffic; the rings are the kernel's, the next one goes on in them."""
    total = 3000
    frames = [numbered(i, 60 + i % 500) for i in range(total)]
    ports = {"p0": world.portspec(0), "p1": world.portspec(1)}
    with world.bridge("br0", **ports), world.wire(0, 1) as (one, two):
        world.switch.wait_ports("p0", "p1", timeout_s=60)
        carry(one.send_all, two.receive, [numbered(0)])
        carry(two.send_all, one.receive, [numbered(0, source=2, to=1)])
        came: list[bytes] = []
        with Paced(one.send, frames, 100) as sender:
            for kill in range(KILLS):
                wait_until(lambda kill=kill: sender.sent > total * kill // KILLS, 60, "traffic")  # type: ignore[misc]
                old = world.switch.kill("forwarder")
                world.switch.wait_replaced("forwarder", old, 60)
                came += two.receive()
            sender.join()
        deadline = time.monotonic() + 20
        while len(set(came)) < total and time.monotonic() < deadline:
            came += [f for f in two.receive() if f[12:14] == ETHERTYPE]
            time.sleep(0.05)
        ledger = world.switch.check_ledger(timeout_s=20)
    own = [f for f in came if f[12:14] == ETHERTYPE]
    lost, twice = total - len(set(own)), len(own) - len(set(own))
    assert (lost, twice) == (0, 0), f"{lost} lost, {twice} twice of {total}: {ledger}"
    return f"{KILLS} kills, {total} frames, {lost} lost, {twice} twice"


class Paced(threading.Thread):
    """Sends frames at a rate; `sent` tells how many so far."""

    def __init__(
        self, send: Callable[[bytes], None], frames: list[bytes], frames_per_s: float
    ) -> None:
        super().__init__()
        self.sent = 0
        self._send, self._frames, self._pause_s = send, frames, 1 / frames_per_s

    def run(self) -> None:
        begin = time.monotonic()
        for number, frame in enumerate(self._frames):
            time.sleep(max(0.0, begin + number * self._pause_s - time.monotonic()))
            self._send(frame)
            self.sent += 1

    def __enter__(self) -> Paced:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()


CHECKS = (
    Check("N10", "a million frames through pipes, none lost", pipe),
    Check("N11", "monitors of what is received and sent", monitors),
    Check("kill", "the forwarder killed under traffic on netmap ports", killed),
)
