"""Traces over REST: what a frame may be, what is refused, what the forwarder is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import Api

FRAME = "020000000002020000000001" + "88b5" + "00" * 46


def refused(api: Api, body: dict[str, Any], status: int = 422) -> tuple[str, list[str]]:
    """Code and pointers of the problem."""
    problem = api("POST", "/traces", {"in_port": "p1", **body}, expect=status)
    return problem["code"], [error["pointer"] for error in problem["errors"]]


@pytest.fixture
def switch(api: Api) -> Api:
    api.bridge()
    api.port("p1")
    return api


def test_bytes_go_to_the_forwarder_as_they_are(switch: Api) -> None:
    body = {"in_port": "p1", "frame_hex": FRAME.upper(), "state": "related"}
    answer = switch("POST", "/traces", body, expect=200)
    asked = switch.forwarder.traced[-1]
    assert (asked.in_port, asked.frame.hex(), asked.state) == ("p1", FRAME, "related")
    assert answer["frame_hex"] == FRAME
    assert (answer["verdict"], answer["reason"]) == ("drop", "no_destination")
    assert (answer["out_ports"], answer["stages"]) == ([], [])
    assert answer["fields"] == {"in_port": "p1"}


def test_fields_are_built_to_bytes(switch: Api) -> None:
    frame = {"ip": {"src": "10.0.0.1", "dst": "10.0.0.2"}, "l4": {"dport": 443}}
    answer = switch("POST", "/traces", {"in_port": "p1", "frame": frame}, expect=200)
    assert answer["frame_hex"] == switch.forwarder.traced[-1].frame.hex()
    assert answer["frame_hex"].startswith("020000000002020000000001080045000028")


@pytest.mark.parametrize(
    "body",
    [
        {"frame_hex": ""},
        {"frame_hex": "0"},
        {"frame_hex": "0x00"},
        {"frame_hex": "00" * 65_555},
        {"frame_hex": 7},
        {},
        {"frame_hex": FRAME, "frame": {}},
    ],
)
def test_what_is_no_frame_is_refused_at_its_field(switch: Api, body: Any) -> None:
    assert refused(switch, body) == ("INVALID", ["/frame_hex"])


def test_the_largest_frame(switch: Api) -> None:
    body = {"in_port": "p1", "frame_hex": FRAME + "00" * (65_554 - len(FRAME) // 2)}
    assert switch("POST", "/traces", body)["frame_hex"] == body["frame_hex"]


@pytest.mark.parametrize(
    ("frame", "pointer"),
    [
        ({"arp": {}, "ip": {}}, "/frame/arp"),
        ({"l4": {}, "icmp": {}}, "/frame/icmp"),
        ({"eth": {"type": 2048}, "ip": {}}, "/frame/eth/type"),
        ({"arp": {"spa": "::1"}}, "/frame/arp/spa"),
        ({"arp": {"tpa": "1.2.3"}}, "/frame/arp/tpa"),
        ({"ip": {"src": "10.0.0.256"}}, "/frame/ip/src"),
        ({"ip": {"src": "10.0.0.1", "dst": "::1"}}, "/frame/ip/dst"),
        ({"ip": {"ttl": 256}}, "/frame/ip/ttl"),
        ({"ip": {"proto": "gre"}, "l4": {}}, "/frame/l4"),
        ({"ip": {"proto": "tcp"}, "icmp": {}}, "/frame/icmp"),
        ({"l4": {"tcp_flags": "syn,nak"}}, "/frame/l4/tcp_flags"),
        ({"l4": {"dport": 65_536}}, "/frame/l4/dport"),
        ({"vlan": {"vid": 4096}}, "/frame/vlan/vid"),
        ({"payload_bytes": 65_001}, "/frame/payload_bytes"),
        ({"eth": {"src": "02:00:00:00:00"}}, "/frame/eth/src"),
        ({"ttl": 1}, "/frame/ttl"),
    ],
)
def test_fields_that_make_no_frame_are_refused_where_they_stand(
    switch: Api, frame: dict[str, Any], pointer: str
) -> None:
    assert refused(switch, {"frame": frame}) == ("INVALID", [pointer])


def test_a_port_that_is_not_there(switch: Api) -> None:
    body = {"in_port": "p9", "frame_hex": FRAME}
    assert refused(switch, body) == ("REFERENCE_NOT_FOUND", ["/in_port"])
    assert refused(switch, {"in_port": "no name", "frame_hex": FRAME})[1] == ["/in_port"]
    assert refused(switch, {"frame_hex": FRAME, "state": "old"})[1] == ["/state"]


def test_without_a_forwarder(make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.wait_ready()
    api.bridge()
    api.port("p1")
    api.forwarder.close()
    assert refused(api, {"frame_hex": FRAME}, 503)[0] == "FASTPATH_DOWN"
