"""Rules: what is refused, with which code and where; limits; what refers to what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastpath.protocol import Outcome
from tests.api.conftest import API, Api
from tests.api.test_problems import check
from tests.api.test_rulesets import ALLOW, NO_HTTP, ruleset
from tests.support.topology import wait_until
from vswitch.settings import Limits

Make = Callable[..., Api]


def put(api: Api, path: str, spec: dict[str, Any], status: int, code: str) -> Any:
    """The problem's first fault."""
    return check(api.http.put(f"{API}{path}", json={"spec": spec}), status, code)["errors"][0]


def jump(target: str) -> dict[str, Any]:
    return {"action": {"type": "jump", "ruleset": target}}


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        ({"match": {"in_port": "no"}, **ALLOW}, "/match/in_port"),
        ({"match": {"ip": {"src": "group:no"}}, **ALLOW}, "/match/ip/src"),
        ({"match": {"l4": {"dport": ["group:no"]}}, **ALLOW}, "/match/l4/dport/0"),
        ({"match": {"arp": {"sha": "group:no"}}, **ALLOW}, "/match/arp/sha"),
        ({"action": {"type": "redirect", "port": "no"}}, "/action/port"),
        ({"action": {"type": "mirror", "port": "no"}}, "/action/port"),
        ({"action": {"type": "police", "policer": "no"}}, "/action/policer"),
        (jump("no"), "/action/ruleset"),
    ],
)
def test_what_a_rule_names_is_there(api: Api, rule: dict[str, Any], pointer: str) -> None:
    ruleset(api)
    fault = put(api, "/rulesets/fw/rules/a", rule, 422, "REFERENCE_NOT_FOUND")
    assert fault["pointer"] == f"/spec{pointer}"
    spec = {"rules": [NO_HTTP, {"id": "a", **rule}]}
    fault = put(api, "/rulesets/fw", spec, 422, "REFERENCE_NOT_FOUND")
    assert fault["pointer"] == f"/spec/rules/1{pointer}"
    assert api("GET", "/rulesets/fw")["spec"]["rules"] == []


def test_a_group_is_of_the_type_that_is_needed(api: Api) -> None:
    api("PUT", "/groups/web", {"spec": {"type": "port", "members": ["80", "8000-8080"]}})
    ruleset(api)
    rule = {"match": {"ip": {"src": "group:web"}}, **ALLOW}
    fault = put(api, "/rulesets/fw/rules/a", rule, 422, "INVALID")
    assert fault["pointer"] == "/spec/match/ip/src"
    rule = {"match": {"l4": {"dport": ["group:web"]}}, **ALLOW}
    api("PUT", "/rulesets/fw/rules/a", {"spec": rule}, expect=201)
    assert api("GET", "/groups/web")["status"]["referrers"] == ["rulesets/fw"]
    fault = put(api, "/groups/web", {"type": "ip"}, 409, "IN_USE")
    assert fault["pointer"] == "/spec/type"


def test_attachments_name_what_is_there(api: Api) -> None:
    spec = {"attach": [{"bridge": "no", "direction": "ingress"}]}
    fault = put(api, "/rulesets/fw", spec, 422, "REFERENCE_NOT_FOUND")
    assert fault["pointer"] == "/spec/attach/0/bridge"
    spec = {"attach": [{"port": "no", "direction": "ingress"}]}
    fault = put(api, "/rulesets/fw", spec, 422, "REFERENCE_NOT_FOUND")
    assert fault["pointer"] == "/spec/attach/0/port"


def test_rules_without_a_set(api: Api) -> None:
    check(api.http.put(f"{API}/rulesets/fw/rules/a", json={"spec": ALLOW}), 404, "NOT_FOUND")
    for path in ("rules", "rules/a", "counters", "log"):
        check(api.http.get(f"{API}/rulesets/fw/{path}"), 404, "NOT_FOUND")
    check(api.http.delete(f"{API}/rulesets/fw/rules/a"), 404, "NOT_FOUND")


def test_jumps_come_to_an_end(api: Api) -> None:
    for number in range(10):
        ruleset(api, f"s{number}")
    for number in range(8):
        path = f"/rulesets/s{number}/rules/j"
        api("PUT", path, {"spec": jump(f"s{number + 1}")}, expect=201)
    fault = put(api, "/rulesets/s8/rules/j", jump("s9"), 422, "JUMP_LIMIT")
    assert fault["pointer"] == "/spec/action/ruleset"
    fault = put(api, "/rulesets/s8/rules/j", jump("s0"), 422, "JUMP_LOOP")
    assert fault["pointer"] == "/spec/action/ruleset"
    put(api, "/rulesets/s8/rules/j", jump("s8"), 422, "JUMP_LOOP")
    spec = {"rules": [{"id": "j", **jump("s7")}]}
    fault = put(api, "/rulesets/s8", spec, 422, "JUMP_LOOP")
    assert fault["pointer"] == "/spec/rules/0/action/ruleset"
    api("DELETE", "/rulesets/s3/rules/j", expect=204)
    api("PUT", "/rulesets/s8/rules/j", {"spec": jump("s9")}, expect=201)


# --- limits -------------------------------------------------------------------------------------


@pytest.fixture
def small(make_api: Make) -> Api:
    limits = Limits(rules=2, rulesets=2, groups=1, group_members=2, policers=1, attach=2)
    api = make_api(limits=limits)
    api.wait_ready()
    return api


def test_limits(small: Api) -> None:
    rules = [{"id": str(number), **ALLOW} for number in range(3)]
    fault = put(small, "/rulesets/fw", {"rules": rules}, 409, "RULE_LIMIT")
    assert fault["pointer"] == "/spec/rules"
    ruleset(small, "fw", *rules[:2])
    assert put(small, "/rulesets/fw/rules/2", ALLOW, 409, "RULE_LIMIT")["pointer"] == ""
    small("PUT", "/rulesets/fw/rules/1", {"spec": {"priority": 3, **ALLOW}}, expect=200)
    ruleset(small, "fw2")
    put(small, "/rulesets/fw3", {}, 409, "RULESET_LIMIT")
    fault = put(
        small, "/groups/g", {"type": "port", "members": ["1", "2", "3"]}, 409, "MEMBER_LIMIT"
    )
    assert fault["pointer"] == "/spec/members"
    small("PUT", "/groups/g", {"spec": {"type": "port"}}, expect=201)
    put(small, "/groups/g2", {"type": "port"}, 409, "GROUP_LIMIT")
    small("PUT", "/policers/p", {"spec": {"rate": 1}}, expect=201)
    put(small, "/policers/p2", {"rate": 1}, 409, "POLICER_LIMIT")
    table = {"format": "filterrule", "rules": [{"dir": 0}] * 3}
    problem = small("POST", "/rulesets/fw/import", table, expect=409)
    assert (problem["code"], problem["errors"][0]["pointer"]) == ("RULE_LIMIT", "/rules")


def test_sets_at_one_stage(make_api: Make) -> None:
    api = make_api(limits=Limits(attach=2))
    api.wait_ready()
    api.bridge()
    api.port("p1")
    api.port("p2", bridge=None)
    bridge = [{"bridge": "br0", "direction": "ingress"}]
    ruleset(api, "a", attach=bridge)
    ruleset(api, "b", attach=[{"port": "p1", "direction": "ingress"}])
    fault = put(api, "/rulesets/c", {"attach": bridge}, 409, "ATTACH_LIMIT")
    assert fault["pointer"] == "/spec/attach/0"
    ruleset(api, "c", attach=[{"bridge": "br0", "direction": "egress"}])
    for name in ("d", "e"):
        ruleset(api, name, attach=[{"port": "p2", "direction": "ingress"}])
    spec = {"bridge": "br0", "backend": {"type": "memory"}}
    assert put(api, "/ports/p2", spec, 409, "ATTACH_LIMIT")["pointer"] == "/spec/bridge"


def test_long_bodies_where_lists_are_long(make_api: Make) -> None:
    api = make_api(large_body_bytes_max=100_000)
    api.wait_ready()
    members = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(5000)]
    body = {"spec": {"type": "ip", "members": members}}
    assert api("PUT", "/groups/g", body, wait="none")["spec"]["members"] == members
    check(api.http.put(f"{API}/rulesets/fw", content=b" " * 100_001), 413, "BODY_TOO_LARGE")
    answer = api.http.put(f"{API}/rulesets/fw/rules/a", content=b" " * 70_000)
    check(answer, 413, "BODY_TOO_LARGE")


def test_as_many_faults_as_anybody_reads(api: Api) -> None:
    rules = [{"id": str(number), **jump("no")} for number in range(300)]
    answer = api.http.put(f"{API}/rulesets/fw", json={"spec": {"rules": rules}})
    assert len(check(answer, 422, "REFERENCE_NOT_FOUND")["errors"]) == 100
    rules = [{"id": "-"} for _ in range(300)]
    answer = api.http.put(f"{API}/rulesets/fw", json={"spec": {"rules": rules}})
    assert len(check(answer, 422, "INVALID")["errors"]) == 100


# --- what is in use -----------------------------------------------------------------------------


def web_of_references(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api("PUT", "/groups/g", {"spec": {"type": "mac", "members": ["02:00:00:00:00:01"]}})
    api("PUT", "/policers/slow", {"spec": {"rate": 1000}})
    ruleset(api, "sub")
    ruleset(
        api,
        "fw",
        NO_HTTP,
        {"id": "g", "match": {"eth": {"src": "group:g"}}, **ALLOW},
        {"id": "p", "action": {"type": "redirect", "port": "p1"}},
        {"id": "q", "action": {"type": "police", "policer": "slow"}},
        {"id": "s", **jump("sub")},
        attach=[{"bridge": "br0", "direction": "ingress"}, {"port": "p1", "direction": "egress"}],
    )


def ids(api: Api) -> list[str]:
    return [rule["id"] for rule in api("GET", "/rulesets/fw")["spec"]["rules"]]


@pytest.mark.parametrize(
    ("path", "user", "lost"),
    [
        ("/groups/g", "rulesets/fw/rules/g", "g"),
        ("/policers/slow", "rulesets/fw/rules/q", "q"),
        ("/rulesets/sub", "rulesets/fw/rules/s", "s"),
        ("/ports/p1", "rulesets/fw", "p"),
    ],
)
def test_what_is_named_stays_or_takes_its_rules_along(
    api: Api, path: str, user: str, lost: str
) -> None:
    web_of_references(api)
    problem = check(api.http.delete(f"{API}{path}"), 409, "IN_USE")
    assert any(item["message"].startswith(user) for item in problem["errors"])
    before = api("GET", "/rulesets/fw")
    api("DELETE", path, cascade="true", expect=204)
    assert ids(api) == [id for id in ["no-http", "g", "p", "q", "s"] if id != lost]
    assert api("GET", "/rulesets/fw")["generation"] == before["generation"] + 1
    api.restart()
    api.wait_ready()
    assert lost not in ids(api)


def test_a_bridge_goes_and_the_set_stays(api: Api) -> None:
    web_of_references(api)
    problem = check(api.http.delete(f"{API}/bridges/br0"), 409, "IN_USE")
    assert "rulesets/fw refers to bridges/br0" in {item["message"] for item in problem["errors"]}
    api("DELETE", "/bridges/br0", cascade="true", expect=204)
    assert api("GET", "/rulesets/fw")["spec"]["attach"] == []
    assert ids(api) == ["no-http", "g", "q", "s"]
    api.restart()
    api.wait_ready()
    assert api("GET", "/rulesets/fw")["spec"]["attach"] == []


def test_preconditions_of_rules(api: Api) -> None:
    ruleset(api, "fw", NO_HTTP)
    path = f"{API}/rulesets/fw/rules/no-http"
    body = {"spec": {"priority": 7, **ALLOW}}
    wrong = api.http.put(path, json=body, headers={"If-Match": '"7"'})
    check(wrong, 412, "PRECONDITION_FAILED")
    check(api.http.put(path, json=body, headers={"If-None-Match": "*"}), 412, "PRECONDITION_FAILED")
    answer = api.http.put(path, json=body, headers={"If-Match": '"1"'})
    assert (answer.status_code, answer.headers["etag"]) == (200, '"2"')
    assert api.http.get(path).headers["etag"] == '"2"'
    whole = api.http.get(f"{API}/rulesets/fw")
    assert whole.headers["etag"] == '"2"'
    check(api.http.delete(path, headers={"If-Match": '"1"'}), 412, "PRECONDITION_FAILED")


# --- what the fast path refuses -----------------------------------------------------------------


def test_a_rule_that_is_refused_says_where(api: Api) -> None:
    refusal = Outcome("RULE_LIMIT", "more than 65536 alternatives", field="match.ip_src")
    api.forwarder.outcomes["rule/fw/no-http"] = refusal
    made = ruleset(api, "fw", NO_HTTP, {"id": "b", **ALLOW})
    ready = made["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "RULE_LIMIT")
    assert made["status"]["compiled"]["rules"] == 1
    assert made["status"]["failed"] == [
        {
            "id": "no-http",
            "code": "RULE_LIMIT",
            "pointer": "/match/ip/src",
            "message": refusal.message,
            "hint": "",
        }
    ]
    rule = api("GET", "/rulesets/fw/rules/no-http")["status"]
    assert rule["conditions"][0]["status"] == "False"
    assert rule["last_error"]["pointer"] == "/match/ip/src"
    assert api("GET", "/rulesets/fw/rules/b")["status"]["conditions"][0]["status"] == "True"
    del api.forwarder.outcomes["rule/fw/no-http"]
    api.forwarder.tell("rule/fw/no-http")
    wait_until(lambda: not api("GET", "/rulesets/fw")["status"]["failed"], 5, "it is in force")


def test_a_set_that_waits_for_one_rule_says_so_at_all_of_them(api: Api) -> None:
    refusal = Outcome("RULE_LIMIT", "rule no-http: too many", field="match.ip_src")
    api.forwarder.outcomes["ruleset/fw"] = api.forwarder.outcomes["rule/fw/no-http"] = refusal
    ruleset(api, "fw", NO_HTTP, {"id": "b", **ALLOW})
    for id, pointer in (("no-http", "/match/ip/src"), ("b", "")):
        status = api("GET", f"/rulesets/fw/rules/{id}")["status"]
        assert status["conditions"][0]["reason"] == "RULE_LIMIT"
        assert status["last_error"]["pointer"] == pointer


def test_rules_that_match_nothing_say_so(api: Api) -> None:
    off = {"id": "off", "enabled": False, **ALLOW}
    old = {"id": "old", "expires_at": "2020-01-01T00:00:00Z", **ALLOW}
    made = ruleset(api, "fw", off, old)
    assert (made["status"]["rules"], made["status"]["compiled"]["rules"]) == (2, 1)
    assert "rule/fw/off" not in api.forwarder.objects
    for id, reason in (("off", "DISABLED"), ("old", "EXPIRED")):
        ready = api("GET", f"/rulesets/fw/rules/{id}")["status"]["conditions"][0]
        assert (ready["status"], ready["reason"]) == ("False", reason)


def test_counters_that_cannot_be_asked(api: Api) -> None:
    ruleset(api)
    api.forwarder.objects.clear()
    check(api.http.get(f"{API}/rulesets/fw/counters"), 503, "FASTPATH_REFUSED")


@pytest.mark.parametrize("cursor", ["e", "eA", "MTAwMA", "!"])
def test_cursors_of_rules(api: Api, cursor: str) -> None:
    ruleset(api, "fw", NO_HTTP)
    answer = api.http.get(f"{API}/rulesets/fw/rules", params={"cursor": cursor})
    assert answer.status_code in (200, 422)
    if answer.status_code == 422:
        check(answer, 422, "INVALID")
