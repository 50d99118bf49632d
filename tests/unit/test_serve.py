"""``vswitch serve`` with the real processes; memory ports, so that nobody has to be root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.appliance import listens
from vswitch import serve

NAMES = ("keeper", "forwarder", "control")
DEADLINE_S = 30.0


def wait_until(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S:.0f} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class Instance:
    """Directories that every user can reach, and a supervisor that may come and go."""

    def __init__(self, parent: Path | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="vswitch-serve-", dir=parent))
        self.home.chmod(0o755)
        self.prefix: tuple[str, ...] = ()
        self.run_dir = self.home / "run"
        self.more: tuple[str, ...] = ()
        self.process: subprocess.Popen[str] | None = None
        transport = httpx.HTTPTransport(uds=str(self.run_dir / "api.sock"))
        self.http = httpx.Client(transport=transport, base_url="http://localhost", timeout=10)

    def command(self) -> list[str]:
        arguments = ["--listen", f"unix:{self.run_dir}/api.sock"]
        arguments += ["--data-dir", f"{self.home}/data", "--run-dir", str(self.run_dir)]
        return [*self.prefix, sys.executable, "-m", "vswitch", "serve", *arguments, *self.more]

    def start(self) -> None:
        log = (self.home / "log").open("a")
        with log:
            self.process = subprocess.Popen(self.command(), stderr=log, text=True)
        try:
            wait_until("readiness", self.ready)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n{self.log()}") from None

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        if not listens(self.run_dir / "api.sock"):
            return False
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get("/api/v1/system/ready").status_code == 200
        return False

    def log(self) -> str:
        return (self.home / "log").read_text()

    def pid(self, name: str) -> int:
        try:
            return int((self.run_dir / f"{name}.pid").read_text() or 0)
        except (OSError, ValueError):
            return 0

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in NAMES}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, f"/api/v1{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        self.http.close()
        left = [pid for pid in self.pids().values() if pid]
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in left:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home)


@pytest.fixture
def instance() -> Iterator[Instance]:
    with contextlib.closing(Instance()) as made:
        yield made


@pytest.mark.parametrize("victim", NAMES)
def test_a_killed_process_is_replaced_and_the_others_stay(instance: Instance, victim: str) -> None:
    instance.start()
    instance.call("PUT", "/bridges/br0", {"spec": {}})
    before = instance.pids()
    os.kill(before[victim], signal.SIGKILL)
    wait_until(f"a new {victim}", lambda: instance.pid(victim) not in (0, before[victim]))
    wait_until("readiness", instance.ready)
    after = instance.pids()
    assert {name for name in NAMES if after[name] != before[name]} == {victim}
    assert [item["name"] for item in instance.call("GET", "/bridges")["items"]] == ["br0"]


def test_a_new_supervisor_adopts_what_runs(instance: Instance) -> None:
    instance.start()
    before = instance.pids()
    assert instance.process is not None
    instance.process.kill()
    instance.process.wait()
    assert all(alive(pid) for pid in before.values())
    instance.start()
    adopted = f"control is running already (pid {before['control']})"
    wait_until("adoption", lambda: adopted in instance.log())
    assert instance.pids() == before
    # Adopted is as good as its own: watched, and stopped in the end.
    os.kill(before["control"], signal.SIGKILL)
    wait_until("a new control plane", lambda: instance.pid("control") not in (0, before["control"]))
    wait_until("readiness", instance.ready)
    assert instance.stop() == 0
    assert not any(alive(pid) for pid in before.values())


def test_stop_ends_everything_and_start_brings_it_back(instance: Instance) -> None:
    instance.start()
    instance.call("PUT", "/bridges/br0", {"spec": {}})
    instance.call("PUT", "/ports/m0", {"spec": {"bridge": "br0", "backend": {"type": "memory"}}})
    pids = instance.pids()
    assert instance.stop() == 0
    assert not any(alive(pid) for pid in pids.values())
    assert not list(instance.run_dir.glob("*.sock"))
    instance.start()
    wait_until("the same ports", lambda: instance.call("GET", "/stats/ports")["items"])
    conditions = instance.call("GET", "/ports/m0")["status"]["conditions"]
    assert {c["type"]: str(c["status"]) for c in conditions}["Ready"] == "True"


def test_a_forwarder_without_a_keeper_is_stopped_too(instance: Instance) -> None:
    instance.start()
    pids = instance.pids()
    assert instance.process is not None
    os.kill(instance.process.pid, signal.SIGKILL)
    instance.process.wait()
    os.kill(pids["keeper"], signal.SIGKILL)
    wait_until("the keeper's end", lambda: not alive(pids["keeper"]))
    assert alive(pids["forwarder"])
    instance.start()
    wait_until("a new keeper", lambda: instance.pid("keeper") not in (0, pids["keeper"]))
    assert instance.pid("forwarder") == pids["forwarder"]
    assert instance.stop() == 0
    assert not alive(pids["forwarder"])


def test_the_second_on_the_same_directory_says_so(instance: Instance) -> None:
    instance.start()
    assert instance.process is not None
    second = subprocess.run(
        instance.command(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert second.returncode == 1
    assert f"already running on {instance.run_dir} (pid {instance.process.pid})" in second.stderr
    assert instance.ready()


def test_what_cannot_start_is_said_once(instance: Instance) -> None:
    """An address that is taken is no reason to try for ever."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*instance.command(), "--listen", where],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on {where}: Address already in use" in done.stderr
    assert done.stderr.count("cannot listen") == 1
    assert "control cannot start" in done.stderr


def test_two_instances_side_by_side(instance: Instance) -> None:
    with contextlib.closing(Instance()) as other:
        instance.start()
        other.start()
        instance.call("PUT", "/bridges/br0", {"spec": {}})
        assert other.call("GET", "/bridges")["items"] == []


def test_a_pid_file_that_names_a_stranger_is_not_believed(tmp_path: Path) -> None:
    pid_file = tmp_path / "keeper.pid"
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text(f"{stranger.pid}\n")
        assert serve.find_process(pid_file, ("fastpath", "keeper")) is None
        # exec makes the command line visible a moment after Popen returns.
        wait_until("its command line", lambda: b"sleep" in command_line(stranger.pid))
        found = serve.find_process(pid_file, ("sleep",))
        assert found is not None
        os.close(found[1])
        stranger.kill()
        stranger.wait()
        assert serve.find_process(pid_file, ("sleep",)) is None


def test_restarts_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    child = serve.Child("x", (), Path(), ())
    delays = []
    for _ in range(9):
        child.pidfd, child.started_s = os.open("/dev/null", os.O_RDONLY), now
        child.ended()
        delays.append(child.due_s - now)
    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0])
    child.pidfd, child.started_s = os.open("/dev/null", os.O_RDONLY), now - serve.STEADY_S
    child.ended()
    assert child.due_s == now


def test_directories_nobody_else_can_reach_are_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    ids = serve.Ids(64000, 64000)
    options = serve.Options((), closed / "data", tmp_path / "run", None, ids)
    with pytest.raises(serve.ServeError, match="is closed to the control plane's user 64000"):
        serve.prepare(options)


@pytest.mark.root
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    options = serve.Options((), tmp_path, tmp_path, None, None)
    with pytest.raises(serve.ServeError, match="belongs to user 12345"):
        serve.prepare(options)


def test_the_keeper_is_told_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options() -> serve.Options:
        return serve.options(
            listen=(), data_dir=tmp_path, run_dir=tmp_path, forwarder_user=None, control_user=None
        )

    monkeypatch.setenv("VSWITCH_LIMIT_CONNECTIONS", "1000")
    monkeypatch.setenv("VSWITCH_LIMIT_TCP_LOOSE", "true")
    line = " ".join(serve.children(options())[0].command)
    assert "--limit connections_max=1000 --limit connections_port_max=0" in line
    assert "--limit tcp_loose=1" in line
    monkeypatch.setenv("VSWITCH_LIMIT_CONNECTIONS", "0")
    with pytest.raises(serve.ServeError, match=r"^VSWITCH_LIMIT_CONNECTIONS: .*greater"):
        options()


def test_the_keeper_is_told_what_it_may_open(tmp_path: Path) -> None:
    options = serve.options(
        listen=(),
        data_dir=tmp_path,
        run_dir=tmp_path,
        forwarder_user=None,
        control_user=None,
        allow=("veth-*", "eth1"),
        deny=("veth-x",),
        extmem_dir=tmp_path / "huge",
        af_xdp=True,
    )
    keeper, _ = serve.children(options)
    line = " ".join(keeper.command)
    assert line.count("--af-xdp") == 1
    assert "--allow veth-* --allow eth1 --deny veth-x" in line
    assert f"--extmem-dir {tmp_path / 'huge'}" in line
