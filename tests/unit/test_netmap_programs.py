"""Programs of netmap's users, unmodified, with the library in front of the C library.

The switch is the tests' own (tests/support/netmap_switch.c): what is seen here is the program's
side. tests/netns/test_netmap_programs.py has the real one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netmap_programs import NetmapPrograms
from tests.support.probes import tool
from vswitch import programs

FRAMES = 1000
INBOX_BYTES = 4 << 20  # client_memory.h
INTERPOSED = [
    *("__read_chk", "read", "readv", "write", "writev"),
    *("__close", "__dup2", "__fcntl", "__open64_2", "__open_2", "__openat64_2", "__openat_2"),
    *("__poll", "__poll_chk", "__ppoll_chk", "__select", "close", "close_range", "closefrom"),
    *("dup", "dup2", "dup3", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "fcntl"),
    *("fcntl64", "ioctl", "mmap", "mmap64", "munmap", "open", "open64", "openat", "openat64"),
    *("poll", "ppoll", "pselect", "recvmmsg", "recvmsg", "select", "sendmmsg", "sendmsg"),
]


@pytest.fixture
def on_switch() -> Iterator[NetmapPrograms]:
    """Leaves no port behind: the switch would end with 1."""
    with subprocess.Popen(
        [tool("nmswitch", "programs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as switch:
        assert switch.stdout is not None
        assert switch.stdin is not None
        run_dir = Path(switch.stdout.readline().strip())
        with NetmapPrograms(run_dir) as running:
            yield running
        switch.stdin.close()
        assert switch.wait(10) == 0


def exchange(
    on_switch: NetmapPrograms, receiver: str, sender: str = "send", **options: int
) -> None:
    """All frames arrive, each as it was sent and in order. The receiver's memory holds them all,
    so it may sleep as long as a busy machine lets it."""
    size = options.get("bytes", 60)
    count = min(FRAMES, INBOX_BYTES // (size + 64))
    taker = on_switch.start(receiver, "vale0:b", frames=count)
    on_switch.start(sender, "vale0:a", frames=count, pause_us=500, **options).result()
    counted = taker.result()
    assert counted["frames"] == count
    assert (counted["bad"], counted["foreign"], counted["order"]) == (0, 0, 0)
    assert counted["bytes"] == count * size


WAITS = [
    *("poll", "ppoll", "mixed", "select", "pselect"),
    *("epoll", "epoll-edge", "epoll-once", "ioctl"),
]


@pytest.mark.parametrize("wait", WAITS)
def test_every_way_to_wait(on_switch: NetmapPrograms, wait: str) -> None:
    taker = on_switch.start("receive", "vale0:b", frames=FRAMES, wait=wait)
    on_switch.start("send", "vale0:a", frames=FRAMES, pause_us=500).result()
    counted = taker.result()
    assert counted["frames"] == FRAMES
    assert (counted["bad"], counted["order"]) == (0, 0)


@pytest.mark.parametrize("size", [22, 1500, 2048, 2049, 9000])
def test_frames_of_one_and_many_slots(on_switch: NetmapPrograms, size: int) -> None:
    exchange(on_switch, "receive", bytes=size)


def test_a_fork_sends_by_what_it_inherited(on_switch: NetmapPrograms) -> None:
    """Two children, one of them after its parent has closed the port."""
    exchange(on_switch, "receive", sender="fork")


@pytest.mark.parametrize("receiver", ["exec", "pass", "dup", "close-all"])
def test_an_fd_works_wherever_it_gets_to(on_switch: NetmapPrograms, receiver: str) -> None:
    """Over exec, in another process, under another number, after all others were closed."""
    exchange(on_switch, receiver)


def test_times_and_signals_are_as_poll_has_them(on_switch: NetmapPrograms) -> None:
    done = on_switch.start("signal", "vale0:a", says_ready=False)
    assert done.result() == {"signals": 3}


def test_edges_and_large_sets(on_switch: NetmapPrograms) -> None:
    assert on_switch.start("edges", "vale0:a", says_ready=False).result() == {"edges": True}


def test_two_threads_on_the_two_ends_of_a_pipe(on_switch: NetmapPrograms) -> None:
    """A pipe loses nothing, as fast as they may be."""
    ends = [on_switch.start("threads", f"vale0:b{end}1", frames=20_000) for end in "{}"]
    for end in ends:
        counted = end.result()
        assert (counted["frames"], counted["bad"], counted["order"]) == (20_000, 0, 0)


def test_netmap_is_not_read_or_written(on_switch: NetmapPrograms) -> None:
    """EINVAL at once, and the port is none the worse; other fds are read and written."""
    exchange(on_switch, "read")


def test_a_mapping_keeps_its_port(on_switch: NetmapPrograms) -> None:
    """After the last close, until it is unmapped."""
    assert on_switch.start("mapped", "vale0:a", says_ready=False).result() == {"kept": True}


def test_ping_and_pong(on_switch: NetmapPrograms) -> None:
    pong = on_switch.start("pong", "vale0:b", idle=500)
    assert on_switch.start("ping", "vale0:a", frames=200).result()["answered"] == 200
    pong.result()


def test_a_static_program_is_linked_with_it(on_switch: NetmapPrograms) -> None:
    program = Path(tool("nmlinked", "programs"))
    assert "statically linked" in str(programs.obstacle(program))
    taker = on_switch.start("receive", "vale0:b", linked=True, frames=FRAMES)
    on_switch.start("send", "vale0:a", linked=True, frames=FRAMES).result()
    assert taker.result()["frames"] == FRAMES


def test_without_a_switch_there_is_no_netmap(tmp_path: Path) -> None:
    with NetmapPrograms(tmp_path) as running, pytest.raises(RuntimeError, match="No such file"):
        running.start("send", "vale0:a")


def test_the_library_shows_the_names_it_stands_for_and_no_other() -> None:
    said = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", programs.library()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(line.split()[0] for line in said.stdout.splitlines()) == sorted(INTERPOSED)


def test_other_programs_notice_nothing(tmp_path: Path) -> None:
    """Those that never open /dev/netmap, and whatever they do with fds."""
    script = """
import os, select, socket, subprocess
r, w = os.pipe()
watch = select.epoll()
watch.register(r, select.EPOLLIN)
assert watch.poll(0.01) == []
os.write(w, b"x")
assert watch.poll(1) == [(r, select.EPOLLIN)]
assert select.select([r], [], [], 0) == ([r], [], [])
poll = select.poll()
poll.register(r)
assert poll.poll(0) == [(r, select.POLLIN)]
a, b = socket.socketpair()
socket.send_fds(a, [b"x"], [r])
_, (copy,), _, _ = socket.recv_fds(b, 1, 1)
assert os.read(copy, 1) == b"x"
assert subprocess.run(["true"]).returncode == 0
os.closerange(3, 100)
try:
    os.read(r, 1)
except OSError:
    print("done")
"""
    done = subprocess.run(
        ["/usr/bin/python3", "-c", script],
        env=programs.environment(tmp_path, dict(os.environ)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
