"""Every error is a problem document with a stable code, whoever found it out."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import API, Api
from vswitch.problems import STATUS, TITLES


def check(answer: httpx.Response, status: int, code: str) -> Any:
    """The answer is this problem, complete and true to itself."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {
        "type",
        "title",
        "status",
        "code",
        "detail",
        "errors",
        "hint",
        "request_id",
    }
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"]
    return problem


def test_every_code_has_a_status_with_a_title() -> None:
    assert set(STATUS.values()) == set(TITLES)


BRIDGE = f"{API}/bridges/br0"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "MALFORMED"),
        (b"\xff\xfe", 400, "MALFORMED"),
        (b"[" * 30_000, 400, "MALFORMED"),
        (b"", 400, "MALFORMED"),
        (b"null", 422, "INVALID"),
        (b"[]", 422, "INVALID"),
        (b"{}", 422, "INVALID"),
        (b'{"spec": {"mtu": "1500"}}', 422, "INVALID"),
        (b'{"spec": {"mtu": true}}', 422, "INVALID"),
        (b'{"spec": {"mtu": 1e400}}', 422, "INVALID"),
        (b'{"spec": {"mtv": 1500}}', 422, "INVALID"),
        (b'{"spec": {}, "status": {}}', 422, "INVALID"),
        (b'{"spec": {"\\ud800": 1}}', 422, "INVALID"),
        (b'{"spec": {}, "description": "\\ud800"}', 422, "INVALID"),
        (b'{"spec": {}, "labels": {"a b": "c"}}', 422, "INVALID"),
        (b'{"spec": {"default_pvid": 4095}}', 422, "INVALID"),
        (b"{" + b" " * 65536 + b"}", 413, "BODY_TOO_LARGE"),
    ],
)
def test_bodies_that_are_refused(api: Api, body: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem = check(api.http.put(BRIDGE, content=body, headers=headers), status, code)
    if status == 422:
        assert problem["errors"]
    check(api.http.get(BRIDGE), 404, "NOT_FOUND")


def test_pointers_lead_to_the_fault(api: Api) -> None:
    body = {"spec": {"backend": {"type": "af_packet", "ifname": "e0", "queues": 99}, "a/b~": 1}}
    problem = check(api.http.put(f"{API}/ports/p1", json=body), 422, "INVALID")
    pointers = {item["pointer"] for item in problem["errors"]}
    assert pointers == {"/spec/backend/queues", "/spec/a~1b~0"}
    body = {"spec": {"backend": {"type": "bond"}}}
    problem = check(api.http.put(f"{API}/ports/p1", json=body), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "/spec/backend"
    body = {"spec": {"backend": {"type": "memory"}, "vlan": {"tagged": ["20-10"]}}}
    problem = check(api.http.put(f"{API}/ports/p1", json=body), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "/spec/vlan/tagged/0"
    assert problem["errors"][0]["message"].startswith("a range is ")
    problem = check(api.http.get(f"{API}/ports", params={"limit": 0}), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "?limit"
    problem = check(api.http.get(f"{API}/ports/9"), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "{name}"
    headers = {"If-Match": "7"}
    problem = check(api.http.delete(f"{API}/ports/p1", headers=headers), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "#if-match"


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"bridge": "none", "backend": {"type": "memory"}}, "REFERENCE_NOT_FOUND"),
        ({"backend": {"type": "veth", "name": "a", "peer": {"name": "a"}}}, "INVALID"),
        ({"backend": {"type": "pcap"}}, "INVALID"),
        ({"backend": {"type": "pcap", "in": "../x"}}, "INVALID"),
        ({"backend": {"type": "pcap", "in": ".."}}, "INVALID"),
        ({"backend": {"type": "pcap", "in": "x", "out": "x"}}, "INVALID"),
        ({"backend": {"type": "tap", "name": "sixteen-bytes-xx"}}, "INVALID"),
        ({"backend": {"type": "tap", "name": ".."}}, "INVALID"),
        ({"backend": {"type": "tap", "name": "t%s"}}, "INVALID"),
        ({"backend": {"type": "tap", "name": "t%d", "persistent": True}}, "INVALID"),
        ({"backend": {"type": "tun", "name": "t%d", "persistent": True}}, "INVALID"),
        ({"backend": {"type": "tun", "name": "t0", "address": "192.0.2.1/24"}}, "INVALID"),
        ({"backend": {"type": "tun", "name": "t0", "address": "host"}}, "INVALID"),
        ({"backend": {"type": "tun", "name": "t0"}, "vlan": {"mode": "trunk"}}, "L3_PORT"),
        (
            {"backend": {"type": "memory"}, "vlan": {"mode": "trunk", "tagged": ["20-10"]}},
            "INVALID",
        ),
        (
            {"backend": {"type": "memory"}, "vlan": {"mode": "trunk", "tagged": ["4095"]}},
            "INVALID",
        ),
        ({"backend": {"type": "memory"}, "cpus": [1, 1]}, "INVALID"),
    ],
)
def test_ports_that_make_no_sense(api: Api, spec: dict[str, Any], code: str) -> None:
    check(api.http.put(f"{API}/ports/p1", json={"spec": spec}), 422, code)
    check(api.http.get(f"{API}/ports/p1"), 404, "NOT_FOUND")


def test_an_interface_serves_one_port(api: Api) -> None:
    api.port("p1", bridge=None, backend={"type": "af_packet", "ifname": "e0"})
    body = {"spec": {"backend": {"type": "tap", "name": "e0"}}}
    check(api.http.put(f"{API}/ports/p2", json=body), 409, "PORT_BUSY")
    api.port("p3", bridge=None, backend={"type": "pcap", "out": "x"})
    body = {"spec": {"backend": {"type": "pcap", "in": "y", "out": "x"}}}
    check(api.http.put(f"{API}/ports/p4", json=body), 409, "PORT_BUSY")


def test_paths_and_methods(api: Api) -> None:
    check(api.http.get("/"), 404, "NOT_FOUND")
    check(api.http.get(f"{API}/bridges/"), 404, "NOT_FOUND")
    check(api.http.get(f"{API}/revisions/1"), 404, "NOT_FOUND")
    problem = check(api.http.post(BRIDGE), 405, "METHOD_NOT_ALLOWED")
    answer = api.http.post(BRIDGE)
    assert answer.headers["allow"] == "DELETE, GET, PATCH, PUT"
    assert "GET" in problem["hint"]
    assert api.http.request("TRACE", f"{API}/ports").headers["allow"] == "GET"


def test_unknown_parameters_are_refused(api: Api) -> None:
    answer = api.http.put(BRIDGE, json={"spec": {}}, params={"dry_run": "true"})
    check(answer, 422, "INVALID")
    check(api.http.get(BRIDGE), 404, "NOT_FOUND")


def test_content_types(api: Api) -> None:
    body = json.dumps({"spec": {}})
    for content_type in ("application/xml", "text/plain", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": content_type}
        check(api.http.put(BRIDGE, content=body, headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")
    for content_type in (
        "application/json; charset=utf-8",
        "application/merge-patch+json",
        "application/x-www-form-urlencoded",
    ):
        answer = api.http.put(BRIDGE, content=body, headers={"Content-Type": content_type})
        assert answer.status_code in (200, 201), answer.text


def test_cursors_of_others_are_refused(api: Api) -> None:
    for cursor in ("%", "!!!", "\xff"):
        check(api.http.get(f"{API}/revisions", params={"cursor": cursor}), 422, "INVALID")


def test_tokens(api: Api) -> None:
    for token in (None, "wrong", api.token + "x"):
        answer = api.client(token=token).get(BRIDGE)
        check(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
    none = api.client(token=None)
    assert none.get(f"{API}/system/health").status_code == 200
    assert none.get(f"{API}/system/ready").status_code == 200
    check(none.get("/metrics"), 401, "UNAUTHENTICATED")
    check(none.get("/nowhere"), 401, "UNAUTHENTICATED")
    basic = {"Authorization": f"Basic {api.token}"}
    check(none.get(BRIDGE, headers=basic), 401, "UNAUTHENTICATED")


def test_the_owner_needs_no_token_on_the_unix_socket(api: Api) -> None:
    assert api.client(token=None, unix=True).get(f"{API}/bridges").status_code == 200
    # A token that is given must be right, there too.
    wrong = api.client(token="wrong", unix=True).get(f"{API}/bridges")
    check(wrong, 401, "UNAUTHENTICATED")


def test_a_viewer_only_reads(api: Api) -> None:
    from vswitch.auth import Authority, token_hash

    viewer = ("eyes", token_hash("v" * 43), "viewer")
    authority = Authority([viewer], service_uid=-1)
    object.__setattr__(api.plane.services, "authority", authority)
    client = api.client(token="v" * 43)
    assert client.get(f"{API}/bridges").status_code == 200
    check(client.put(BRIDGE, json={"spec": {}}), 403, "FORBIDDEN")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "a b"])
def test_host_must_be_ours(api: Api, host: str) -> None:
    check(api.http.get(BRIDGE, headers={"Host": host}), 403, "HOST_NOT_ALLOWED")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "[::1]:8080", "LOCALHOST", "192.0.2.1"])
def test_hosts_that_nobody_can_rebind(api: Api, host: str) -> None:
    assert api.http.get(f"{API}/bridges", headers={"Host": host}).status_code == 200


def test_origins(make_api: Callable[..., Api]) -> None:
    api = make_api(allowed_origins=("https://ui.example",))
    for origin in ("null", "http://evil.example", "https://localhost"):
        answer = api.http.get(f"{API}/bridges", headers={"Origin": origin})
        check(answer, 403, "ORIGIN_NOT_ALLOWED")
    for origin in ("https://ui.example", f"http://localhost:{api.port_number}"):
        answer = api.http.get(f"{API}/bridges", headers={"Origin": origin})
        assert answer.status_code == 200


def test_if_match_can_be_demanded(make_api: Callable[..., Api]) -> None:
    api = make_api(require_if_match=True)
    api.wait_ready()
    api.bridge()
    change = {"spec": {"mtu": 9000}}
    check(api.http.put(BRIDGE, json=change), 428, "PRECONDITION_REQUIRED")
    check(api.http.delete(BRIDGE), 428, "PRECONDITION_REQUIRED")
    assert api.http.put(BRIDGE, json=change, headers={"If-Match": '"1"'}).status_code == 200


def test_limits(make_api: Callable[..., Api]) -> None:
    from vswitch.settings import Limits

    api = make_api(limits=Limits(ports=2, bridges=1, static_entries=1))
    api.wait_ready()
    api.bridge()
    body: dict[str, Any] = {"spec": {}}
    check(api.http.put(f"{API}/bridges/br1", json=body), 409, "BRIDGE_LIMIT")
    api.port("p1")
    api.port("p2")
    body = {"spec": {"backend": {"type": "memory"}}}
    check(api.http.put(f"{API}/ports/p3", json=body), 409, "PORT_LIMIT")
    body = {"spec": {"port": "p1"}}
    assert api.http.put(f"{BRIDGE}/fdb/02:00:00:00:00:01", json=body).status_code == 201
    check(api.http.put(f"{BRIDGE}/fdb/02:00:00:00:00:02", json=body), 409, "FDB_LIMIT")


def test_a_body_that_never_ends(make_api: Callable[..., Api]) -> None:
    api = make_api(request_timeout_s=0.2)
    request = (
        f"PUT {BRIDGE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        f"Authorization: Bearer {api.token}\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", api.port_number), timeout=10) as sock:
        sock.sendall(request.encode())
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"REQUEST_TIMEOUT" in answer


def test_chunked_bodies_have_the_same_limit(api: Api) -> None:
    answer = api.http.put(BRIDGE, content=(b" " * 1024 for _ in range(100)))
    check(answer, 413, "BODY_TOO_LARGE")


def test_a_store_that_cannot_be_written(api: Api) -> None:
    api.bridge()
    with sqlite3.connect(api.settings.database) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON revisions "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    problem = check(api.http.put(f"{API}/bridges/br1", json={"spec": {}}), 503, "STORE_UNAVAILABLE")
    assert "disk full" in problem["detail"]
    check(api.http.get(f"{API}/bridges/br1"), 404, "NOT_FOUND")
    assert "bridge/br1" not in api.forwarder.objects
    with sqlite3.connect(api.settings.database) as other:
        other.execute("DROP TRIGGER full")
        assert other.execute("SELECT count(*) FROM bridges").fetchone() == (1,)
    assert api.bridge("br1")["generation"] == 1


def test_a_fault_of_ours(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("a secret of the inside")

    object.__setattr__(api.plane.services.runtime, "stats", broken)
    problem = check(api.http.get(f"{API}/stats/ports"), 500, "INTERNAL")
    assert "secret" not in json.dumps(problem)
    assert problem["request_id"] in caplog.text


def test_questions_the_forwarder_refuses(api: Api) -> None:
    api.bridge()
    api.forwarder.objects.clear()
    check(api.http.get(f"{BRIDGE}/fdb"), 503, "FASTPATH_REFUSED")
    check(api.http.get(f"{API}/bridges/br9/fdb"), 404, "NOT_FOUND")
    body = {"port": "p9"}
    check(api.http.post(f"{BRIDGE}/fdb/flush", json=body), 404, "NOT_FOUND")
