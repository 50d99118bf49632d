"""Interfaces that go, come back, are renamed or made by us; and a thousand changes without a leak.

host 0 ══ veth ══ p0 [br0] p1 ══ veth ══ host 1
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from fastpath import protocol as wire
from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.probes import Load, passage, teach, tool
from tests.support.topology import CommandError, Topology, remove_netns, run, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as topology:
        yield topology


@pytest.fixture
def client(path: FastPath) -> Iterator[Client]:
    with path.client() as connected:
        yield connected


def packet_port(name: str, ifname: str) -> wire.WirePort:
    return port(name, "af_packet", "br0", options={"ifname": ifname})


def both(net: Topology) -> list[wire.WireObject]:
    return [bridge("br0"), *(packet_port(f"p{i}", name) for i, name in enumerate(net.switch_ifs))]


def exists(netns: str, ifname: str) -> bool:
    try:
        run("ip", "-n", netns, "link", "show", ifname)
    except CommandError:
        return False
    return True


def frames_pass(net: Topology) -> None:
    load = Load(rate=5000, seconds=0.5)
    teach(net, load)
    assert passage(net, load).lost == 0


# --- interfaces of others -----------------------------------------------------------------------


def test_an_interface_that_is_made_later_is_found(net: Topology, client: Client) -> None:
    late = f"{net.prefix}l"
    ack = client.apply(
        [bridge("br0"), packet_port("p0", net.switch_ifs[0]), packet_port("p9", late)]
    )
    assert ack.outcomes["port/p0"].ok
    assert ack.outcomes["port/p9"].code == "IFACE_NOT_FOUND"
    assert not ack.outcomes["port/p9"].ok
    run("ip", "-n", net.switch, "link", "add", late, "type", "veth", "peer", "name", f"{late}x")
    client.wait_ready("p9")
    assert client.port("p9").device == late
    client.check_ledger()


def test_deleted_and_made_again(net: Topology, client: Client) -> None:
    assert all(outcome.ok for outcome in client.apply(both(net)).outcomes.values())
    frames_pass(net)
    before = client.port("p0")
    counted = client.stats().ports[0].rx_frames
    run("ip", "-n", net.switch, "link", "delete", net.switch_ifs[0])
    wait_until(lambda: client.port("p0").lost, 5, "the port is lost")
    state = client.port("p0")
    assert state.outcome.code in ("IFACE_LOST", "IFACE_NOT_FOUND")
    assert client.port("p1").outcome.ok
    ours, theirs = net.switch_ifs[0], net.host_ifs[0]
    run(
        *("ip", "-n", net.switch, "link", "add", ours, "type", "veth"),
        *("peer", "name", theirs, "netns", net.hosts[0]),
    )
    run("ip", "-n", net.switch, "link", "set", ours, "up")
    run("ip", "-n", net.hosts[0], "link", "set", theirs, "up")
    client.wait_ready("p0")
    after = client.port("p0")
    assert not after.lost
    assert after.ifindex != before.ifindex
    wait_until(lambda: client.port("p0").link_up, 5, "the link is up")
    frames_pass(net)
    assert client.stats().ports[0].rx_frames > counted  # the same port, so the same counters
    client.check_ledger()


def test_down_up_renamed_and_another_mtu(net: Topology, client: Client) -> None:
    client.apply(both(net))
    ifname, renamed = net.switch_ifs[0], f"{net.prefix}r"
    ifindex = client.port("p0").ifindex
    run("ip", "-n", net.switch, "link", "set", ifname, "down")
    wait_until(lambda: not client.port("p0").link_up, 5, "the link is down")
    run("ip", "-n", net.switch, "link", "set", ifname, "name", renamed)
    run("ip", "-n", net.switch, "link", "set", renamed, "mtu", "1400")
    run("ip", "-n", net.switch, "link", "set", renamed, "up")
    wait_until(lambda: client.port("p0").link_up, 5, "the link is up")
    wait_until(lambda: client.port("p0").mtu == 1400, 5, "the MTU is known")
    wait_until(lambda: client.port("p0").device == renamed, 5, "the new name is known")
    state = client.port("p0")
    assert (state.ifindex, state.lost, state.outcome.ok) == (ifindex, False, True)
    frames_pass(net)
    client.check_ledger()
    assert any(event.kind == "link" and event.object == "port/p0" for event in client.events)


def test_options_change_under_the_same_name(net: Topology, client: Client) -> None:
    client.apply(both(net))
    frames_pass(net)
    counted = {p.name: p.rx_frames for p in client.stats().ports}
    changed = port(
        "p0",
        "af_packet",
        "br0",
        options={"ifname": net.switch_ifs[0], "optimize_for": "throughput"},
    )
    assert client.apply([changed]).outcomes["port/p0"].ok
    frames_pass(net)
    assert client.stats().ports[0].rx_frames > counted["p0"]
    client.check_ledger()


# --- veth pairs that we make --------------------------------------------------------------------


def veth(net: Topology, netns: str) -> wire.WirePort:
    options = {"name": f"{net.prefix}v", "peer": "eth7", "netns": netns}
    return port("v", "veth", "br0", options=options)


def test_a_pair_is_made_and_removed(net: Topology, path: FastPath, client: Client) -> None:
    host = net.hosts[0]
    ack = client.apply([*both(net), veth(net, host)])
    assert ack.outcomes["port/v"].ok, ack.outcomes
    assert exists(host, "eth7")
    assert client.port("v").device == f"{net.prefix}v"
    run("ip", "-n", host, "link", "set", "eth7", "up")
    wait_until(lambda: client.port("v").link_up, 5, "the link is up")
    client.apply(deletes=["port/v"])
    wait_until(lambda: not exists(net.switch, f"{net.prefix}v"), 5, "the pair is removed")
    assert not exists(host, "eth7")
    client.apply([veth(net, host)])
    path.stop()
    assert not exists(net.switch, f"{net.prefix}v")


def test_a_pair_outlives_forwarder_and_keeper(
    net: Topology, path: FastPath, client: Client
) -> None:
    client.apply([*both(net), veth(net, net.hosts[0])])
    ifindex = client.port("v").ifindex
    path.wait_standby()
    path.wait_replaced(path.kill_forwarder())
    path.kill_keeper()
    path.start()
    with path.client() as again:
        again.wait_ready("v")
        assert again.port("v").ifindex == ifindex
    # Both at once: the next keeper knows the pair by its mark, and takes it as it is.
    forwarder = path.pid("forwarder")
    path.kill_keeper()
    os.kill(forwarder or 0, 9)
    wait_until(lambda: path.pid("forwarder") is None, 5, "the forwarder ends")
    path.start()
    with path.client() as fresh:
        assert fresh.apply([*both(net), veth(net, net.hosts[0])]).outcomes["port/v"].ok
        assert fresh.port("v").ifindex == ifindex
        fresh.apply(deletes=["port/v"])
        wait_until(lambda: not exists(net.switch, f"{net.prefix}v"), 5, "the pair is removed")


def test_a_namespace_that_comes_later_and_goes(net: Topology, client: Client) -> None:
    later = f"{net.switch}-later"
    ack = client.apply([bridge("br0"), veth(net, later)])
    assert ack.outcomes["port/v"].code == "NETNS_NOT_FOUND"
    assert later in ack.outcomes["port/v"].message
    assert ack.outcomes["port/v"].hint
    try:
        run("ip", "netns", "add", later)
        client.wait_ready("v")
        assert exists(later, "eth7")
        remove_netns(later)
        wait_until(lambda: not client.port("v").outcome.ok, 5, "the port is lost")
        run("ip", "netns", "add", later)
        # a pair may have been made once more in the old one, between its link's end and its own
        wait_until(lambda: exists(later, "eth7"), 10, "the pair is there again")
        client.wait_ready("v")
    finally:
        remove_netns(later)


def test_an_interface_of_somebody_else_is_not_touched(net: Topology, client: Client) -> None:
    taken = net.switch_ifs[1]
    ack = client.apply([port("v", "veth", options={"name": taken, "peer": "eth7"})])
    assert ack.outcomes["port/v"].code == "PORT_BUSY"
    client.apply(deletes=["port/v"])
    assert exists(net.switch, taken)


# --- many changes -------------------------------------------------------------------------------


def held(pid: int) -> tuple[int, int]:
    """fds and threads of a process."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def settle(client: Client) -> None:
    """One port and nothing else; the keeper opened it after it closed all others."""
    client.snapshot([])
    client.snapshot([port("m9", "memory")])


def everything(net: Topology, bridge_name: str | None = None) -> list[wire.WireObject]:
    """A port of every type."""
    pair = {"name": f"{net.prefix}w", "peer": f"{net.prefix}x"}
    return [
        port("m0", "memory", bridge_name),
        port("m1", "null", bridge_name),
        port("a0", "af_packet", bridge_name, options={"ifname": net.switch_ifs[0]}),
        port("a1", "af_packet", bridge_name, options={"ifname": net.switch_ifs[1]}),
        port("t0", "tap", bridge_name, options={"name": f"{net.prefix}t"}),
        port("v0", "veth", bridge_name, options=pair),
    ]


def random_change(
    choose: random.Random, net: Topology, client: Client
) -> tuple[list[wire.WireObject], list[str]]:
    """Some of the ports and of two bridges come, change, or go."""
    bridges = ["br0", "br1"]
    upserts: dict[str, wire.WireObject] = {}
    deletes: list[str] = []
    for _ in range(choose.randint(1, 3)):
        target = choose.choice([*bridges, None])
        if choose.random() < 0.3:
            size = choose.choice((1024, 8192))
            obj: wire.WireObject = bridge(choose.choice(bridges), fdb_entries_max=size)
        else:
            obj = choose.choice(everything(net, target))
        if obj.key in client.objects and choose.random() < 0.5:
            if obj.key not in deletes and obj.key not in upserts:
                deletes.append(obj.key)
        elif obj.key not in deletes:
            upserts[obj.key] = obj
    return list(upserts.values()), deletes


def test_a_thousand_changes_under_traffic_leak_nothing(
    net: Topology, path: FastPath, client: Client
) -> None:
    seed = random.randrange(1 << 32)
    choose = random.Random(seed)
    # Once each, so that what is made on first use (a library's event loop) is no leak.
    client.snapshot(everything(net))
    settle(client)
    path.wait_standby()
    forwarder, keeper = path.pid("forwarder"), path.pid("keeper")
    assert forwarder is not None
    assert keeper is not None
    interfaces = run("ip", "-n", net.switch, "-br", "link").split("\n")
    before = held(forwarder), held(keeper)
    loads = [
        net.start(
            *(net.hosts[i], tool("gen"), "--if", net.host_ifs[i], "--rate", "2000"),
            *("--seconds", "60", "--macs", "50"),
        )
        for i in range(2)
    ]
    for _ in range(1000):
        ack = client.apply(*random_change(choose, net, client))
        wrong = {k: o for k, o in ack.outcomes.items() if not o.ok and o.code != "BRIDGE_ABSENT"}
        assert not wrong, f"seed {seed}: {wrong}"
    for load in loads:
        load.terminate()
        load.wait(10)
    settle(client)
    assert path.pid("forwarder") == forwarder, f"seed {seed}: it died\n{path.log[-2000:]}"
    after = held(forwarder), held(keeper)
    assert after == before, f"seed {seed}"
    left = run("ip", "-n", net.switch, "-br", "link").split("\n")
    assert len(left) == len(interfaces), f"seed {seed}: {left}"
    client.check_ledger()
