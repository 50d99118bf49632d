"""The control plane's process: ``python -m vswitch.control``, or ``run(settings)``.

In this order, because each step needs what the one before it still had: read everything from
disk that may lie where only root can read (code, migrations, TLS key), take the run directory,
bind, make the data directory, give up all rights for good, take the data directory, migrate,
load, serve. What goes wrong is said in one sentence, with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import gc
import importlib
import ipaddress
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError
from uvicorn.protocols.http.h11_impl import H11Protocol

from vswitch import __version__
from vswitch.app import create_app
from vswitch.auth import Authority, Peer, ensure_admin_token
from vswitch.kinds import Configuration, Key
from vswitch.reconcile.loop import Loop
from vswitch.services import Services
from vswitch.services.changes import Changes
from vswitch.services.runtime import Runtime
from vswitch.settings import Settings
from vswitch.store import Migrations, Store, StoreError
from vswitch.view import View

log = logging.getLogger("vswitch.control")

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_LAST = 63
BACKLOG = 128
KEEP_ALIVE_S = 30
HEAD_S = 10
CONNECTIONS_MAX = 256
STOP_S = 5
MANY_OBJECTS = 1000
GC_OBJECTS = 10_000
"""New objects between two looks for cycles. 10,000 rules that are validated and stored are made of
half a million: with Python's 700 a third of the time went to looking through all of them again."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread with much to do, as validating 10,000 rules, may keep the others waiting."""


LATE = (
    "anyio._backends._asyncio",
    "encodings.idna",
    "linecache",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
)
"""What libraries import at first use: done before the rights are gone, and the files with them."""


class StartError(Exception):
    """Why the process does not start, in one sentence."""


# --- listening ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """One of ``--listen``: host and port, or a path."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def beyond_loopback(self) -> bool:
        if self.path is not None or self.host == "localhost":
            return False
        return not ipaddress.ip_address(self.host).is_loopback


def parse_listener(text: str) -> Listener:
    """``HOST:PORT`` with an address (IPv6 in brackets) or localhost, or ``unix:PATH``."""
    if text.startswith("unix:"):
        return Listener(path=Path(text.removeprefix("unix:")).absolute())
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise StartError(
            f"--listen {text}: give ADDRESS:PORT, as 127.0.0.1:8080 or [::1]:8080, or unix:PATH"
        )
    return Listener(host=host, port=number)


def check_listeners(listeners: list[Listener], settings: Settings) -> None:
    """Beyond loopback a token must not travel in the clear."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise StartError("--tls-cert and --tls-key need each other")
    for listener in listeners:
        if listener.beyond_loopback and settings.tls_cert is None:
            raise StartError(
                f"--listen {listener.host}:{listener.port} is reachable from other hosts: "
                "give --tls-cert and --tls-key, or listen on 127.0.0.1"
            )


def bind(listener: Listener, uid: int, gid: int) -> socket.socket:
    if listener.path is not None:
        return _bind_path(listener.path, uid, gid)
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((listener.host, listener.port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on {listener.host}:{listener.port}: {error.strerror}"
        ) from error
    return sock


def _bind_path(path: Path, uid: int, gid: int) -> socket.socket:
    """A socket file that nobody answers on is of a process that died; it is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
            else:
                raise StartError(f"another process answers on {path}")
        sock.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, uid, gid)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"cannot listen on {path}: {error.strerror or error}") from error
    except StartError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


class PeerProtocol(H11Protocol):
    """Puts the credentials of a Unix socket's peer into the scope's state.

    Connections are bounded in number, and one that sends no whole request head is closed, so that
    idle ones cannot use up the descriptors that the database and the forwarder need.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        peer = peer_of(transport.get_extra_info("socket"))
        if peer is not None:
            self.app_state = {**self.app_state, "peer": peer}
        self._head_timer = self.loop.call_later(HEAD_S, self._close_headless)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _close_headless(self) -> None:
        if self.cycle is None:
            self.transport.close()


def peer_of(sock: Any) -> Peer | None:
    """SO_PEERCRED: the credentials the peer had when it connected, which it cannot forge."""
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))


class Server(uvicorn.Server):
    """Signals are handled once for all servers, in `_serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_config(app: Any, settings: Settings, *, tls: bool) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_S,
        ssl_certfile=str(settings.tls_cert) if tls else None,
        ssl_keyfile=str(settings.tls_key) if tls else None,
    )
    try:
        config.load()
    except OSError as error:
        raise StartError(f"TLS certificate or key: {error}") from error
    return config


async def _serve(servers: Sequence[tuple[uvicorn.Server, list[socket.socket]]]) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server, _ in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve(sockets=sockets) for server, sockets in servers))


# --- locks and directories ----------------------------------------------------------------------


def take_run_dir(settings: Settings) -> int:
    """Lock and write control.pid; the descriptor holds the lock for the life of the process."""
    gid = settings.service_ids[1]
    try:
        if not settings.run_dir.is_dir():
            settings.run_dir.mkdir(parents=True, mode=0o750)
            if os.geteuid() == 0:
                os.chown(settings.run_dir, -1, gid)
        pid_file = settings.run_dir / "control.pid"
        descriptor = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _lock(descriptor, f"{settings.run_dir} is used by another control plane")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise StartError(f"run directory {settings.run_dir}: {error.strerror}") from error
    return descriptor


def make_data_dir(settings: Settings, uid: int, gid: int) -> None:
    """0700, ours; pcap/ is shared with the keeper, which opens the files in it."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            if settings.data_dir.stat().st_uid != uid:
                os.chown(settings.data_dir, uid, gid)
            settings.data_dir.chmod(0o700)
    except OSError as error:
        raise StartError(f"data directory {settings.data_dir}: {error.strerror}") from error


def take_data_dir(settings: Settings) -> int:
    try:
        path = settings.data_dir / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _lock(descriptor, f"{settings.data_dir} is used by another control plane")
    except OSError as error:
        raise StartError(f"data directory {settings.data_dir}: {error.strerror}") from error
    return descriptor


def _lock(descriptor: int, sentence: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.lseek(descriptor, 0, os.SEEK_SET)
        other = os.read(descriptor, 20).decode("ascii", "replace").strip()
        raise StartError(sentence + (f" (pid {other})" if other else "")) from None


# --- rights -------------------------------------------------------------------------------------


def drop_rights(uid: int, gid: int) -> None:
    """Become the service's user for good: no capability, no way to get one."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAP_LAST + 1):
        # Needs CAP_SETPCAP; without it no_new_privs makes the bounding set moot.
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if (uid, gid) != (os.geteuid(), os.getegid()):
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError as error:
            raise StartError(
                f"cannot become uid {uid}: capabilities SETUID and SETGID are needed for that"
            ) from error
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise StartError(f"cannot drop capabilities: {os.strerror(ctypes.get_errno())}")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise StartError(f"cannot set no_new_privs: {os.strerror(ctypes.get_errno())}")
    os.umask(0o077)


# --- putting it together ------------------------------------------------------------------------


class Plane:
    """Store, services and reconcile loop of one data directory, apart from any listener."""

    def __init__(self, settings: Settings, migrations: Migrations | None = None) -> None:
        self.store = Store(settings.database, migrations)
        self.new_token = ensure_admin_token(self.store, settings.token_file)
        changes = Changes(
            self.store,
            settings.limits,
            require_match=settings.require_if_match,
            revisions_max=settings.revisions_max,
        )
        self.loop = Loop(
            settings.forwarder_socket,
            __version__,
            changes.current,
            self._on_view,
            lambda message: self._runtime.rule_log.add(message),
        )
        self._runtime = Runtime(self.loop, lambda: changes.current)
        changes.observe(self._changed)
        changes.ask_kernel_vale(lambda: self.loop.view.kernel_vale)
        self.services = Services(
            settings=settings,
            store=self.store,
            changes=changes,
            runtime=self._runtime,
            authority=Authority(self.store.tokens(), settings.service_ids[0]),
        )

    def _changed(self, configuration: Configuration, touched: frozenset[Key]) -> None:
        self.loop.nudge(configuration, touched)
        if len(touched) > MANY_OBJECTS:
            # They hold no cycles and will stay: looking through 10,000 rules again and again
            # would stop every request for a tenth of a second each time.
            gc.freeze()

    def _on_view(self, view: View) -> None:
        self._runtime.refresh(view)

    def __enter__(self) -> Plane:
        self.loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        self.store.close()


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    for module in LATE:
        importlib.import_module(module)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_OBJECTS)
    uid, gid = settings.service_ids
    listeners = [parse_listener(text) for text in settings.listeners]
    check_listeners(listeners, settings)
    migrations = Migrations()
    app = create_app()
    tls = settings.tls_cert is not None
    configs = {
        kind: http_config(app, settings, tls=tls and kind == "tcp") for kind in ("tcp", "unix")
    }
    with contextlib.ExitStack() as stack:
        pid_descriptor = take_run_dir(settings)
        stack.callback(os.close, pid_descriptor)
        stack.callback(os.ftruncate, pid_descriptor, 0)
        sockets: dict[str, list[socket.socket]] = {"tcp": [], "unix": []}
        for listener in listeners:
            sock = bind(listener, uid, gid)
            stack.callback(sock.close)
            if listener.path is not None:
                stack.callback(_unlink, listener.path)
            sockets["unix" if listener.path else "tcp"].append(sock)
        make_data_dir(settings, uid, gid)
        drop_rights(uid, gid)
        stack.callback(os.close, take_data_dir(settings))
        with _plane(settings, migrations) as plane:
            if plane.new_token:
                log.info("the administrator's token is in %s", settings.token_file)
            app.state.services = plane.services
            gc.freeze()
            log.info("listening on %s", ", ".join(settings.listeners))
            servers = [
                (Server(configs[kind]), listening)
                for kind, listening in sockets.items()
                if listening
            ]
            asyncio.run(_serve(servers))
    log.info("stopped")


def _plane(settings: Settings, migrations: Migrations) -> Plane:
    try:
        return Plane(settings, migrations)
    except (StoreError, ValueError, OSError) as error:
        raise StartError(f"data directory {settings.data_dir}: {error}") from error


def _unlink(path: Path) -> None:
    """The run directory may belong to someone else by now; then the next start replaces it."""
    with contextlib.suppress(OSError):
        path.unlink()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vswitch.control", description="The REST API and the configuration of a switch."
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument(
        "--listen", action="append", metavar="HOST:PORT|unix:PATH", help="may be given often"
    )
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--uid", type=int, dest="control_uid", help="who to become")
    parser.add_argument("--gid", type=int, dest="control_gid")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    return parser


def main() -> int:
    given = {
        name: value for name, value in vars(_arguments().parse_args()).items() if value is not None
    }
    try:
        settings = Settings(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        sys.stderr.write(f"vswitch control: {fault['loc'][0]}: {fault['msg']}\n")
        return 1
    logging.basicConfig(
        level=settings.log_level.upper(), format="control: %(levelname)s %(name)s: %(message)s"
    )
    for noisy in ("alembic", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        run(settings)
    except StartError as error:
        sys.stderr.write(f"vswitch control: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
