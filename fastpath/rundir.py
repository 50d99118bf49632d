"""The run directory: lock, pid files, listening sockets.

keeper.lock     flock held while a keeper lives; a second one says so and ends
keeper.pid      forwarder.pid      written whole or not at all
forwarder.sock  stream, for the control plane; 0660, group of the control plane
handover.sock   packets, for the next keeper; 0600
netmap.sock     packets, for netmap programs; 0666, who may have which port is decided by port

Everybody may pass through the directory, to netmap.sock; nobody else may list it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

BACKLOG = 64
NETMAP_BACKLOG = 1024
MODE = 0o751
SOCKET_PATH_BYTES_MAX = 107
SOCKETS = ("forwarder.sock", "handover.sock", "netmap.sock")


class RunDirError(Exception):
    """One sentence for the one who starts us."""


class RunDir:
    """``path`` is made when missing: 0751, group ``control_gid``."""

    def __init__(self, path: Path, control_gid: int) -> None:
        self.path = path
        self.control_gid = control_gid
        self._lock_fd = -1
        if len(os.fsencode(path / "forwarder.sock")) > SOCKET_PATH_BYTES_MAX:
            raise RunDirError(f"the run directory's path is too long for sockets: {path}")
        try:
            path.mkdir(mode=MODE, parents=True, exist_ok=True)
            path.chmod(MODE)
        except OSError as error:
            raise RunDirError(f"run directory {path}: {error.strerror}") from error
        self._give(path)

    def _give(self, path: Path) -> None:
        """To the control plane's group; not root means that it is our own anyway."""
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, self.control_gid)

    def lock(self) -> None:
        """RunDirError when another keeper has it."""
        fd = os.open(self.path / "keeper.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            pid = self.read_pid("keeper")
            who = f" (process {pid})" if pid else ""
            text = f"another keeper{who} runs in {self.path}"
            raise RunDirError(text) from error
        self._lock_fd = fd

    def write_pid(self, name: str, pid: int) -> None:
        """``name``.pid, readable for everybody who can enter the directory."""
        temporary = self.path / f".{name}.pid.{os.getpid()}"
        temporary.write_text(f"{pid}\n")
        temporary.chmod(0o644)
        temporary.rename(self.path / f"{name}.pid")

    def read_pid(self, name: str) -> int | None:
        try:
            return int((self.path / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def forget_pid(self, name: str) -> None:
        (self.path / f"{name}.pid").unlink(missing_ok=True)

    def listen_control(self) -> socket.socket:
        """forwarder.sock, in place of a stale one."""
        sock = self._listen("forwarder.sock", socket.SOCK_STREAM, 0o660)
        self._give(self.path / "forwarder.sock")
        return sock

    def listen_handover(self) -> socket.socket:
        """handover.sock, in place of a stale one."""
        return self._listen("handover.sock", socket.SOCK_SEQPACKET, 0o600)

    def listen_netmap(self) -> socket.socket:
        """netmap.sock, in place of a stale one."""
        return self._listen("netmap.sock", socket.SOCK_SEQPACKET, 0o666, NETMAP_BACKLOG)

    def _listen(
        self, name: str, kind: socket.SocketKind, mode: int, backlog: int = BACKLOG
    ) -> socket.socket:
        path = self.path / name
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, kind)
        before = os.umask(0o177)
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        sock.listen(backlog)
        return sock

    def connect_handover(self) -> socket.socket | None:
        """A connection to the forwarder of a keeper that died; None: nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            sock.connect(os.fspath(self.path / "handover.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        return sock

    def clean(self) -> None:
        """Leave nothing behind but the lock file, whose removal would race with the next one."""
        for name in (*SOCKETS, "keeper.pid", "forwarder.pid"):
            (self.path / name).unlink(missing_ok=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
