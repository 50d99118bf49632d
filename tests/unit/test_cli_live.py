"""The command line against a whole appliance with memory ports."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli import run
from tests.unit.test_serve import Instance


@pytest.fixture(scope="module")
def appliance() -> Iterator[Instance]:
    with contextlib.closing(Instance()) as made:
        made.start()
        yield made


class Shell:
    """Runs commands with the address filled in; JSON out."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capsys = capsys
        self.errors = ""

    def run(self, *args: str) -> int:
        code = run(*args, "--url", self._url)
        self.errors = self._capsys.readouterr().err
        return code

    def json(self, *args: str) -> Any:
        self._capsys.readouterr()
        code = run(*args, "-o", "json", "--url", self._url)
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)


@pytest.fixture
def shell(appliance: Instance, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(f"unix:{appliance.run_dir}/api.sock", capsys)


def test_a_switch_from_nothing_to_nothing(shell: Shell) -> None:
    made = shell.json("bridge", "create", "br0", "--ageing-s", "60", "-l", "site=a")
    assert made["spec"]["fdb"]["ageing_s"] == 60
    assert shell.run("bridge", "create", "br0") == 5
    for name in ("p1", "p2"):
        port = shell.json("port", "create", name, "--bridge", "br0", "--type", "memory")
        assert port["generation"] == 1
    assert [item["name"] for item in shell.json("port", "list")] == ["p1", "p2"]
    assert shell.json("bridge", "list", "-l", "site=b") == []
    assert len(shell.json("bridge", "list", "-l", "site=a")) == 1

    changed = shell.json("port", "set", "p1", "--down")
    assert changed["spec"]["admin_up"] is False
    assert changed["spec"]["backend"] == {"type": "memory"} | changed["spec"]["backend"]
    assert shell.json("port", "set", "p1", "--up")["spec"]["admin_up"] is True

    shell.json("fdb", "set", "br0", "02:00:00:00:00:01", "--port", "p1")
    rows = shell.json("fdb", "list", "br0")
    assert [(row["mac"], row["port"], row["static"]) for row in rows] == [
        ("02:00:00:00:00:01", "p1", True)
    ]
    assert shell.json("fdb", "flush", "br0") == {"entries": 0}
    assert shell.run("fdb", "delete", "br0", "02:00:00:00:00:01") == 0

    assert shell.run("bridge", "delete", "br0") == 5
    assert "IN_USE" in shell.errors
    for name in ("p1", "p2"):
        assert shell.run("port", "delete", name) == 0
    assert shell.run("bridge", "delete", "br0") == 0
    assert shell.run("bridge", "show", "br0") == 4


RULES = """
spec:
  attach: [{bridge: br1, direction: ingress}]
  rules:
  - {id: web, priority: 10, action: {type: drop}, match: {ip: {proto: tcp}, l4: {dport: ["80"]}}}
  - {id: rest, action: {type: police, policer: slow}, match: {ip: {src: "group:bad"}}}
"""


def test_rules_from_a_file_and_one_by_one(shell: Shell, tmp_path: Path) -> None:
    shell.json("bridge", "create", "br1")
    made = shell.json("group", "put", "bad", "--type", "ip", "-m", "10.0.0.0/8", "-m", "::1")
    assert made["spec"]["members"] == ["10.0.0.0/8", "::1"]
    policer = shell.json("policer", "put", "slow", "--rate", "1000", "--unit", "frames_per_s")
    assert policer["status"]["burst"] == 100
    file = tmp_path / "fw.yaml"
    file.write_text(RULES)
    assert shell.json("ruleset", "apply", "fw", str(file))["generation"] == 1
    arguments = ("--action", "allow", "--priority", "5", "-s", "match.eth.type=arp")
    assert shell.json("rule", "put", "fw", "arp", *arguments)["spec"]["priority"] == 5
    assert [item["id"] for item in shell.json("rule", "list", "fw")] == ["arp", "web", "rest"]
    assert [item["id"] for item in shell.json("ruleset", "counters", "fw")] == [
        "arp",
        "web",
        "rest",
    ]
    assert shell.json("ruleset", "log", "fw")["items"] == []
    assert shell.json("ruleset", "list")[0]["status"]["compiled"]["rules"] == 3
    assert shell.run("group", "delete", "bad") == 5
    assert shell.run("rule", "delete", "fw", "rest") == 0
    assert shell.run("rule", "show", "fw", "rest") == 4
    assert shell.json("group", "list")[0]["status"]["referrers"] == []
    for command in ("group delete bad", "policer delete slow"):
        assert shell.run(*command.split()) == 0
    table = tmp_path / "table.json"
    table.write_text('[{"dir": 0, "proto": 6, "dstport": 80}, {"dir": 1, "proto": 17}]')
    imported = shell.json("ruleset", "import", "old", str(table), "--bridge", "br1")
    assert [item["name"] for item in imported["items"]] == ["old-in", "old-out"]
    for output in ("table", "yaml"):
        for command in ("ruleset list", "rule list fw", "ruleset counters fw", "policer list"):
            assert shell.run(*command.split(), "-o", output) == 0
    for name in ("fw", "old-in", "old-out"):
        assert shell.run("ruleset", "delete", name) == 0
    assert shell.run("bridge", "delete", "br1") == 0


def test_refusals_name_the_field(shell: Shell) -> None:
    assert shell.run("port", "create", "px", "--type", "tap", "-s", "vlan.pvid=9999") == 1
    assert "/spec/vlan/pvid" in shell.errors
    assert shell.run("port", "show", "nobody") == 4


@pytest.mark.parametrize(
    "command",
    [
        *("stats ports", "stats queues", "stats drops", "stats ledger"),
        *("system ready", "system preflight", "system capabilities", "system version"),
    ],
)
def test_every_question_is_answered_in_every_form(shell: Shell, command: str) -> None:
    assert shell.json(*command.split()) is not None
    for output in ("table", "yaml"):
        assert shell.run(*command.split(), "-o", output) == 0


def test_over_tcp_a_token_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSWITCH_TOKEN", raising=False)
    with contextlib.closing(Instance()) as other:
        port = free_port()
        other.more = ("--listen", f"127.0.0.1:{port}")
        other.start()
        url = f"http://127.0.0.1:{port}"
        assert run("port", "list", "--url", url) == 6
        assert "--token-file" in capsys.readouterr().err
        token = str(other.home / "data/admin.token")
        assert run("port", "list", "--url", url, "--token-file", token) == 0


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number
