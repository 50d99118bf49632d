"""What the keeper decides: which interfaces, which options, when to hold a forwarder back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastpath import devices
from fastpath.channel import Bundle
from fastpath.keeper import BACKOFF_MAX_S, BACKOFF_MIN_S, CRASHES, CrashLoop
from fastpath.opener import Opener, OpenError, Policy
from fastpath.rundir import RunDir, RunDirError

KILLED, CRASHED = "killed by SIGKILL", "killed by SIGSEGV"


def code(policy: Policy, name: str) -> str:
    try:
        policy.check(name)
    except OpenError as error:
        return error.code
    return ""


def test_patterns() -> None:
    assert code(Policy(), "eth0") == ""
    assert code(Policy(), "lo") == "IFACE_DENIED"
    assert code(Policy(allow=("*", "lo")), "lo") == ""
    assert code(Policy(allow=("*", "lo"), deny=("lo",)), "lo") == "IFACE_DENIED"
    assert code(Policy(allow=("veth*",)), "eth0") == "IFACE_DENIED"
    assert code(Policy(allow=("veth*",)), "veth7") == ""
    assert code(Policy(deny=("eth[0-3]",)), "eth3") == "IFACE_DENIED"
    assert code(Policy(deny=("eth[0-3]",)), "eth4") == ""


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a" * 16, "é", "a\0b", "%d", "x\n"])
def test_names_that_no_interface_has(name: str) -> None:
    assert code(Policy(), name) == "IFACE_NAME_INVALID"


@pytest.fixture
def opener(tmp_path: Path) -> Opener:
    types = ("af_packet", "af_xdp", "memory", "netmap", "pcap", "pipe", "tap", "tun")
    return Opener(Policy(deny=("secret*",)), tmp_path / "pcap", tmp_path / "run", types)


@pytest.mark.parametrize(
    ("type", "options", "expected"),
    [
        ("nonsense", {}, "PORT_TYPE_UNKNOWN"),
        ("af_packet", {}, "INVALID"),
        ("af_packet", {"ifname": "secret0"}, "IFACE_DENIED"),
        ("af_packet", {"ifname": "lo"}, "IFACE_DENIED"),
        ("af_xdp", {"ifname": "eth0"}, "PRIVILEGE"),
        ("tap", {"name": "secret0"}, "IFACE_DENIED"),
        ("tun", {"name": "secret0"}, "IFACE_DENIED"),
        ("tap", {"name": "t%s"}, "IFACE_NAME_INVALID"),
        ("tap", {"name": "%d"}, "IFACE_NAME_INVALID"),
        ("tap", {"name": "t%dx"}, "IFACE_NAME_INVALID"),
        ("veth", {"name": "v0"}, "INVALID"),
        ("veth", {"name": "secret0", "peer": "x"}, "IFACE_DENIED"),
        ("veth", {"name": "v0", "peer": "secret0"}, "IFACE_DENIED"),
        ("veth", {"name": "v0", "peer": "x/y", "netns": "n"}, "IFACE_NAME_INVALID"),
        ("veth", {"name": "v0", "peer": "x", "netns": "../../etc"}, "INVALID"),
        ("veth", {"name": "v0", "peer": "x", "netns": ".."}, "INVALID"),
        ("pcap", {"out": "x", "directory": "/"}, "INVALID"),
        ("netmap", {}, "INVALID"),
        ("netmap", {"portspec": "netmap:eth0-"}, "INVALID"),
        ("netmap", {"portspec": "netmap:secret0"}, "IFACE_DENIED"),
        ("netmap", {"portspec": "netmap:secret0{x"}, "IFACE_DENIED"),
        ("netmap", {"portspec": "netmap:lo^"}, "IFACE_DENIED"),
        ("netmap", {"portspec": "netmap:eth0@share=netmap:secret0"}, "IFACE_DENIED"),
        ("netmap", {"portspec": "netmap:eth0", "directory": "/"}, "INVALID"),
        ("memory", {"x": "y" * 20000}, "INVALID"),
        ("memory", {str(n): "" for n in range(100)}, "INVALID"),
        ("pipe", {"name": "x"}, "INVALID"),
        ("pipe", {"name": "x", "end": "middle"}, "INVALID"),
        ("pipe", {"name": "../x", "end": "slave"}, "INVALID"),
        ("pipe", {"name": "x:y", "end": "slave"}, "INVALID"),
    ],
)
def test_requests_that_are_refused_before_anything_is_opened(
    opener: Opener, type: str, options: dict[str, str], expected: str
) -> None:
    with pytest.raises(OpenError) as refused:
        opener.open("p", type, options)
    assert refused.value.code == expected


def test_af_xdp_is_checked_like_others_where_it_is_allowed(opener: Opener) -> None:
    held = Bundle("p", "af_xdp", {"ifname": "e0"}, "af_xdp", {"ifname": "e0"}, "")
    assert "--af-xdp" in opener.port_types()["af_xdp"]
    assert not opener.sound(held)
    opener.af_xdp = True
    assert opener.sound(held)
    with pytest.raises(OpenError) as refused:
        opener.open("p", "af_xdp", {"ifname": "secret0"})
    assert refused.value.code == "IFACE_DENIED"


def test_what_a_forwarder_hands_back_is_checked_like_a_request(opener: Opener) -> None:
    def sound(type: str, options: dict[str, str], driver: str, given: dict[str, str]) -> bool:
        return opener.sound(Bundle("p", type, options, driver, given, ""))

    assert sound("memory", {}, "memory", {})
    pair = {"name": "v0", "peer": "x", "queues": "2"}
    assert sound("veth", pair, "af_packet", {"ifname": "v0", "queues": "2"})
    assert not sound("veth", pair, "af_packet", {"ifname": "eth0", "queues": "2"})
    assert not sound("veth", {"name": "secret0", "peer": "x"}, "af_packet", {"ifname": "secret0"})
    assert sound("pcap", {"in": "a"}, "pcap", {"in": "a", "directory": str(opener.pcap_directory)})
    assert not sound("pcap", {"in": "a"}, "pcap", {"in": "a", "directory": "/"})


def test_both_ends_of_a_pipe_have_the_same_memory(opener: Opener) -> None:
    """Wherever the first end's bundle came from; and no end is given twice."""

    def end(word: str, **more: str) -> dict[str, str]:
        return {"name": "x", "end": word, **more}

    master = opener.open("m", "pipe", end("master"))
    other = opener.open("n", "pipe", {"name": "y", "end": "slave"}, [master])
    slave = opener.open("s", "pipe", end("slave"), [other, master])
    inodes = {os.fstat(fds[0]).st_ino for _, fds in (master, slave)}
    assert len(inodes) == 1
    assert os.fstat(other[1][0]).st_ino not in inodes
    assert not set(master[1]) & set(slave[1]), "each bundle closes its own"
    assert slave[0].state == master[0].state
    assert opener.sound(slave[0])
    held = [master, other, slave]
    for options, expected in (
        (end("slave"), "PORT_BUSY"),
        (end("slave", queues="2"), "PORT_BUSY"),
    ):
        with pytest.raises(OpenError) as refused:
            opener.open("again", "pipe", options, held)
        assert refused.value.code == expected
    with pytest.raises(OpenError) as refused:
        opener.open("again", "pipe", end("slave", queues="2"), [master])
    assert refused.value.code == "CONFLICT"
    opener.release(*master)
    again = opener.open("m", "pipe", end("master"), [other, slave])
    assert os.fstat(again[1][0]).st_ino in inodes, "the slave kept it"
    for bundle, fds in (again, other, slave):
        opener.release(bundle, fds)


def test_marks_tell_instances_and_ports_apart() -> None:
    mark = devices.mark_of("abc", "p1", "x", "n1")
    assert devices.same_owner(devices.mark_of("abc", "p1", "y", ""), mark)
    assert not devices.same_owner(devices.mark_of("abc", "p2", "x", "n1"), mark)
    assert not devices.same_owner(devices.mark_of("abd", "p1", "x", "n1"), mark)
    assert not devices.same_owner("", mark)


# --- crash loops --------------------------------------------------------------------------------


def test_kills_of_forwarders_that_ran_are_no_crash_loop() -> None:
    loop = CrashLoop()
    assert all(loop.died(n * 0.3, 0.3, KILLED) == 0 for n in range(50))


@pytest.mark.parametrize(("lived_s", "how"), [(1.5, CRASHED), (0.01, KILLED)])
def test_crashes_are_held_back_more_and_more(lived_s: float, how: str) -> None:
    loop = CrashLoop()
    now = 0.0
    delays = []
    for _ in range(CRASHES + 6):
        now += lived_s
        delays.append(loop.died(now, lived_s, how))
        now += delays[-1]
    assert delays[: CRASHES - 1] == [0.0] * (CRASHES - 1)
    assert delays[CRASHES - 1] == BACKOFF_MIN_S
    assert delays[-1] == BACKOFF_MAX_S
    assert delays == sorted(delays)


def test_a_forwarder_that_lived_long_ends_the_holding_back() -> None:
    loop = CrashLoop()
    for n in range(CRASHES):
        loop.died(float(n), 1.0, CRASHED)
    assert loop.died(100.0, 90.0, CRASHED) == 0.0


def test_crashes_that_are_rare_are_not_held_back() -> None:
    loop = CrashLoop()
    assert all(loop.died(n * 3.0, 3.0, CRASHED) == 0 for n in range(50))


# --- run directory ------------------------------------------------------------------------------


def test_one_keeper_a_run_directory(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "run", os.getgid())
    first.lock()
    first.write_pid("keeper", os.getpid())
    second = RunDir(tmp_path / "run", os.getgid())
    with pytest.raises(RunDirError, match=str(os.getpid())):
        second.lock()
    first.clean()
    second.lock()
    second.clean()


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="too long"):
        RunDir(tmp_path / ("x" * 100), os.getgid())


def test_pid_files_are_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", os.getgid())
    assert run.read_pid("forwarder") is None
    run.write_pid("forwarder", 17)
    assert run.read_pid("forwarder") == 17
    (run.path / "forwarder.pid").write_text("")
    assert run.read_pid("forwarder") is None
    assert {entry.name for entry in run.path.iterdir()} == {"forwarder.pid"}
