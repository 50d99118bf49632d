"""The control plane dies, or everything does: no frame is lost by the first, no configuration by
the second.

     host 0 ---- p0 [ the whole appliance ] p1 ---- host 1
     gen  50,000 frames/s  ------------------->     sink
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.appliance import PROCESSES, Appliance
from tests.support.probes import Generator, Load, Passage, Sink, passage, teach
from tests.support.topology import Topology, wait_until

RATE = 50_000
KILLS = 3


def _kernel_drops(switch: Appliance) -> int:
    """Frames the kernel's receive rings had no room for, which no switch ever saw."""
    return sum(int(stats["kernel_drops"]) for stats in switch.port_stats().values())


def _run(
    net: Topology, switch: Appliance, load: Load, meanwhile: Callable[[], None] | None = None
) -> tuple[Passage, int]:
    """Sends load and returns what came of it, and how many frames only the switch can have lost.

    The load ends as soon as meanwhile() has returned.
    """
    teach(net, load)
    before = _kernel_drops(switch)
    sink = Sink(net, 1, stream=load.stream, idle_ms=1000, gap_ms=20)
    gen = Generator(net, 0, load)
    if meanwhile is not None:
        meanwhile()
        assert gen.process.poll() is None, "the load ended before the last kill"
        gen.process.terminate()
    result = Passage(gen.result(), sink.result())
    wait_until(switch.ready, 20, "the control plane answers")
    drops = _kernel_drops(switch) - before
    return result, result.lost - drops - int(result.sink["ring_drops"])


@pytest.mark.root
def test_no_frame_is_lost_when_the_control_plane_is_killed() -> None:
    with Topology() as net, Appliance(net, net.switch) as switch:
        switch.bridge("br0", *net.switch_ifs)
        forwarder = switch.pid("forwarder")
        arrived = net.counter(net.hosts[1], net.host_ifs[1], "rx_packets")

        def flowing() -> bool:
            return net.counter(net.hosts[1], net.host_ifs[1], "rx_packets") > arrived + RATE // 10

        def kill_often() -> None:
            wait_until(flowing, 10, "frames arrive")
            for _ in range(KILLS):
                old = switch.kill("control")
                switch.wait_replaced("control", old)
            wait_until(switch.ready, 20, "the control plane answers again")

        load = Load(rate=RATE, seconds=50, macs=100, stream=1)
        killed, killed_lost = _run(net, switch, load, kill_often)
        twin = replace(load, seconds=float(killed.gen["seconds"]), stream=2)
        quiet, quiet_lost = _run(net, switch, twin)

        for run in (killed, quiet):
            assert run.gen["frames_per_s"] >= RATE * 0.9, "the machine was too slow for the load"
            assert run.sink["duplicates"] == 0
            assert run.sink["reordered"] == 0
        assert killed_lost <= max(0, quiet_lost), f"{killed} against {quiet}"
        assert switch.pid("forwarder") == forwarder
        switch.wait_ports("p0", "p1")
        switch.check_ledger()


def _configuration(switch: Appliance) -> dict[str, Any]:
    """Everything a client can see that must not depend on which process answers."""
    seen: dict[str, Any] = {}
    for kind in ("bridges", "ports"):
        for item in switch.call("GET", f"/{kind}")["items"]:
            status = item.pop("status")
            conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
            seen[f"{kind}/{item['name']}"] = (item, conditions)
    for bridge in switch.call("GET", "/bridges")["items"]:
        rows = switch.call("GET", f"/bridges/{bridge['name']}/fdb")["items"]
        seen[f"static/{bridge['name']}"] = sorted(
            (row["mac"], row["vlan"], row["port"]) for row in rows if row["static"]
        )
    return seen


@pytest.mark.root
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_everything_ends_and_starts_with_the_same_configuration(how: str) -> None:
    with Topology() as net, Appliance(net, net.switch) as switch:
        p0, p1 = switch.bridge("br0", *net.switch_ifs)
        switch.put_bridge("br1", vlan_filtering=True)
        switch.put_port("m0", "br1", {"type": "memory"}, vlan={"mode": "access", "pvid": 7})
        switch.put_port("m1", "br1", {"type": "memory"}, vlan={"mode": "trunk", "tagged": ["7"]})
        switch.call("PUT", "/bridges/br0/fdb/02:00:00:00:00:99", {"spec": {"port": p1}})
        switch.wait_ports(p0, p1)
        before = _configuration(switch)

        if how == "killed":
            for name in ("serve", *PROCESSES):
                switch.kill(name)
        switch.stop()
        assert all(switch.pid(name) is None for name in PROCESSES)
        switch.start()

        switch.wait_ports(p0, p1)
        assert _configuration(switch) == before
        load = Load(frames=1000, rate=20_000, stream=9)
        teach(net, load)
        assert passage(net, load).lost == 0
        switch.check_ledger()
