"""GET /clients, one of them, DELETE; what ports, metrics and capabilities say; the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from fastpath.protocol import ClientRow, WireBridge, WireClients
from tests.api.conftest import Api
from tests.support.topology import wait_until
from vswitch.cli import app
from vswitch.cli.client import CliError


def client(number: int, **changes: Any) -> ClientRow:
    values: dict[str, Any] = {
        "id": number,
        "name": f"vale0:p{number}",
        "switch": "vale0",
        "port": f"vale0:p{number}",
        "pid": 1000 + number,
        "uid": 1000,
        "gid": 100,
        "program": "pkt-gen",
        "mode": "relay",
        "tx_rings": 1,
        "rx_rings": 2,
        "tx_slots": 1024,
        "rx_slots": 512,
        "mem_id": 1 + number,
        "connected_at": 1_900_000_000.5,
        "syncs": 11,
        "sleeps": 3,
        "invalid": 1,
        "frames_from": 10,
        "bytes_from": 600,
        "frames_to": 20,
        "bytes_to": 1200,
        "drops": 5,
    }
    return ClientRow(**(values | changes))


@pytest.fixture
def busy(api: Api) -> Api:
    """Five programs, one of them with a pipe's end, another in direct mode."""
    api.forwarder.clients = [
        client(3),
        client(5),
        client(8, name="vale0:p3{1", switch="", port="", mode="pipe"),
        client(9, switch="vale1", mode="direct"),
        client(12, program="bridge"),
    ]
    return api


def ids(answer: Any) -> list[int]:
    return [item["id"] for item in answer["items"]]


def link(port: Any) -> tuple[str, str]:
    (found,) = (item for item in port["status"]["conditions"] if item["type"] == "LinkUp")
    return found["status"], found["message"]


def test_a_client_as_it_is_shown(busy: Api) -> None:
    answer = busy("GET", "/clients")
    assert (ids(answer), answer["next_cursor"]) == ([3, 5, 8, 9, 12], None)
    shown = {
        "id": 3,
        "name": "vale0:p3",
        "bridge": "vale0",
        "port": "vale0:p3",
        "pid": 1003,
        "uid": 1000,
        "gid": 100,
        "program": "pkt-gen",
        "mode": "relay",
        "tx_rings": 1,
        "rx_rings": 2,
        "tx_slots": 1024,
        "rx_slots": 512,
        "mem_id": 4,
        "since": "2030-03-17T17:46:40.500000Z",
        "syncs": 11,
        "sleeps": 3,
        "invalid": 1,
        "sent_frames": 10,
        "sent_bytes": 600,
        "received_frames": 20,
        "received_bytes": 1200,
        "drops": 5,
    }
    assert answer["items"][0] == shown == busy("GET", "/clients/3")
    pipe = busy("GET", "/clients/8")
    assert (pipe["name"], pipe["bridge"], pipe["port"]) == ("vale0:p3{1", None, None)


def test_pages(busy: Api) -> None:
    seen: list[int] = []
    page = busy("GET", "/clients", limit=2)
    while True:
        seen += ids(page)
        if page["next_cursor"] is None:
            break
        page = busy("GET", "/clients", limit=2, cursor=page["next_cursor"])
    assert seen == [3, 5, 8, 9, 12]
    assert busy("GET", "/clients", expect=422, cursor="x!")["hint"]


def test_evict(busy: Api) -> None:
    busy("DELETE", "/clients/5", expect=204)
    assert ids(busy("GET", "/clients")) == [3, 8, 9, 12]
    assert busy("DELETE", "/clients/5", expect=404)["code"] == "NOT_FOUND"


@pytest.mark.parametrize(("path", "status"), [("4", 404), ("0", 422), ("-1", 422), ("p1", 422)])
def test_nobody_of_that_number(busy: Api, path: str, status: int) -> None:
    for method in ("GET", "DELETE"):
        problem = busy(method, f"/clients/{path}", expect=status)
        assert [item["pointer"] for item in problem["errors"]] == ["{id}"] * (status == 422)
    assert len(ids(busy("GET", "/clients"))) == 5


def test_without_a_forwarder(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.forwarder.close()
    for method, path in (("GET", ""), ("GET", "/1"), ("DELETE", "/1")):
        assert api(method, f"/clients{path}", expect=503)["code"] == "FASTPATH_DOWN"


def test_a_bridges_clients_reach_the_forwarder(api: Api) -> None:
    api.bridge("vale0")
    assert _clients(api) == WireClients()
    api.bridge("vale0", clients={"mode": "direct", "uids": [1000], "gids": [7, 8]})
    assert _clients(api) == WireClients("direct", (1000,), (7, 8))


def _clients(api: Api) -> WireClients:
    wire = api.forwarder.objects["bridge/vale0"]
    assert isinstance(wire, WireBridge)
    return wire.clients


def test_a_declared_port_says_who_has_it_open(busy: Api) -> None:
    backend = {"type": "vale", "switch": "vale0", "port": "x"}
    made = busy.port("x", None, backend=backend)
    assert made["status"]["clients"] == []
    assert link(made) == ("False", "No netmap program has it open.")
    busy.bridge("br0")
    busy.port("other")
    busy.forwarder.clients += [client(20, port="x"), client(21, port="x"), client(22, port="other")]
    wait_until(lambda: len(busy("GET", "/ports/x")["status"]["clients"]) == 2, 5, "it is seen")
    assert busy("GET", "/ports/x")["status"]["clients"] == [
        {"id": 20, "pid": 1020, "uid": 1000, "program": "pkt-gen"},
        {"id": 21, "pid": 1021, "uid": 1000, "program": "pkt-gen"},
    ]
    assert link(busy("GET", "/ports/x")) == ("True", "")
    assert busy("GET", "/ports/other")["status"]["clients"] == []


def test_a_trace_may_begin_at_a_programs_port(busy: Api) -> None:
    """Which of them are there, only the forwarder knows."""
    frame = {"frame_hex": "ff" * 14}
    problem = busy("POST", "/traces", {"in_port": "vale0:p3", **frame}, expect=422)
    assert problem["errors"][0]["pointer"] == "/in_port"
    assert problem["code"] == "REFERENCE_NOT_FOUND"
    busy.bridge("br0")
    busy.port("j", backend={"type": "vale", "switch": "vale0", "port": "p3"})
    told = busy("POST", "/traces", {"in_port": "vale0:p3", **frame})
    assert told["fields"]["in_port"] == "vale0:p3"
    for name in ("vale0:", "vale0:p1{2", "br0:p1", "vale0:" + "p" * 16):
        problem = busy("POST", "/traces", {"in_port": name, **frame}, expect=422)
        assert problem["errors"][0] | {"message": ""} == {
            "pointer": "/in_port",
            "code": "INVALID",
            "message": "",
        }


def test_who_answers_netmap_programs(api: Api) -> None:
    assert api("GET", "/system/capabilities")["netmap"] == "emulated"
    for client_type, netmap, said in (("", "", "both"), ("no", "", "kernel"), ("no", "no", "none")):
        api.forwarder.port_types |= {"client": client_type, "netmap": netmap}
        api.forwarder.disconnect()
        wait_until(lambda said=said: api("GET", "/system/capabilities")["netmap"] == said, 10, said)


def test_gauges(busy: Api) -> None:
    lines = busy.http.get("/metrics").text.splitlines()
    assert 'vswitch_clients{bridge="vale0",mode="relay"} 3.0' in lines
    assert 'vswitch_clients{bridge="vale1",mode="direct"} 1.0' in lines
    assert 'vswitch_clients{bridge="",mode="pipe"} 1.0' in lines


def test_the_command_line(busy: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSWITCH_TOKEN", busy.token)

    where = ["--url", f"http://localhost:{busy.port_number}"]

    def run(*words: str) -> list[str]:
        result = CliRunner().invoke(app, ["clients", *words, *where])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    lines = run("list")
    assert lines[0].split()[:5] == ["ID", "NAME", "PORT", "MODE", "PROGRAM"]
    assert lines[1].split()[:5] == ["3", "vale0:p3", "vale0:p3", "relay", "pkt-gen"]
    assert lines[3].split()[:4] == ["8", "vale0:p3{1", "-", "pipe"]
    run("evict", "3")
    assert len(run("list")) == 5
    assert "program: bridge" in run("show", "12")
    gone = CliRunner().invoke(app, ["clients", "show", "3", *where])
    assert isinstance(gone.exception, CliError)
    assert gone.exception.exit_code == 4
