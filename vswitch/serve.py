"""``vswitch serve``: starts keeper and control plane, and starts either again when it dies.

The supervisor holds nothing that matters: no device, no configuration. Killed, it leaves its
children running; started again on the same run directory it adopts them by their pid files and
goes on watching. The keeper watches the forwarder in the same way. Only SIGTERM or SIGINT stops
all of them: control plane first, then keeper, then whatever forwarder is left.

    <run>/serve.pid    locked while a supervisor runs; a second one says so and exits
    <run>/NAME.pid     written by keeper, forwarder and control plane themselves
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from vswitch import paths
from vswitch.settings import Limits

FORWARDER_ID = 64501
CONTROL_ID = 64502
"""uid and gid of the two when root starts them and names nobody else; they need no account."""

STOP_TIMEOUT_S = 10.0
STEADY_S = 2.0
"""A child that lived so long came up: whatever ended it, the next one starts at once."""
BACKOFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
READY_TIMEOUT_S = 30.0


class ServeError(Exception):
    """Cannot start; one sentence."""


@dataclass(frozen=True)
class Ids:
    uid: int
    gid: int


@dataclass(frozen=True)
class Options:
    """What the command line decided. ``forwarder``, ``control`` None: everything stays as it is."""

    listen: tuple[str, ...]
    data_dir: Path
    run_dir: Path
    forwarder: Ids | None
    control: Ids | None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    extmem_dir: Path | None = None
    af_xdp: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def api_socket(self) -> Path:
        return self.run_dir / paths.API_SOCKET


def _ids(text: str | None, fallback: int) -> Ids | None:
    """ "USER[:GROUP]" as numbers; who is not root cannot change them and gets None."""
    if text is None:
        return Ids(fallback, fallback) if os.geteuid() == 0 else None
    user, _, group = text.partition(":")
    try:
        if user.isdigit():
            uid, gid = int(user), int(user)
        else:
            entry = pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
        if group:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ServeError(f"{text!r}: {error.args[0]}") from error
    return Ids(uid, gid)


def options(
    *,
    listen: tuple[str, ...],
    data_dir: Path,
    run_dir: Path,
    forwarder_user: str | None,
    control_user: str | None,
    allow: tuple[str, ...] = (),
    deny: tuple[str, ...] = (),
    extmem_dir: Path | None = None,
    af_xdp: bool = False,
) -> Options:
    """Paths made absolute, users looked up; ServeError says what is wrong."""
    return Options(
        listen=listen or ("127.0.0.1:8080",),
        data_dir=data_dir.absolute(),
        run_dir=run_dir.absolute(),
        forwarder=_ids(forwarder_user, FORWARDER_ID),
        control=_ids(control_user, CONTROL_ID),
        allow=allow,
        deny=deny,
        extmem_dir=extmem_dir.absolute() if extmem_dir else None,
        af_xdp=af_xdp,
        limits=_limits(),
    )


def _limits() -> dict[str, int]:
    """What the environment says of the fast path's limits (VSWITCH_LIMIT_...)."""
    try:
        return Limits().fastpath
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise ServeError(f"VSWITCH_LIMIT_{name.upper()}: {first['msg']}") from error


def say(text: str) -> None:
    sys.stderr.write(f"vswitch: {text}\n")
    sys.stderr.flush()


# --- processes ------------------------------------------------------------------------------------


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def find_process(pid_file: Path, marks: tuple[str, ...]) -> tuple[int, int] | None:
    """(pid, pidfd) of the process a pid file names, if it lives and its command line has ``marks``.

    The pidfd is opened before the look at the command line: a number that is given to another
    process in between is noticed.
    """
    try:
        pid = int(pid_file.read_text())
        fd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return None
    words = _command_line(pid)
    if all(mark in words for mark in marks) and not _ended(fd):
        return pid, fd
    os.close(fd)
    return None


def _ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _wait_end(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


@dataclass
class Child:
    """A process that shall run. ``marks``: words its command line has and no other's."""

    name: str
    command: tuple[str, ...]
    pid_file: Path
    marks: tuple[str, ...]
    pid: int = 0
    pidfd: int = -1
    started_s: float = 0.0
    failures: int = 0
    due_s: float = 0.0

    @property
    def running(self) -> bool:
        return self.pidfd >= 0

    def adopt(self) -> bool:
        """Take over the process of an earlier supervisor."""
        found = find_process(self.pid_file, self.marks)
        if found is None:
            return False
        self.pid, self.pidfd = found
        self.started_s = time.monotonic()
        return True

    def start(self) -> None:
        # A session of its own: Ctrl-C reaches the supervisor only, which stops all in order.
        self.pid = os.posix_spawn(
            self.command[0],
            self.command,
            os.environ,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE),
        )
        self.pidfd = os.pidfd_open(self.pid)
        self.started_s = time.monotonic()

    def ended(self) -> None:
        """Forget the dead process and decide when the next one starts."""
        os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1
        now = time.monotonic()
        if now - self.started_s >= STEADY_S:
            self.failures = 0
        self.due_s = now + BACKOFF_S[min(self.failures, len(BACKOFF_S) - 1)]
        self.failures += 1

    def signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)


def children(opts: Options) -> tuple[Child, Child]:
    """Keeper and control plane, in the order of their start."""
    run, data = str(opts.run_dir), str(opts.data_dir)
    keeper: list[str] = [sys.executable, "-m", "fastpath", "keeper"]
    keeper += ["--run-dir", run, "--data-dir", data]
    control: list[str] = [sys.executable, "-m", "vswitch.control"]
    control += ["--run-dir", run, "--data-dir", data]
    for where in opts.listen:
        control += ["--listen", where]
    own_socket = f"unix:{opts.api_socket}"
    if own_socket not in opts.listen:
        control += ["--listen", own_socket]
    if opts.forwarder:
        keeper += ["--forwarder-uid", str(opts.forwarder.uid)]
        keeper += ["--forwarder-gid", str(opts.forwarder.gid)]
    for pattern in opts.allow:
        keeper += ["--allow", pattern]
    for pattern in opts.deny:
        keeper += ["--deny", pattern]
    if opts.extmem_dir:
        keeper += ["--extmem-dir", str(opts.extmem_dir)]
    if opts.af_xdp:
        keeper += ["--af-xdp"]
    for name, value in opts.limits.items():
        keeper += ["--limit", f"{name}={value}"]
    if opts.control:
        keeper += ["--control-gid", str(opts.control.gid)]
        control += ["--uid", str(opts.control.uid), "--gid", str(opts.control.gid)]
    return (
        Child(
            "keeper",
            tuple(keeper),
            opts.run_dir / "keeper.pid",
            ("fastpath", "keeper", run),
        ),
        Child(
            "control",
            tuple(control),
            opts.run_dir / "control.pid",
            ("vswitch.control", run),
        ),
    )


# --- the supervisor -------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold ``serve.pid``; ServeError when another supervisor does."""
    path = run_dir / "serve.pid"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ServeError(
                f"already running on {run_dir} (pid {file.read().strip()}); "
                "another instance needs its own --run-dir, --data-dir and --listen"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.seek(0)
        file.truncate()


class Wakeup:
    """Signals as readable bytes, so that one poll waits for them and for pidfds."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _nothing)

    def drain(self) -> set[int]:
        try:
            return set(os.read(self.reader, 256))
        except BlockingIOError:
            return set()


def _nothing(_number: int, _frame: object) -> None:
    """A handler must exist for the signal to reach the wake-up pipe."""


def _reap() -> None:
    """Collect every dead child; as process 1 of a container also the orphans."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


START_ERROR = 1
"""How keeper and control plane end when they cannot start, having said why in one sentence."""


def _collect(pid: int) -> int | None:
    """Exit code of a dead child, negative for a signal; None: an adopted one is not ours to ask."""
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "has ended"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"


class Supervisor:
    def __init__(self, opts: Options, ready: Callable[[Options], bool]) -> None:
        self._opts = opts
        self._children = children(opts)
        self._wakeup = Wakeup()
        self._ready = ready
        self._announced = False
        self._late_s = time.monotonic() + READY_TIMEOUT_S

    def run(self) -> None:
        """Until a signal says stop."""
        for child in self._children:
            if child.adopt():
                say(f"{child.name} is running already (pid {child.pid}): watching it")
        while True:
            self._start_due()
            signals = self._wait()
            if signals & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}:
                break
            for child in self._children:
                if child.running and _ended(child.pidfd):
                    self._died(child)
            _reap()
            self._announce()
        self._stop()

    def _died(self, child: Child) -> None:
        pid, code = child.pid, _collect(child.pid)
        child.ended()
        if code == START_ERROR and not self._announced:
            self._stop()
            raise ServeError(f"{child.name} cannot start; it said why")
        say(f"{child.name} (pid {pid}) {_exit_text(code)}; starting it again")

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.running and now >= child.due_s:
                child.start()

    def _wait(self) -> set[int]:
        """Signals that came; returns when a child ends or the next restart is due."""
        poll = select.poll()
        poll.register(self._wakeup.reader, select.POLLIN)
        due = []
        for child in self._children:
            if child.running:
                poll.register(child.pidfd, select.POLLIN)
            else:
                due.append(child.due_s)
        if not self._announced:
            due.append(time.monotonic() + 0.1)
        timeout_ms = max(0.0, (min(due) - time.monotonic()) * 1000) if due else None
        poll.poll(timeout_ms)
        return self._wakeup.drain()

    def _announce(self) -> None:
        if self._announced:
            return
        if self._ready(self._opts):
            self._announced = True
            for line in banner(self._opts):
                say(line)
        elif time.monotonic() > self._late_s:
            self._announced = True
            say(f"not ready after {READY_TIMEOUT_S:.0f} s; ask: vswitch system ready")

    def _stop(self) -> None:
        say("stopping")
        keeper, control = self._children
        self._end(control)
        self._end(keeper)
        forwarder = find_process(self._opts.run_dir / "forwarder.pid", ("fastpath", "forwarder"))
        if forwarder is not None:
            # Its keeper died before it could stop it.
            self._end(Child("forwarder", (), Path(), (), *forwarder))
        _reap()
        # The control plane gave up the right to remove what it made here.
        for path in (self._opts.api_socket, control.pid_file):
            path.unlink(missing_ok=True)

    def _end(self, child: Child) -> None:
        if not child.running:
            return
        child.signal(signal.SIGTERM)
        if not _wait_end(child.pidfd, STOP_TIMEOUT_S):
            say(
                f"{child.name} (pid {child.pid}) did not stop in {STOP_TIMEOUT_S:.0f} s: killing it"
            )
            child.signal(signal.SIGKILL)
            _wait_end(child.pidfd, STOP_TIMEOUT_S)
        _reap()


def is_ready(opts: Options) -> bool:
    """The API answers and says that frames are forwarded."""
    import httpx

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(opts.api_socket)) != 0:
            return False
    try:
        transport = httpx.HTTPTransport(uds=str(opts.api_socket))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=2.0) as client:
            return client.get("/api/v1/system/ready").status_code == 200
    except httpx.HTTPError:
        return False


def banner(opts: Options) -> list[str]:
    """Where it listens, where the token is, and a first call to try."""
    token = opts.data_dir / paths.TOKEN_FILE
    lines = [f"ready; listening on {', '.join(opts.listen)} and unix:{opts.api_socket}"]
    lines.append(f"admin token in {token}")
    tcp = next((where for where in opts.listen if not where.startswith("unix:")), None)
    if tcp is None:
        lines.append(f"try: curl --unix-socket {opts.api_socket} http://localhost/api/v1/bridges")
    else:
        lines.append(
            f'try: curl -H "Authorization: Bearer $(cat {token})" http://{tcp}/api/v1/bridges'
        )
    return lines


def _closed_to(path: Path, ids: Ids) -> Path | None:
    """The first directory on the way to ``path`` that these ids cannot pass; None: all is open."""
    for directory in reversed(path.parents):
        info = directory.stat()
        if ids.uid == info.st_uid:
            bit = stat.S_IXUSR
        elif ids.gid == info.st_gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if ids.uid != 0 and not info.st_mode & bit:
            return directory
    return None


def prepare(opts: Options) -> None:
    """Make both directories; ServeError when the control plane could not reach them.

    Their owners and modes are set by the processes that use them.
    """
    for path in (opts.run_dir, opts.data_dir):
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o750)
            closed = _closed_to(path.resolve(), opts.control) if opts.control else None
        except OSError as error:
            raise ServeError(f"cannot make {error.filename}: {error.strerror}") from error
        owner = path.stat().st_uid
        if owner not in {0, os.geteuid(), opts.control.uid if opts.control else 0}:
            raise ServeError(f"{path} belongs to user {owner}; choose another place")
        if closed is not None and opts.control:
            raise ServeError(
                f"{closed} is closed to the control plane's user {opts.control.uid}: choose "
                f"another place than {path}, or let it pass with chmod o+x {closed}"
            )


def run(opts: Options) -> None:
    """Serve until told to stop; ServeError when it cannot start."""
    prepare(opts)
    with lock(opts.run_dir):
        Supervisor(opts, is_ready).run()
