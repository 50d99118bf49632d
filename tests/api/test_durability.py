"""What was answered is kept: many writers, restarts, deaths at the worst moment."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from fastpath.protocol import WireBridge
from tests.api.conftest import API, Api
from tests.support.fake_forwarder import FakeForwarder
from tests.support.topology import end_process, wait_until
from vswitch.store import Store
from vswitch.store.database import Migrations, engine_for
from vswitch.store.models import Base

WRITERS = 8
WRITES = 50


def test_writers_do_not_lose_each_others_changes(api: Api) -> None:
    """400 read-modify-writes of one object: each makes one generation, revision and audit row."""
    api.bridge()
    faults: list[str] = []

    def write(number: int) -> None:
        with httpx.Client(
            base_url=f"http://localhost:{api.port_number}",
            headers={"Authorization": f"Bearer {api.token}"},
            timeout=60,
        ) as client:
            for step in range(WRITES):
                answer = client.patch(
                    f"{API}/bridges/br0",
                    params={"wait": "none"},
                    json={"labels": {f"w{number}": str(step)}},
                )
                if answer.status_code != 200:
                    faults.append(answer.text)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    bridge = api("GET", "/bridges/br0")
    assert bridge["generation"] == 1 + WRITERS * WRITES
    assert bridge["labels"] == {f"w{number}": str(WRITES - 1) for number in range(WRITERS)}
    with sqlite3.connect(api.settings.database) as database:
        count = database.execute("SELECT count(*) FROM revisions").fetchone()
        audited = database.execute("SELECT count(*) FROM audit WHERE action = 'patch'").fetchone()
    assert (count, audited) == ((1 + WRITERS * WRITES,), (WRITERS * WRITES,))


def without_status(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "status"}


def test_a_restart_keeps_everything_and_sends_nothing(api: Api) -> None:
    api.bridge(vlan_filtering=True)
    api.port("p1", vlan={"mode": "trunk", "tagged": ["5-9", "3"]})
    api("PUT", "/bridges/br0/fdb/02:00:00:00:00:01", {"spec": {"port": "p1", "vlan": 7}})
    before = [api("GET", path) for path in ("/bridges/br0", "/ports/p1")]
    sent = (len(api.forwarder.applies), len(api.forwarder.snapshots))
    token = api.token
    api.restart()
    api.wait_ready()
    after = [api("GET", path) for path in ("/bridges/br0", "/ports/p1")]
    assert [without_status(item) for item in after] == [without_status(item) for item in before]
    assert [item["status"]["observed_generation"] for item in after] == [1, 1]
    assert api("GET", "/bridges/br0/fdb/02:00:00:00:00:01")["spec"]["vlan"] == 7
    assert (len(api.forwarder.applies), len(api.forwarder.snapshots)) == sent
    assert api.token == token


def test_a_commit_that_was_never_pushed_is_pushed_by_the_next_process(api: Api) -> None:
    """The process dies between commit and push: here the forwarder is away meanwhile."""
    api.bridge()
    api.forwarder.close()
    api("PUT", "/bridges/br1", {"spec": {}}, wait="none")
    api.stop()
    assert "bridge/br1" not in api.forwarder.objects
    api.forwarder.listen()
    api.start()
    api.wait_ready()
    assert set(api.forwarder.objects) == {"bridge/br0", "bridge/br1"}
    assert len(api.forwarder.snapshots) == 1


def test_a_forwarder_that_forgot_gets_a_snapshot(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api.forwarder.forget()
    api.forwarder.disconnect()
    wait_until(lambda: len(api.forwarder.objects) == 2, 10, "all is there again")
    assert len(api.forwarder.snapshots) == 1
    api.wait_ready()


def test_a_forwarder_with_another_configuration_is_put_right(api: Api) -> None:
    """A delta that does not fit is followed by a snapshot."""
    api.bridge()
    api.forwarder.forget()
    api.port("p1")
    assert set(api.forwarder.objects) == {"bridge/br0", "port/p1"}
    assert len(api.forwarder.snapshots) >= 1


def test_deltas_follow_the_size_of_the_change(api: Api) -> None:
    api.bridge()
    for number in range(20):
        api.port(f"p{number}")
    api.forwarder.applies.clear()
    api("PATCH", "/ports/p7", {"spec": {"learning": False}})
    api("PATCH", "/ports/p7", {"description": "nothing that frames feel"})
    api("PATCH", "/bridges/br0", {"spec": {"default_pvid": 9}})
    sizes = [(len(item.upserts), len(item.deletes)) for item in api.forwarder.applies]
    assert sizes == [(1, 0), (20, 0)]
    assert len(api.forwarder.snapshots) == 0
    assert api("GET", "/ports/p7")["status"]["observed_generation"] == 3


def test_a_forwarder_that_hangs_is_not_waited_for(make_api: Callable[..., Api]) -> None:
    api = make_api(wait_applied_ms=100)
    api.wait_ready()
    api.forwarder.answering.clear()
    assert api.http.put(f"{API}/bridges/br0", json={"spec": {}}).status_code == 202
    wait_until(
        lambda: api.http.get(f"{API}/system/ready").status_code == 503, 10, "it is not ready"
    )
    assert api.http.get(f"{API}/stats/ports").json()["code"] == "FASTPATH_DOWN"
    assert api.http.get(f"{API}/system/health").status_code == 200
    api.forwarder.answering.set()
    api.wait_ready()
    assert isinstance(api.forwarder.objects["bridge/br0"], WireBridge)


# --- the process itself --------------------------------------------------------------------------


class Process:
    """``python -m vswitch.control`` on directories of its own, reached over its Unix socket."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.command = [
            *(sys.executable, "-m", "vswitch.control"),
            *("--data-dir", str(home / "data"), "--run-dir", str(home / "run")),
            *("--listen", f"unix:{home}/run/api.sock"),
            *("--uid", str(os.getuid()), "--gid", str(os.getgid())),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        transport = httpx.HTTPTransport(uds=f"{home}/run/api.sock")
        self.http = httpx.Client(transport=transport, base_url="http://localhost", timeout=10)

    def start(self) -> None:
        self.process = subprocess.Popen(self.command)
        wait_until(self.ready, 30, "the control plane is ready")

    def ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(f"{self.home}/run/api.sock"):
                return False
        with contextlib.suppress(httpx.TransportError):
            return self.http.get(f"{API}/system/ready").status_code == 200
        return False

    def stop(self) -> None:
        if self.process is not None:
            end_process(self.process, 15)
            self.process = None


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    (tmp_path / "run").mkdir()
    made = Process(tmp_path)
    with FakeForwarder(tmp_path / "run" / "forwarder.sock"):
        try:
            yield made
        finally:
            made.http.close()
            made.stop()


def test_what_was_answered_survives_kill_9(process: Process) -> None:
    """Killed in the middle of writes, three times: every acknowledged object is there."""
    acknowledged = 0
    enough = threading.Event()
    for round_number in range(3):
        process.start()
        found = {
            item["name"]
            for item in process.http.get(f"{API}/bridges", params={"limit": 1000}).json()["items"]
        }
        assert {f"b{number}" for number in range(acknowledged)} <= found
        assert process.process is not None
        victim = process.process

        def kill(pid: int = victim.pid) -> None:
            enough.wait(30)
            os.kill(pid, signal.SIGKILL)

        enough.clear()
        after = acknowledged + 3 + round_number
        killer = threading.Thread(target=kill)
        killer.start()
        with contextlib.suppress(httpx.TransportError):
            while True:
                answer = process.http.put(
                    f"{API}/bridges/b{acknowledged}", json={"spec": {}}, params={"wait": "none"}
                )
                assert answer.status_code in (200, 201), answer.text
                acknowledged += 1
                if acknowledged >= after:
                    enough.set()
        killer.join()
        victim.wait(10)
    assert acknowledged >= 12


def test_a_second_instance_says_so_and_leaves_the_first_alone(process: Process) -> None:
    process.start()
    same = subprocess.run(process.command, capture_output=True, text=True, timeout=30)
    assert same.returncode == 1
    assert same.stderr.count("\n") == 1
    assert "is used by another control plane" in same.stderr
    other_run = process.home / "run2"
    command = [*process.command, "--run-dir", str(other_run), "--listen", f"unix:{other_run}/a"]
    command.remove(f"unix:{process.home}/run/api.sock")
    command.remove("--listen")
    other = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert other.returncode == 1
    assert f"{process.home}/data is used by another control plane" in other.stderr
    assert process.ready()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "0.0.0.0:0"], "reachable from other hosts"),
        (["--listen", "[::]:0"], "reachable from other hosts"),
        (["--listen", "nonsense"], "give ADDRESS:PORT"),
        (["--listen", "example.net:80"], "give ADDRESS:PORT"),
        (["--tls-cert", "x"], "need each other"),
        (["--tls-cert", "/none", "--tls-key", "/none"], "TLS certificate"),
        (["--listen", "192.0.2.1:0", "--tls-cert", "a", "--tls-key", "b"], "TLS certificate"),
    ],
)
def test_what_does_not_start_says_why(
    process: Process, arguments: list[str], sentence: str
) -> None:
    result = subprocess.run(
        [*process.command, *arguments], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_tls_beyond_the_unix_socket(process: Process) -> None:
    """TCP speaks TLS, the Unix socket does not need it; the key is read before rights are gone."""
    key, cert = process.home / "key.pem", process.home / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=localhost", "-keyout", str(key)),
            *("-addext", "subjectAltName=DNS:localhost", "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    process.command += ["--listen", f"127.0.0.1:{number}"]
    process.command += ["--tls-cert", str(cert), "--tls-key", str(key)]
    process.start()
    token = (process.home / "data" / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    context = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(verify=context, headers=headers) as client:
        url = f"https://localhost:{number}{API}/bridges"
        assert client.get(url).status_code == 200
        assert client.get(url, headers={"Origin": f"https://localhost:{number}"}).is_success
        assert client.get(url, headers={"Origin": f"http://localhost:{number}"}).status_code == 403
    with pytest.raises(httpx.TransportError), httpx.Client() as client:
        client.get(f"http://localhost:{number}{API}/bridges")


def test_idle_connections_are_bounded_and_closed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vswitch.control.CONNECTIONS_MAX", 20)
    monkeypatch.setattr("vswitch.control.HEAD_S", 0.5)
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", api.port_number)
        idle = [
            stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(40)
        ]
        for sock in idle:
            sock.sendall(b"GET / HTTP/1.1\r\n")
        assert all(ended(sock) for sock in idle)
    assert api("GET", "/bridges")["items"] == []


def ended(sock: socket.socket) -> bool:
    """The other side closed without a word."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def test_migrations_lead_to_the_models(tmp_path: Path) -> None:
    """What the scripts make is what the code expects: nothing is left to migrate."""
    Store(tmp_path / "x.db").close()
    engine = engine_for(tmp_path / "x.db", write=False)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        foreign_keys = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
        assert (foreign_keys, *_pragmas(connection)) == (1, "wal", 2)
    engine.dispose()


def test_a_database_from_before_rules_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    engine = engine_for(path, write=True)
    Migrations().upgrade(engine, "0001")
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.execute(
            "INSERT INTO bridges (uid, labels, description, generation, revision, spec, "
            "created_at, updated_at, name) VALUES ('u', '{}', '', 3, 5, '{\"mtu\": 1500}', "
            "'2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00', 'br0')"
        )
    with contextlib.closing(Store(path)) as store:
        configuration = store.load()
    assert configuration.bridges["br0"].spec.mtu == 1500
    assert configuration.bridges["br0"].generation == 3
    assert not configuration.rulesets


def _pragmas(connection: Connection) -> tuple[object, object]:
    journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    return journal, connection.exec_driver_sql("PRAGMA synchronous").scalar()


def test_a_database_that_is_none_is_refused(process: Process) -> None:
    (process.home / "data").mkdir()
    (process.home / "data" / "vswitch.db").write_bytes(b"not a database, by any means" * 100)
    result = subprocess.run(process.command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "file is not a database" in result.stderr
    assert "Traceback" not in result.stderr


def test_files_are_private_and_nothing_can_be_regained(process: Process) -> None:
    process.start()
    data = process.home / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    for name in ("admin.token", "vswitch.db", "lock"):
        assert (data / name).stat().st_mode & 0o777 == 0o600, name
    token = (data / "admin.token").read_text().strip()
    assert token.encode() not in (data / "vswitch.db").read_bytes()
    assert process.process is not None
    assert int((process.home / "run" / "control.pid").read_text()) == process.process.pid
    status = Path(f"/proc/{process.process.pid}/status").read_text().split("\n")
    facts = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(facts[name], 16) == 0, name
    assert facts["NoNewPrivs"] == "1"
    assert process.http.get(f"{API}/bridges").status_code == 200
