"""GET /connections, POST /connections/flush, their gauges, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from fastpath.protocol import Connection
from tests.api.conftest import Api
from vswitch.cli import app

PORTS = {6: (40000, 443), 17: (5353, 53), 1: (77, 77), 58: (78, 78)}


def connection(number: int, proto: int = 6, **changes: Any) -> Connection:
    src_port, dst_port = PORTS[proto]
    ipv6 = proto == 58
    values: dict[str, Any] = {
        "bridge": "br0",
        "vid": 0,
        "port": "p1",
        "proto": proto,
        "src": f"2001:db8::{number}" if ipv6 else f"10.0.0.{number}",
        "dst": "2001:db8::ff" if ipv6 else "10.0.0.99",
        "src_port": src_port,
        "dst_port": dst_port,
        "state": "established",
        "tcp_state": "established" if proto == 6 else "",
        "expires_s": 100 + number,
        "frames": (3, 2),
        "bytes": (300, 200),
    }
    return Connection(**(values | changes))


@pytest.fixture
def full(api: Api) -> Api:
    """Two bridges, three ports, connections of every protocol."""
    api.bridge()
    api.bridge("br1")
    api.port("p1")
    api.port("p2")
    api.port("p3", "br1")
    api.forwarder.connections = [
        connection(1),
        connection(2, port="p2", state="new", tcp_state="syn_sent"),
        connection(3, 17, vid=7),
        connection(4, 1),
        connection(5, 58),
        connection(6, 17, bridge="br1", port="p3"),
    ]
    return api


def ends(answer: Any) -> list[int]:
    """Of 10.0.0.N and 2001:db8::N the N."""
    return [int(item["src"].replace(":", ".").rsplit(".", 1)[1]) for item in answer["items"]]


def test_a_connection_as_it_is_shown(full: Api) -> None:
    answer = full("GET", "/connections")
    assert (answer["count"], answer["max"], answer["next_cursor"]) == (6, 65536, None)
    assert answer["items"][0] == {
        "bridge": "br0",
        "vlan": 0,
        "port": "p1",
        "proto": "tcp",
        "src": "10.0.0.1",
        "dst": "10.0.0.99",
        "src_port": 40000,
        "dst_port": 443,
        "identifier": None,
        "state": "established",
        "tcp_state": "established",
        "expires_s": 101,
        "src_frames": 3,
        "src_bytes": 300,
        "dst_frames": 2,
        "dst_bytes": 200,
    }
    ping = answer["items"][4]
    assert (ping["proto"], ping["src_port"], ping["dst_port"]) == ("icmpv6", None, None)
    assert (ping["identifier"], ping["tcp_state"]) == (78, None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"bridge": "br1"}, [6]),
        ({"port": "p2"}, [2]),
        ({"address": "10.0.0.99"}, [1, 2, 3, 4, 6]),
        ({"address": "2001:0db8::0:ff"}, [5]),
        ({"proto": "udp"}, [3, 6]),
        ({"proto": "icmp"}, [4]),
        ({"state": "new"}, [2]),
        ({"proto": "udp", "bridge": "br0"}, [3]),
    ],
)
def test_filters(full: Api, asked: dict[str, str], found: list[int]) -> None:
    assert ends(full("GET", "/connections", **asked)) == found


def test_pages(full: Api) -> None:
    seen: list[int] = []
    page = full("GET", "/connections", limit=4, proto="tcp")
    assert (ends(page), page["next_cursor"]) == ([1, 2], None)
    page = full("GET", "/connections", limit=4)
    while True:
        seen += ends(page)
        if page["next_cursor"] is None:
            break
        page = full("GET", "/connections", limit=4, cursor=page["next_cursor"])
    assert seen == [1, 2, 3, 4, 5, 6]


def test_flush(full: Api) -> None:
    removed = full("POST", "/connections/flush", {"bridge": "br0", "port": "p2"})
    assert removed == {"removed": 1}
    assert full("POST", "/connections/flush", {"address": "2001:DB8:0::5"}) == {"removed": 1}
    assert ends(full("GET", "/connections")) == [1, 3, 4, 6]
    assert full("POST", "/connections/flush") == {"removed": 4}
    assert full("POST", "/connections/flush", {}) == {"removed": 0}


@pytest.mark.parametrize(
    ("asked", "pointer", "code"),
    [
        ({"bridge": "br9"}, "?bridge", "REFERENCE_NOT_FOUND"),
        ({"port": "p9"}, "?port", "REFERENCE_NOT_FOUND"),
        ({"address": "10.0.0.256"}, "?address", "INVALID"),
        ({"address": "10.0.0.0/8"}, "?address", "INVALID"),
        ({"proto": "sctp"}, "?proto", "INVALID"),
        ({"state": "invalid"}, "?state", "INVALID"),
        ({"limit": 0}, "?limit", "INVALID"),
    ],
)
def test_a_question_that_makes_no_sense(
    full: Api, asked: dict[str, Any], pointer: str, code: str
) -> None:
    problem = full("GET", "/connections", expect=422, **asked)
    assert [item["pointer"] for item in problem["errors"]] == [pointer]
    assert problem["errors"][0]["code"] == code


def test_a_cursor_of_somebody_else(full: Api) -> None:
    assert full("GET", "/connections", expect=422, cursor="x!")["hint"]
    assert full("GET", "/connections", expect=422, sort="src")["code"] == "INVALID"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"bridge": "br9"}, "/bridge", "REFERENCE_NOT_FOUND"),
        ({"port": "p9"}, "/port", "REFERENCE_NOT_FOUND"),
        ({"address": "all"}, "/address", "INVALID"),
        ({"vlan": 3}, "/vlan", "INVALID"),
    ],
)
def test_a_flush_of_nothing_that_is(full: Api, body: Any, pointer: str, code: str) -> None:
    problem = full("POST", "/connections/flush", body, expect=422)
    assert [item["pointer"] for item in problem["errors"]] == [pointer]
    assert problem["errors"][0]["code"] == code
    assert full("GET", "/connections")["count"] == 6


def test_gauges(full: Api) -> None:
    lines = full.http.get("/metrics").text.splitlines()
    assert "vswitch_connections 6.0" in lines
    assert "vswitch_connections_max 65536.0" in lines


def test_without_a_forwarder(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.forwarder.close()
    assert api("GET", "/connections", expect=503)["code"] == "FASTPATH_DOWN"
    assert api("POST", "/connections/flush", {}, expect=503)["code"] == "FASTPATH_DOWN"


def test_the_command_line(full: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSWITCH_TOKEN", full.token)
    where = ["--url", f"http://localhost:{full.port_number}"]

    def run(*words: str) -> list[str]:
        result = CliRunner().invoke(app, ["connections", *words, *where])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    lines = run("list", "--proto", "tcp")
    assert lines[0].split()[:4] == ["PROTO", "SRC", "DST", "STATE"]
    assert lines[1].split()[:4] == ["tcp", "10.0.0.1:40000", "10.0.0.99:443", "established"]
    assert lines[2].split()[3] == "syn_sent"
    assert run("flush", "--port", "p2") == ["removed: 1"]
    assert len(run("list")) == 6
