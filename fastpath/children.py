"""Forwarder processes as the keeper sees them: started or taken over, watched by pidfd."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time

from fastpath.channel import Channel

CHILD_CHANNEL_FD = 3
BUFFER_BYTES = 1 << 20


class Child:
    """A forwarder or standby. ``own``: we started it and have to reap it."""

    def __init__(self, pid: int, pidfd: int, channel: Channel, *, own: bool) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.own = own
        self.ready = not own
        self.promoted_at: float | None = None if own else time.monotonic()

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> str:
        """How it ended, once its pidfd is readable."""
        if not self.own:
            return "ended"
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        if result is None:
            return "ended"
        if result.si_code == os.CLD_EXITED:
            return f"exited with status {result.si_status}"
        return f"killed by {_signal_name(result.si_status)}"

    def close(self) -> None:
        self.channel.close()
        os.close(self.pidfd)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def spawn() -> Child:
    """A new standby: the same interpreter, a session of its own, nothing but its channel.

    No death signal: it is the channel's end that tells a standby, and an active forwarder goes on.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    arguments = [
        sys.executable,
        "-m",
        "fastpath",
        "forwarder",
        "--channel-fd",
        str(CHILD_CHANNEL_FD),
    ]
    try:
        pid = os.posix_spawn(
            sys.executable,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHILD_CHANNEL_FD),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGPIPE],
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Child(pid, os.pidfd_open(pid), Channel(ours), own=True)
