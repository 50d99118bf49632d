"""Rule sets and rules: what a client writes, reads back, and what the forwarder is told."""

from __future__ import annotations

from typing import Any

from fastpath.protocol import WireAction, WireAttach, WireRule, WireRuleSet, WireTerm
from tests.api.conftest import Api

NO_HTTP = {
    "id": "no-http",
    "priority": 10,
    "match": {"ip": {"proto": "tcp", "src": "10.0.0.0/8"}, "l4": {"dport": ["80", "8000-8080"]}},
    "action": {"type": "drop"},
}
ALLOW = {"action": {"type": "allow"}}


def ruleset(api: Api, name: str = "fw", *rules: Any, **spec: Any) -> Any:
    return api("PUT", f"/rulesets/{name}", {"spec": {"rules": list(rules), **spec}})


def test_the_first_set_of_everybody(api: Api) -> None:
    api.bridge()
    attach = [{"bridge": "br0", "direction": "ingress"}]
    body = {"spec": {"default": "allow", "attach": attach, "rules": [NO_HTTP]}}
    made = api("PUT", "/rulesets/fw", body, expect=201)
    assert (made["name"], made["generation"]) == ("fw", 1)
    assert made["status"]["observed_generation"] == 1
    assert made["status"]["conditions"][0]["reason"] == "IN_FORCE"
    assert made["status"]["compiled"] == {"rules": 1, "matches": 2, "tables": 1, "bytes": 100}
    assert made["spec"]["attach"] == [{**attach[0], "order": 100}]
    assert made["spec"]["rules"] == [
        {**NO_HTTP, "enabled": True, "log": False, "expires_at": None, "comment": ""}
    ]
    objects = api.forwarder.objects
    assert objects["ruleset/fw"] == WireRuleSet("fw", False, (WireAttach("br0", "", False, 100),))
    full = b"\xff"
    assert objects["rule/fw/no-http"] == WireRule(
        ruleset="fw",
        id="no-http",
        priority=10,
        match=(
            WireTerm("ip_src", masks=((b"\x0a\0\0\0", b"\xff\0\0\0"),)),
            WireTerm("ip_proto", masks=((b"\x06", full),)),
            WireTerm("l4_dst", ranges=((80, 80), (8000, 8080))),
        ),
        action=WireAction("drop"),
        log=False,
        expires_at=0,
    )
    assert "rules" not in api("GET", "/rulesets")["items"][0]["spec"]
    assert api("GET", "/rulesets/fw") == made


def test_one_rule_is_one_object_and_a_generation_of_its_set(api: Api) -> None:
    ruleset(api, "fw", NO_HTTP, {"id": "2", "priority": 20, **ALLOW})
    before = len(api.forwarder.applies)
    rule = api("PUT", "/rulesets/fw/rules/1", {"spec": {"priority": 10, **ALLOW}}, expect=201)
    assert (rule["ruleset"], rule["id"], rule["generation"]) == ("fw", "1", 1)
    assert rule["spec"]["match"] == {}
    (apply,) = api.forwarder.applies[before:]
    assert [obj.key for obj in apply.upserts] == ["rule/fw/1"]
    assert api("GET", "/rulesets/fw")["generation"] == 2
    assert [item["id"] for item in api("GET", "/rulesets/fw/rules")["items"]] == [
        "1",
        "no-http",
        "2",
    ]
    api("PUT", "/rulesets/fw/rules/1", {"spec": {"priority": 10, **ALLOW}}, expect=200)
    assert api("GET", "/rulesets/fw")["generation"] == 2
    patch = {"spec": {"match": {"ip": {"dst": "2001:db8::/32"}}, "action": {"type": "reject"}}}
    patched = api("PATCH", "/rulesets/fw/rules/1", patch)
    assert patched["generation"] == 2
    assert patched["spec"]["match"] == {"ip": {"dst": "2001:db8::/32"}}
    api("DELETE", "/rulesets/fw/rules/1", expect=204)
    api("GET", "/rulesets/fw/rules/1", expect=404)
    assert "rule/fw/1" not in api.forwarder.objects
    assert api("GET", "/rulesets/fw")["generation"] == 4


def test_a_set_is_replaced_as_a_whole(api: Api) -> None:
    ruleset(api, "fw", NO_HTTP, {"id": "2", **ALLOW}, {"id": "3", **ALLOW})
    kept = api("GET", "/rulesets/fw/rules/3")
    before = len(api.forwarder.applies)
    changed = {**NO_HTTP, "priority": 11}
    made = ruleset(api, "fw", changed, {"id": "3", **ALLOW}, {"id": "4", **ALLOW})
    assert made["generation"] == 2
    (apply,) = api.forwarder.applies[before:]
    assert [obj.key for obj in apply.upserts] == ["rule/fw/4", "rule/fw/no-http"]
    assert apply.deletes == ("rule/fw/2",)
    assert api("GET", "/rulesets/fw/rules/3") == kept
    assert api("GET", "/rulesets/fw/rules/no-http")["generation"] == 2
    assert ruleset(api, "fw", changed, {"id": "3", **ALLOW}, {"id": "4", **ALLOW}) == made
    api("PATCH", "/rulesets/fw", {"spec": {"default": "drop"}})
    assert len(api("GET", "/rulesets/fw")["spec"]["rules"]) == 3
    api("DELETE", "/rulesets/fw", expect=204)
    assert api.forwarder.objects == {}


def test_a_restart_keeps_rules_and_sends_nothing(api: Api) -> None:
    api.bridge()
    api.port("p1")
    api("PUT", "/groups/bad", {"spec": {"type": "ip", "members": ["10.0.0.0/8", "2001:db8::1"]}})
    api("PUT", "/policers/slow", {"spec": {"rate": 1_000_000}})
    ruleset(
        api,
        "fw",
        NO_HTTP,
        {"id": "a", "match": {"ip": {"src": "group:bad"}}, "action": {"type": "drop"}},
        {"id": "b", "match": {"in_port": "p1"}, "action": {"type": "police", "policer": "slow"}},
        {
            "id": "c",
            "action": {"type": "mirror", "port": "p1"},
            "expires_at": "2999-01-01T00:00:00Z",
        },
        attach=[{"port": "p1", "direction": "egress", "order": 5}],
    )
    before = [api("GET", path) for path in ("/rulesets/fw", "/groups/bad", "/policers/slow")]
    sent = (len(api.forwarder.applies), len(api.forwarder.snapshots))
    api.restart()
    api.wait_ready()
    after = [api("GET", path) for path in ("/rulesets/fw", "/groups/bad", "/policers/slow")]
    for old, new in zip(before, after, strict=True):
        assert old["spec"] == new["spec"]
        assert old["generation"] == new["generation"]
    assert (len(api.forwarder.applies), len(api.forwarder.snapshots)) == sent
