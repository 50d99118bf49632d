"""Monitor ports over REST: what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import API, Api
from tests.api.test_problems import check


@pytest.fixture
def watched(api: Api) -> Api:
    """p1 in br0, the monitor m1 of p1 in br1."""
    api.bridge("br0")
    api.bridge("br1")
    api.port("p1", bridge="br0", backend={"type": "memory"})
    api.port("m1", bridge="br1", backend={"type": "monitor", "port": "p1"})
    return api


def put(api: Api, name: str, bridge: str | None = None, **backend: Any) -> Any:
    return api.http.put(
        f"{API}/ports/{name}",
        json={"spec": {"bridge": bridge, "backend": {"type": "monitor", **backend}}},
    )


def test_defaults_are_shown(watched: Api) -> None:
    backend = watched.http.get(f"{API}/ports/m1").json()["spec"]["backend"]
    assert backend == {
        "type": "monitor",
        "port": "p1",
        "direction": "both",
        "filter": "",
        "snaplen": 262144,
    }


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("tcp prot 80", "'prot' is no keyword"),
        ("host www.example.net", "names are not looked up"),
        ("tcp port", "syntax error"),
        ("tcp and", "syntax error"),
        ("((tcp)", "syntax error"),
        ("tcp port 99999", "99999"),
        ("ip net 192.0.2.1/33", "mask length must be <= 32"),
        ("len == é", "printable ASCII"),
    ],
)
def test_a_filter_that_does_not_compile(watched: Api, expression: str, words: str) -> None:
    answer = put(watched, "m2", "br1", port="p1", filter=expression)
    problem = check(answer, 422, "FILTER_INVALID")
    assert [item["pointer"] for item in problem["errors"]] == ["/spec/backend/filter"]
    assert words in problem["detail"]
    patch = {"spec": {"backend": {"type": "monitor", "filter": expression}}}
    headers = {"Content-Type": "application/merge-patch+json"}
    answer = watched.http.patch(f"{API}/ports/m1", json=patch, headers=headers)
    check(answer, 422, "FILTER_INVALID")
    assert watched.http.get(f"{API}/ports/m1").json()["spec"]["backend"]["filter"] == ""


@pytest.mark.parametrize(
    ("backend", "code", "pointer"),
    [
        ({"port": "p9"}, "REFERENCE_NOT_FOUND", "/spec/backend/port"),
        ({"port": "m1"}, "INVALID", "/spec/backend/port"),
        ({"port": "m2"}, "INVALID", "/spec/backend/port"),
        ({"port": "p1", "direction": "out"}, "INVALID", "/spec/backend/direction"),
        ({"port": "p1", "snaplen": 13}, "INVALID", "/spec/backend/snaplen"),
        ({"port": "p1", "snaplen": 262145}, "INVALID", "/spec/backend/snaplen"),
        ({"port": "p1", "slots": 64}, "INVALID", "/spec/backend/slots"),
        ({}, "INVALID", "/spec/backend/port"),
    ],
)
def test_monitors_that_make_no_sense(
    watched: Api, backend: dict[str, Any], code: str, pointer: str
) -> None:
    problem = check(put(watched, "m2", "br1", **backend), 422, code)
    assert [item["pointer"] for item in problem["errors"]] == [pointer]


def test_copies_do_not_come_back(watched: Api) -> None:
    """A monitor is not in the bridge of its port, whichever of the two is changed."""
    problem = check(put(watched, "m2", "br0", port="p1"), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "/spec/bridge"
    body = {"spec": {"bridge": "br1", "backend": {"type": "memory"}}}
    problem = check(watched.http.put(f"{API}/ports/p1", json=body), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "/spec/bridge"
    assert "m1" in problem["detail"]
    problem = check(put(watched, "p1", port="m1"), 422, "INVALID")
    assert {item["pointer"] for item in problem["errors"]} == {
        "/spec/backend/port",
        "/spec/backend",
    }


def test_several_monitors_watch_one_port(watched: Api) -> None:
    assert put(watched, "m2", "br1", port="p1", direction="tx", filter="tcp").is_success
    assert put(watched, "m3", None, port="p1", snaplen=128).is_success


def test_a_watched_port_is_in_use(watched: Api) -> None:
    problem = check(watched.http.delete(f"{API}/ports/p1"), 409, "IN_USE")
    assert problem["errors"][0]["message"] == "ports/m1 refers to ports/p1"
    assert watched.http.delete(f"{API}/ports/p1", params={"cascade": "true"}).is_success
    check(watched.http.get(f"{API}/ports/m1"), 404, "NOT_FOUND")


def test_a_bridge_takes_the_monitors_of_its_ports_along(watched: Api) -> None:
    assert watched.http.delete(f"{API}/bridges/br0", params={"cascade": "true"}).is_success
    check(watched.http.get(f"{API}/ports/m1"), 404, "NOT_FOUND")
    assert watched.http.get(f"{API}/bridges/br1").is_success


def test_the_forwarder_is_given_the_program(watched: Api) -> None:
    answer = put(watched, "m2", "br1", port="p1", direction="rx", filter="arp", snaplen=64)
    assert answer.is_success
    options = watched.forwarder.objects["port/m2"].options
    program = "4,40 0 0 12,21 0 1 2054,6 0 0 262144,6 0 0 0"
    assert options == {"port": "p1", "direction": "rx", "filter": program, "snaplen": "64"}


def test_a_monitor_that_nobody_can_look_at_is_found(watched: Api) -> None:
    assert put(watched, "m2", None, port="p1").is_success
    found = watched("GET", "/system/preflight")["findings"]
    without = {item["object"] for item in found if item["code"] == "MONITOR_WITHOUT_BRIDGE"}
    assert without == {"ports/m2"}
