"""What the processes of the fast path may do, and who may talk to them."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fastpath import channel, rights
from fastpath import protocol as wire
from tests.support.fastpath import (
    CONTROL_GID,
    GID,
    UID,
    Client,
    FastPath,
    RefusedError,
    bridge,
    port,
)
from tests.support.topology import Topology, run, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def path(home: Path) -> Iterator[FastPath]:
    with FastPath(home) as started:
        yield started


def fields(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- the forwarder's own rights -----------------------------------------------------------------


@pytest.mark.parametrize("role", ["forwarder", "standby"])
def test_nothing_is_left_to_a_forwarder(path: FastPath, role: str) -> None:
    standby = path.wait_standby()
    pid = standby if role == "standby" else path.pid("forwarder")
    assert pid is not None
    status = fields(pid)
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(GID)] * 4
    assert status["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_keeper_keeps_what_its_job_takes(path: FastPath) -> None:
    status = fields(path.pid("keeper") or 0)
    allowed = sum(1 << capability for capability in rights.KEEPER)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) & ~allowed == 0, name
    sys_admin, sys_ptrace, dac_read, bpf = 21, 19, 2, 39
    for capability in (sys_admin, sys_ptrace, dac_read, bpf):
        assert not int(status["CapEff"], 16) >> capability & 1


def test_af_xdp_ports_take_two_capabilities_more(home: Path) -> None:
    """Of the keeper, and only where such ports are allowed."""
    with FastPath(home, arguments=["--af-xdp"]) as path, path.client() as client:
        assert client.welcome.port_types["af_xdp"] == ""
        effective = int(fields(path.pid("keeper") or 0)["CapEff"], 16)
        allowed = sum(1 << capability for capability in rights.KEEPER + rights.KEEPER_XDP)
        assert effective & ~allowed == 0
        assert all(effective >> capability & 1 for capability in rights.KEEPER_XDP)
        assert int(fields(path.pid("forwarder") or 0)["CapEff"], 16) == 0


def test_af_xdp_says_which_capabilities_are_missing(home: Path) -> None:
    less = "-bpf,-ipc_lock,-sys_admin"
    prefix = ("setpriv", f"--bounding-set={less}", f"--inh-caps={less}")
    with FastPath(home, prefix=prefix, arguments=["--af-xdp"]) as path, path.client() as client:
        reason = client.welcome.port_types["af_xdp"]
        assert reason.endswith("the capabilities BPF, IPC_LOCK")


def test_every_thread_of_the_forwarder_is_filtered(path: FastPath) -> None:
    with path.client() as client:
        client.apply([bridge("br0"), port("p1", "memory", "br0"), port("p2", "memory", "br0")])
    threads = list(Path(f"/proc/{path.pid('forwarder')}/task").iterdir())
    assert len(threads) > 1
    for thread in threads:
        assert "Seccomp:\t2" in (thread / "status").read_text()


FORBIDDEN = {
    "socket": "socket.socket()",
    "connect": "keep.connect('/nowhere')",
    "bind": "keep.bind('/tmp/kp-never')",
    "open to write": "os.open('/dev/null', os.O_WRONLY)",
    "create": "os.open('/tmp/kp-never', os.O_RDONLY | os.O_CREAT)",
    "fork": "os.fork()",
    "execve": "os.execv('/bin/true', ['true'])",
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "socketpair of the network": "libc.socketpair(2, 1, 0, (ctypes.c_int * 2)())",
    "executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "sendto with an address": "pair[0].sendto(b'x', '/nowhere')",
    "setns": "libc.setns(0, 0)",
    "netmap's NIOCCTRL": "libc.ioctl(memfd, ctypes.c_ulong(0xC0586997), 0)",
    "netmap's NIOCREGIF": "libc.ioctl(memfd, ctypes.c_ulong(0xC03C6992), 0)",
}
ALLOWED = {
    "send": "pair[0].send(b'x')",
    "thread": "t = threading.Thread(target=len, args=('',)); t.start(); t.join()",
    "memory": "mmap.mmap(-1, 4096)",
    "stat of an fd": "os.fstat(memfd)",
    "netmap's NIOCTXSYNC": "libc.ioctl(memfd, ctypes.c_ulong(0x6994), 0)",
}
DENIED = {
    "open to read": "os.open('/etc/hostname', os.O_RDONLY)",
    "list": "os.listdir('/')",
    "link": "os.readlink('/proc/self/exe')",
}


def in_sandbox(code: str) -> subprocess.CompletedProcess[str]:
    program = f"""
        import ctypes, mmap, os, socket, threading
        from fastpath import native
        libc = ctypes.CDLL(None)
        keep = socket.socket(socket.AF_UNIX)
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        memfd = os.memfd_create('x')
        native.sandbox_enter()
        {code}
        os.write(1, b'survived')
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_a_forbidden_call_kills(code: str) -> None:
    done = in_sandbox(code)
    assert done.returncode == -signal.SIGSYS, done
    assert not Path("/tmp/kp-never").exists()


@pytest.mark.parametrize("code", ALLOWED.values(), ids=ALLOWED.keys())
def test_a_forwarder_needs_these(code: str) -> None:
    done = in_sandbox(code)
    assert done.stdout == "survived", done


@pytest.mark.parametrize("code", DENIED.values(), ids=DENIED.keys())
def test_looking_at_paths_fails_without_killing(code: str) -> None:
    done = in_sandbox(code)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr


def installation(to: Path) -> tuple[str, ...]:
    """A copy of the interpreter and all that the fast path imports; the words that start it."""
    shutil.copytree(Path(wire.__file__).parent, to / "fastpath", ignore=lambda *_: ["src"])
    extension = importlib.util.find_spec("fastpath._native")
    assert extension is not None
    assert extension.origin is not None
    shutil.copy(extension.origin, to / "fastpath")
    shutil.copy(Path(sys.executable).resolve(), to / "python")
    packages = to / "packages"
    packages.mkdir()
    site = Path(msgspec.__file__).parent.parent
    for name in ("msgspec", "pyroute2", "_cffi_backend*", "cffi"):
        for found in site.glob(name):
            (shutil.copytree if found.is_dir() else shutil.copy)(found, packages / found.name)
    return ("env", "-C", str(to), f"PYTHONPATH={to}:{packages}", "PYTHONHOME=/usr")


def test_the_interpreter_may_lie_where_the_forwarder_cannot_go(home: Path) -> None:
    """Imported and mapped before the ids go: no path is needed afterwards."""
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    prefix, python = installation(closed), str(closed / "python")
    with FastPath(home, prefix=prefix, python=python) as path, path.client() as client:
        client.apply([bridge("br0"), port("p1", "memory", "br0"), port("p2", "memory", "br0")])
        path.wait_standby()
        path.wait_replaced(path.kill_forwarder())
        with path.client() as again:
            again.wait_ready("p1", "p2")
        exe = Path(f"/proc/{path.pid('forwarder')}/exe").resolve()
        assert exe.is_relative_to(closed)


# --- the run directory and the sockets ----------------------------------------------------------


def test_the_run_directory_is_closed_to_others(path: FastPath) -> None:
    info = path.run.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o751, 0, CONTROL_GID)
    info = (path.run / "forwarder.sock").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (0o660, CONTROL_GID)
    assert stat.S_IMODE((path.run / "handover.sock").stat().st_mode) == 0o600


def connect_as(path: FastPath, uid: int, gid: int) -> subprocess.CompletedProcess[str]:
    program = textwrap.dedent(f"""
        import os, socket
        s = socket.socket(socket.AF_UNIX)
        os.chdir({str(path.run)!r})
        os.setgroups([{CONTROL_GID}])
        os.setresgid({gid}, {gid}, {gid})
        os.setresuid({uid}, {uid}, {uid})
        s.connect('forwarder.sock')
        s.sendall({wire.encode(wire.Hello(wire.VERSION, "test"))!r})
        print(len(s.recv(100)) > 0)
    """)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_control_group_may_connect_and_nobody_else(path: FastPath) -> None:
    assert connect_as(path, 64200, CONTROL_GID).stdout.strip() == "True"
    stranger = connect_as(path, 64200, 64201)
    assert stranger.stdout.strip() != "True"


def test_only_the_keepers_user_may_be_a_keeper(path: FastPath) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    sock.connect(os.fspath(path.run / "handover.sock"))
    peer = channel.Channel(sock)
    peer.send(channel.TakeBack())
    wait_readable(peer)
    packet = next(peer.receive())
    assert isinstance(packet.message, channel.Refusal)
    assert packet.fds == []
    peer.close()


def wait_readable(peer: channel.Channel) -> None:
    assert select.select([peer], [], [], 5)[0]


def test_a_second_keeper_says_so_and_ends(path: FastPath) -> None:
    second = subprocess.run(path.command(), capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert second.stderr.strip().splitlines() == [
        f"keeper: another keeper (process {path.pid('keeper')}) runs in {path.run}"
    ]
    with path.client() as client:
        assert client.ping() < 5


def test_stale_files_are_in_nobodys_way(path: FastPath) -> None:
    forwarder = path.pid("forwarder")
    path.kill_keeper()
    assert forwarder is not None
    os.kill(forwarder, signal.SIGKILL)
    wait_until(lambda: path.pid("forwarder") is None, 5, "the forwarder ends")
    assert (path.run / "forwarder.sock").exists()
    path.start()
    with path.client() as client:
        assert client.status().restarts == 0


def test_stopping_leaves_no_socket_and_no_process(home: Path) -> None:
    with FastPath(home) as path:
        children = set(path.children()) | {path.wait_standby()}
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert {entry.name for entry in path.run.iterdir()} == {"keeper.lock"}


def test_versions_that_differ_are_named(path: FastPath) -> None:
    with pytest.raises(RefusedError) as refused:
        Client(path.run / "forwarder.sock", proto=wire.VERSION + 1)
    assert refused.value.refused.code == "VERSION_MISMATCH"
    assert str(wire.VERSION + 1) in refused.value.refused.message


# --- which interfaces ---------------------------------------------------------------------------


def code_of(client: Client, ifname: str) -> str:
    ack = client.apply([port("p", "af_packet", options={"ifname": ifname})])
    return ack.outcomes["port/p"].code


def test_the_keeper_has_patterns_of_its_own(home: Path) -> None:
    with Topology(hosts=2, addresses=False) as net:
        mine, other = net.switch_ifs
        arguments = ("--allow", f"{mine[:-1]}*", "--deny", other)
        started = FastPath(home, netns=net.switch, arguments=arguments)
        with started as path, path.client() as client:
            assert code_of(client, mine) == ""
            assert code_of(client, other) == "IFACE_DENIED"
            assert code_of(client, "lo") == "IFACE_DENIED"
            assert code_of(client, "kpelse") == "IFACE_DENIED"
            assert code_of(client, "../lo") == "IFACE_NAME_INVALID"
            ack = client.apply([port("p", "veth", options={"name": "kpelse", "peer": "kpx"})])
            assert ack.outcomes["port/p"].code == "IFACE_DENIED"
            assert "kpelse" not in run("ip", "-n", net.switch, "-br", "link")


def test_lo_is_a_port_for_nobody_unless_named(home: Path) -> None:
    with Topology(hosts=1, addresses=False) as net:
        started = FastPath(home, netns=net.switch, arguments=("--allow", "lo"))
        with started as path, path.client() as client:
            # Past the patterns; the driver wants Ethernet.
            assert code_of(client, "lo") == "NOT_ETHERNET"


def test_a_pcap_port_names_no_directory(path: FastPath) -> None:
    with path.client() as client:
        ack = client.apply([port("p", "pcap", options={"out": "x.pcap", "directory": "/etc"})])
        assert ack.outcomes["port/p"].code in ("INVALID", "PORT_TYPE_UNKNOWN")


# --- without root -------------------------------------------------------------------------------


def test_without_root_memory_works_and_devices_say_what_is_missing(home: Path) -> None:
    (home / "data").mkdir()
    (home / "log").touch()
    os.chown(home, 64300, 64300)
    place = home / "place"
    place.mkdir()
    drop = ("setpriv", "--reuid=64300", "--regid=64300", "--clear-groups", "--inh-caps=-all")
    prefix, python = (*drop, *installation(place)), str(place / "python")
    with Topology(hosts=1, addresses=False) as net:
        started = FastPath(home, netns=net.switch, prefix=prefix, python=python)
        with started as path, path.client() as client:
            assert "NET_RAW" in client.welcome.port_types["af_packet"]
            device = {"ifname": net.switch_ifs[0]}
            ack = client.apply(
                [
                    bridge("br0"),
                    port("p1", "memory", "br0"),
                    port("p2", "af_packet", "br0", options=device),
                ]
            )
            assert ack.outcomes["port/p1"].ok
            assert ack.outcomes["port/p2"].code == "PRIVILEGE"
            status = fields(path.pid("forwarder") or 0)
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_P9_fanout_ebpf_needs_bpf_when_the_keeper_starts(home: Path) -> None:
    """Started with it, the keeper gives it away and still opens such ports."""
    without = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")
    options = {"queues": "2", "fanout": "ebpf"}
    with Topology(hosts=1, addresses=False) as net:
        device = port("p", "af_packet", options={"ifname": net.switch_ifs[0], **options})
        for number, (prefix, code) in enumerate((((), ""), (without, "PRIVILEGE"))):
            place = home / str(number)
            place.mkdir()
            with FastPath(place, netns=net.switch, prefix=prefix) as path, path.client() as client:
                outcome = client.apply([device]).outcomes["port/p"]
                assert outcome.code == code
                assert ("capability BPF" in outcome.message) == (code != "")


# --- processes that end or hang -----------------------------------------------------------------


def test_a_standby_that_dies_is_replaced(path: FastPath) -> None:
    first = path.wait_standby()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: path.standby() not in (None, first), 20, "another standby waits")
    with path.client() as client:
        assert client.status().restarts == 0


def test_a_forwarder_that_is_told_to_end_is_replaced(path: FastPath) -> None:
    with path.client() as client:
        client.apply([bridge("br0"), port("p1", "memory", "br0")])
    path.wait_standby()
    old = path.pid("forwarder")
    assert old is not None
    os.kill(old, signal.SIGTERM)
    path.wait_replaced(old)
    with path.client() as client:
        client.wait_ready("p1")
        client.check_ledger()


def test_a_keeper_that_hangs_holds_nobody_up(path: FastPath) -> None:
    keeper = path.pid("keeper")
    assert keeper is not None
    with path.client() as client, path.client() as other:
        client.apply([bridge("br0"), port("p1", "memory", "br0")])
        os.kill(keeper, signal.SIGSTOP)
        try:
            ack = client.apply([port("p2", "memory", "br0")])
            assert ack.outcomes["port/p2"].code == "PENDING"
            assert other.ping() < 5
        finally:
            os.kill(keeper, signal.SIGCONT)
        client.wait_ready("p1", "p2")


def test_a_forwarder_that_hangs_is_named_by_the_next_keeper(path: FastPath) -> None:
    forwarder = path.pid("forwarder")
    assert forwarder is not None
    path.kill_keeper()
    os.kill(forwarder, signal.SIGSTOP)
    try:
        done = subprocess.run(
            path.command(), capture_output=True, text=True, timeout=30, check=False
        )
    finally:
        os.kill(forwarder, signal.SIGCONT)
    assert done.returncode == 1
    assert f"forwarder {forwarder} runs but does not hand over" in done.stderr
    path.start()
    assert path.pid("forwarder") == forwarder
