"""The command line against a transport that answers what the test says."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from vswitch import cli
from vswitch.cli import client as cli_client
from vswitch.cli import edit, top

Answer = Callable[[httpx.Request], httpx.Response]


@dataclass
class Stub:
    """Answers by (method, path); remembers what it was asked."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.get((request.method, request.url.path.removeprefix("/api/v1")))
        if answer is None:
            return problem(404, "NOT_FOUND", f"there is no {request.url.path}")
        return answer(request)

    def on(self, method: str, path: str, body: Any, status: int = 200) -> None:
        self.answers[(method, path)] = lambda _request: httpx.Response(status, json=body)


def problem(status: int, code: str, detail: str, **more: Any) -> httpx.Response:
    body = {"type": "about:blank", "title": "no", "status": status, "code": code, "detail": detail}
    return httpx.Response(
        status, json=body | more, headers={"content-type": "application/problem+json"}
    )


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()

    def connect(url: str | None, token_file: Path | None) -> cli_client.Client:
        http = httpx.Client(base_url="http://stub", transport=httpx.MockTransport(made.handle))
        return cli_client.Client(http, url or "stub")

    monkeypatch.setattr(cli_client, "connector", connect)
    return made


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    code = end.value.code
    return code if isinstance(code, int) else 0


def port(name: str, ready: str = "True", **condition: str) -> dict[str, Any]:
    return {
        "name": name,
        "spec": {"bridge": "br0", "backend": {"type": "af_packet", "ifname": "veth-a"}},
        "status": {
            "mtu": 1500,
            "conditions": [{"type": "Ready", "status": ready, **condition}],
        },
    }


def test_list_walks_every_page(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    def pages(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("cursor") == "2":
            return httpx.Response(200, json={"items": [port("p2")], "next_cursor": None})
        return httpx.Response(200, json={"items": [port("p1")], "next_cursor": "2"})

    stub.answers[("GET", "/ports")] = pages
    assert run("port", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "BRIDGE", "TYPE", "DEVICE", "READY", "LINK", "MTU"]
    assert lines[1].split() == ["p1", "br0", "af_packet", "veth-a", "yes", "unknown", "1500"]
    assert lines[2].split()[0] == "p2"


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_machine_output_is_the_answer(
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
    output: str,
    load: Callable[[str], Any],
) -> None:
    stub.on("GET", "/ports", {"items": [port("p1")]})
    assert run("port", "list", "-o", output) == 0
    assert load(capsys.readouterr().out) == [port("p1")]


def test_create_sends_what_the_options_say(stub: Stub) -> None:
    stub.on("PUT", "/ports/p1", port("p1"), 201)
    arguments = "--bridge br0 --type af_packet -b ifname=veth-a -b queues=2 --vlan-mode trunk"
    assert run("port", "create", "p1", *arguments.split(), "--tagged", "10-20,30") == 0
    request = stub.asked[0]
    assert request.headers["if-none-match"] == "*"
    assert json.loads(request.content) == {
        "spec": {
            "bridge": "br0",
            "backend": {"type": "af_packet", "ifname": "veth-a", "queues": 2},
            "vlan": {"mode": "trunk", "tagged": ["10-20", "30"]},
        }
    }


def test_set_changes_only_what_is_named(stub: Stub) -> None:
    stub.on("PATCH", "/bridges/br0", {"name": "br0", "spec": {}, "status": {}})
    assert run("bridge", "set", "br0", "--vlan-filtering", "-s", "fdb.ageing_s=10") == 0
    body = json.loads(stub.asked[0].content)
    assert body == {"spec": {"vlan_filtering": True, "fdb": {"ageing_s": 10}}}


def test_a_file_is_overridden_by_options(stub: Stub, tmp_path: Path) -> None:
    stub.on("PUT", "/ports/p1", port("p1"))
    file = tmp_path / "p1.yaml"
    file.write_text("spec: {bridge: br1, backend: {type: tap, name: t0}}\nlabels: {rack: a}\n")
    assert run("port", "create", "p1", "-f", str(file), "--bridge", "br0", "-l", "row=1") == 0
    assert json.loads(stub.asked[0].content) == {
        "spec": {"bridge": "br0", "backend": {"type": "tap", "name": "t0"}},
        "labels": {"rack": "a", "row": "1"},
    }


def test_what_is_not_in_force_is_said(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    answer = port("p1", "False", reason="IFACE_NOT_FOUND", message="there is no veth-a")
    stub.on("PUT", "/ports/p1", answer, 201)
    assert run("port", "create", "p1", "--type", "af_packet", "-b", "ifname=veth-a") == 0
    assert "port p1 is not ready: there is no veth-a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code"), [(401, 6), (403, 6), (404, 4), (409, 5), (412, 5), (422, 1), (503, 3)]
)
def test_exit_code_of_a_refusal(stub: Stub, status: int, code: int) -> None:
    stub.answers[("DELETE", "/bridges/br0")] = lambda _request: problem(status, "X", "no")
    assert run("bridge", "delete", "br0") == code


def test_a_problem_is_printed_whole(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers[("DELETE", "/bridges/br0")] = lambda _request: problem(
        409,
        "IN_USE",
        "bridge br0 [old] has ports",
        hint="delete them first",
        errors=[{"pointer": "/ports/p1", "code": "IN_USE", "message": "refers to it"}],
    )
    run("bridge", "delete", "br0")
    text = capsys.readouterr().err
    assert "bridge br0 [old] has ports (IN_USE, 409)" in text
    assert "delete them first" in text
    assert "/ports/p1: refers to it" in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nobody_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("port", "list", "--url", f"unix:{tmp_path}/no.sock") == 3
    gc.collect()  # httpcore leaves the socket of a failed connect to the collector
    assert "vswitch serve" in capsys.readouterr().err


def test_nonsense_url() -> None:
    assert run("port", "list", "--url", "ftp://x") == 2


def test_token_comes_from_file_or_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VSWITCH_TOKEN", raising=False)
    (tmp_path / "t").write_text("from-file\n")
    made = cli_client.connect("http://127.0.0.1:1", tmp_path / "t")
    assert made._http.headers["authorization"] == "Bearer from-file"
    monkeypatch.setenv("VSWITCH_TOKEN", "from-environment")
    made = cli_client.connect("http://127.0.0.1:1", tmp_path / "t")
    assert made._http.headers["authorization"] == "Bearer from-environment"


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("true", True), ("veth-a", "veth-a"), ('"10"', "10"), ('["1-2"]', ["1-2"])],
)
def test_values_are_json_where_they_can_be(text: str, value: object) -> None:
    assert edit.value_of(text) == value


def test_ledger_and_drops(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    books = dict.fromkeys(
        ("rx_frames", "copies", "segments", "originated", "tx_frames", "drops", "consumed"), 1
    )
    stub.on("GET", "/stats/ledger", books | {"in_flight": 0})
    assert run("stats", "ledger") == 0
    assert "in_flight" in capsys.readouterr().out
    counters = {"rx_frames": 9, "rx_bytes": 900, "tx_frames": 0, "tx_bytes": 0}
    drops = {"too_big": 2, "queue_full": 7, "malformed": 0}
    stub.on("GET", "/stats/ports", {"items": [{"name": "p1", "drops": drops} | counters]})
    assert run("stats", "ports") == 0
    assert "queue_full 7, too_big 2" in capsys.readouterr().out


def test_top_shows_rates() -> None:
    def counters(frames: int, lost: int) -> dict[str, Any]:
        return {
            "rx_frames": frames,
            "rx_bytes": frames * 1000,
            "tx_frames": 0,
            "tx_bytes": 0,
            "drops": {"queue_full": lost},
        }

    before = (10.0, {"p1": counters(0, 5)})
    after = (12.0, {"p1": counters(4000, 7), "new": counters(1, 1)})
    assert top.rates(before, after) == [
        ("p1", "2.00k", "16.00M", "0", "0", "1", "queue_full 2"),
    ]


def test_top_in_a_pipe_prints_as_often_as_asked(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    counters = {"rx_frames": 1, "rx_bytes": 1, "tx_frames": 1, "tx_bytes": 1, "drops": {}}
    stub.on("GET", "/stats/ports", {"items": [{"name": "p1"} | counters]})
    assert run("top", "--interval-s", "0.1", "--count", "2") == 0
    assert capsys.readouterr().out.count("p1") == 2


TRACE = {
    "verdict": "drop",
    "reason": "rule",
    "out_ports": [],
    "stages": [
        {
            "stage": "rules_ingress",
            "port": "p1",
            "result": "drop",
            "detail": "a rule says so",
            "rules": [
                {"ruleset": "fw", "rule": "a", "action": "allow", "field": "l4_dst"}
                | {"wanted": "443", "got": "80"},
                {"ruleset": "fw", "rule": "b", "action": "drop", "field": ""}
                | {"wanted": "", "got": ""},
            ],
            "rules_left_out": 7,
        }
    ],
}


def test_a_trace_says_why(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("POST", "/traces", TRACE)
    assert run("trace", "p1", "ip.src=10.0.0.1", "ip.proto=6", "l4.dport=80") == 0
    assert json.loads(stub.asked[0].content) == {
        "in_port": "p1",
        "frame": {"ip": {"src": "10.0.0.1", "proto": 6}, "l4": {"dport": 80}},
    }
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "fw/a allow: l4_dst is 80, not 443" in lines[1]
    assert "fw/b drop: matches" in lines[2]
    assert "7 more rules do not match" in lines[3]
    assert lines[4].split() == ["rules_ingress", "p1", "drop", "a", "rule", "says", "so"]
    assert lines[-1] == "drop: rule"


def test_a_trace_of_bytes(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.on("POST", "/traces", {**TRACE, "verdict": "forward", "out_ports": ["p2", "p3"]})
    assert run("trace", "p1", "--hex", "02:00 0000", "--state", "new") == 0
    body = json.loads(stub.asked[0].content)
    assert body == {"in_port": "p1", "frame_hex": "02000000", "state": "new"}
    assert capsys.readouterr().out.splitlines()[-1] == "forward: p2, p3"


def test_an_analysis_is_listed(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"kind": "shadowed", "rule": "b", "by": "a", "message": "a comes first."}
    stub.on("GET", "/rulesets/fw/analysis", {"items": [finding], "next_cursor": None})
    arguments = "--kind shadowed --kind redundant"
    assert run("ruleset", "analysis", "fw", *arguments.split()) == 0
    assert stub.asked[0].url.params.get_list("kind") == ["shadowed", "redundant"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["shadowed", "b", "a", "a", "comes", "first."]
