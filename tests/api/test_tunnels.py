"""vxlan and udp ports over REST: what is accepted, what is refused where, what is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.protocol import Outcome
from tests.api.conftest import API, Api
from tests.api.test_problems import check

VXLAN = {"type": "vxlan", "vni": 10, "local": "192.0.2.1", "remotes": ["192.0.2.2"]}
UDP = {"type": "udp", "local": "192.0.2.1:6081", "peers": ["192.0.2.2:6081"], "vni": 1}


def options(api: Api, name: str) -> dict[str, str]:
    """What the forwarder is told."""
    return dict(api.forwarder.objects[f"port/{name}"].options)  # type: ignore[union-attr]


def test_the_bodies_as_they_are_documented(api: Api) -> None:
    api.bridge()
    vxlan = api.port("v", backend=VXLAN)["spec"]["backend"]
    assert (vxlan["port"], vxlan["remotes"]) == (4789, ["192.0.2.2"])
    assert options(api, "v") == {
        "vni": "10",
        "local": "192.0.2.1",
        "remotes": "192.0.2.2",
        "port": "4789",
        "source_ports": "8",
        "queues": "1",
    }
    api.port("u", backend=UDP)
    assert options(api, "u") == {
        "vni": "1",
        "local": "192.0.2.1:6081",
        "peers": "192.0.2.2:6081",
        "queues": "1",
    }


def test_addresses_have_one_form(api: Api) -> None:
    backend = VXLAN | {"local": "2001:DB8::0001", "remotes": ["2001:db8:0::2", "2001:db8::3"]}
    spec = api.port("v", bridge=None, backend=backend)["spec"]["backend"]
    assert (spec["local"], spec["remotes"]) == ("2001:db8::1", ["2001:db8::2", "2001:db8::3"])
    backend = UDP | {"local": "[2001:DB8::1]:6081", "peers": ["[2001:db8::0:2]:6082"]}
    api.port("u", bridge=None, backend=backend)
    assert options(api, "u")["peers"] == "[2001:db8::2]:6082"


MANY = [f"198.51.100.{n}" for n in range(1, 66)]


@pytest.mark.parametrize(
    ("backend", "change", "member"),
    [
        (VXLAN, {"vni": 0}, "vni"),
        (VXLAN, {"vni": 1 << 24}, "vni"),
        (VXLAN, {"vni": None}, "vni"),
        (VXLAN, {"local": "0.0.0.0"}, "local"),
        (VXLAN, {"local": "::"}, "local"),
        (VXLAN, {"local": "224.0.0.1"}, "local"),
        (VXLAN, {"local": "ff02::1"}, "local"),
        (VXLAN, {"local": "fe80::1"}, "local"),
        (VXLAN, {"local": "255.255.255.255"}, "local"),
        (VXLAN, {"local": "::ffff:192.0.2.1"}, "local"),
        (VXLAN, {"local": "192.0.2.1:4789"}, "local"),
        (VXLAN, {"local": "example.org"}, "local"),
        (VXLAN, {"remotes": []}, "remotes"),
        (VXLAN, {"remotes": MANY}, "remotes"),
        (VXLAN, {"remotes": ["192.0.2.1"]}, "remotes"),
        (VXLAN, {"remotes": ["192.0.2.2", "192.0.2.2"]}, "remotes"),
        (VXLAN, {"remotes": ["2001:db8::1"]}, "remotes"),
        (VXLAN, {"remotes": ["192.0.2.2", "192.0.2"]}, "remotes/1"),
        (VXLAN, {"port": 0}, "port"),
        (VXLAN, {"port": 1023}, "port"),
        (VXLAN, {"port": 65536}, "port"),
        (VXLAN, {"source_ports": 17}, "source_ports"),
        (VXLAN, {"queues": 17}, "queues"),
        (UDP, {"local": "192.0.2.1"}, "local"),
        (UDP, {"local": "192.0.2.1:80"}, "local"),
        (UDP, {"local": "192.0.2.1:99999"}, "local"),
        (UDP, {"local": "2001:db8::1:6081"}, "local"),
        (UDP, {"peers": ["192.0.2.1:6081"]}, "peers"),
        (UDP, {"peers": ["[2001:db8::1]:6081"]}, "peers"),
        (UDP, {"peers": ["192.0.2.2:6081", "0.1.2.3:6081"]}, "peers/1"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is(
    api: Api, backend: dict[str, Any], change: dict[str, Any], member: str
) -> None:
    body = {"spec": {"backend": backend | change}}
    problem = check(api.http.put(f"{API}/ports/t", json=body), 422, "INVALID")
    # A union's members are told apart by their type, which is no part of the document.
    assert [error["pointer"] for error in problem["errors"]] == [f"/spec/backend/{member}"]
    check(api.http.get(f"{API}/ports/t"), 404, "NOT_FOUND")


def test_one_peer_may_be_at_the_local_address(api: Api) -> None:
    """Another UDP port there is another program."""
    api.port("u", bridge=None, backend=UDP | {"peers": ["192.0.2.1:6082"]})


def test_a_udp_port_serves_one_port(api: Api) -> None:
    api.port("v", bridge=None, backend=VXLAN)
    for other in (VXLAN | {"vni": 11}, UDP | {"local": "192.0.2.1:4789"}):
        answer = api.http.put(f"{API}/ports/w", json={"spec": {"backend": other}})
        problem = check(answer, 409, "PORT_BUSY")
        assert problem["errors"][0]["pointer"] == "/spec/backend/local"
    api.port("w", bridge=None, backend=VXLAN | {"port": 4790})
    api.port("x", bridge=None, backend=VXLAN | {"local": "192.0.2.9"})


def condition(api: Api, name: str, kind: str) -> dict[str, Any]:
    found = api("GET", f"/ports/{name}")["status"]["conditions"]
    return next((item for item in found if item["type"] == kind), {})


def findings(api: Api) -> dict[str, dict[str, Any]]:
    return {item["code"]: item for item in api("GET", "/system/preflight")["findings"]}


def test_frames_too_large_for_the_underlay_are_foretold(api: Api) -> None:
    api.forwarder.states["v"] = {"mtu": 1450, "device": "eth0"}
    api.bridge()
    api.port("p")
    assert condition(api, "p", "MtuFits") == {}
    api.port("v", backend=VXLAN)
    api.port(
        "v6", bridge=None, backend=VXLAN | {"local": "2001:db8::1", "remotes": ["2001:db8::2"]}
    )
    found = condition(api, "v", "MtuFits")
    assert (found["status"], found["reason"]) == ("False", "OUTER_FRAGMENTS")
    assert found["hint"] == "ip link set eth0 mtu 1550"
    assert findings(api)["OUTER_FRAGMENTS"]["fix"] == "ip link set eth0 mtu 1550"
    assert condition(api, "v", "Ready")["status"] == "True"
    api.bridge(mtu=1450)
    assert condition(api, "v", "MtuFits")["status"] == "True"
    assert "OUTER_FRAGMENTS" not in findings(api)
    assert condition(api, "v6", "MtuFits")["status"] == "True"


def test_over_ipv6_the_headers_take_more(api: Api) -> None:
    api.forwarder.states["v"] = {"mtu": 1430, "device": "eth0"}
    api.bridge()
    api.port("p")
    api.port("v", backend=VXLAN | {"local": "2001:db8::1", "remotes": ["2001:db8::2"]})
    assert condition(api, "v", "MtuFits")["hint"] == "ip link set eth0 mtu 1570"


def test_an_address_that_is_not_local_is_named(api: Api) -> None:
    api.forwarder.outcomes["port/v"] = Outcome("ADDRESS_NOT_LOCAL", "v: 192.0.2.1 is not ours")
    api.port("v", bridge=None, backend=VXLAN)
    assert condition(api, "v", "Ready")["reason"] == "ADDRESS_NOT_LOCAL"
    assert findings(api)["ADDRESS_NOT_LOCAL"]["fix"] == "ip address add 192.0.2.1/32 dev lo"
