"""Rule sets and rules: what a client writes, reads back, and what the forwarder is told."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from fastpath.protocol import (
    RuleLog,
    RuleLogRow,
    WireAction,
    WireAttach,
    WireRule,
    WireRuleSet,
    WireTerm,
)
from tests.api.conftest import API, Api
from tests.support.topology import wait_until

NO_HTTP = {
    "id": "no-http",
    "priority": 10,
    "match": {"ip": {"proto": "tcp", "src": "10.0.0.0/8"}, "l4": {"dport": ["80", "8000-8080"]}},
    "action": {"type": "drop"},
}
AT_NS = 1_900_000_000_500_000_000
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


def test_while_rules_change_the_rest_is_seen_as_it_is(api: Api) -> None:
    """Rules are asked about for each change, ports once a second and when there is news."""
    api.bridge()
    api.port("p1")
    api("PUT", "/rulesets/fw", {"spec": {}})

    def link_behind_a_change(number: int) -> str:
        rule = {"spec": {"priority": number, "action": {"type": "drop"}}}
        assert api("PUT", "/rulesets/fw/rules/r", rule)["status"]["observed_generation"] == number
        found = {c["type"]: c["status"] for c in api("GET", "/ports/p1")["status"]["conditions"]}
        return str(found["LinkUp"])

    numbers = itertools.count(1)
    assert {link_behind_a_change(next(numbers)) for _ in range(20)} == {"True"}
    assert any(api.forwarder.rules_only)
    api.forwarder.states["p1"] = {"link_up": False}
    api.forwarder.tell("port/p1")
    wait_until(lambda: link_behind_a_change(next(numbers)) == "False", 10, "the link is down")


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
    assert api("PATCH", "/rulesets/fw", {"spec": {"rules": None}}, expect=422)["code"] == "INVALID"
    patched = api("PATCH", "/rulesets/fw", {"spec": {"rules": [NO_HTTP]}})
    assert [rule["id"] for rule in patched["spec"]["rules"]] == ["no-http"]
    assert patched["spec"]["default"] == "drop"
    body = {"spec": {"rules": [{"id": "a", "action": {"type": "jump", "ruleset": "no"}}]}}
    problem = api("PATCH", "/rulesets/fw", body, expect=422)
    assert problem["errors"][0]["pointer"] == "/spec/rules/0/action/ruleset"
    api("PUT", "/rulesets/fw", {"spec": {}})
    assert api("GET", "/rulesets/fw")["spec"]["rules"] == []
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


def test_pages_follow_the_order_of_rules(api: Api) -> None:
    rules = [{"id": f"r{n}", "priority": n % 3 - 1, **ALLOW} for n in range(10)]
    ruleset(api, "fw", *rules)
    expected = sorted(rules, key=lambda rule: (rule["priority"], rule["id"]))
    found: list[str] = []
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = api("GET", "/rulesets/fw/rules", limit=3, **more)
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [rule["id"] for rule in expected]
    api("PUT", "/rulesets/fw/rules/r1", {"spec": ALLOW, "labels": {"by": "me"}})
    labelled = api("GET", "/rulesets/fw/rules", label="by=me")["items"]
    assert [item["id"] for item in labelled] == ["r1"]
    counters = api("GET", "/rulesets/fw/counters", limit=4)
    assert [item["frames"] for item in counters["items"]] == [0, 1, 2, 3]
    assert counters["items"][0]["last_hit"] is None
    assert counters["items"][1]["last_hit"] == "2030-03-17T17:46:40Z"
    rest = api("GET", "/rulesets/fw/counters", cursor=counters["next_cursor"])
    assert (len(rest["items"]), rest["next_cursor"]) == (6, None)


def test_thousands_go_as_a_snapshot_and_one_as_itself(api: Api) -> None:
    api.bridge()
    many = [{"id": f"r{n}", "priority": n, **ALLOW} for n in range(5000)]
    snapshots = len(api.forwarder.snapshots)
    ruleset(api, "fw", *many)
    wait_until(lambda: len(api.forwarder.rules("fw")) == 5000, 20, "they are there")
    assert len(api.forwarder.snapshots) == snapshots + 1
    before = len(api.forwarder.applies)
    api("PUT", "/rulesets/fw/rules/r7", {"spec": {"action": {"type": "drop"}}})
    assert [len(apply.upserts) for apply in api.forwarder.applies[before:]] == [1]
    revision = api("GET", "/revisions", limit=2)["items"]
    assert [entry["object"] for entry in revision[0]["diff"]] == ["rulesets/fw/rules/r7"]
    assert {entry["object"]: entry["after"] for entry in revision[1]["diff"]} == {
        "rulesets/fw": {
            "generation": 1,
            "labels": {},
            "description": "",
            "spec": {"default": "allow", "attach": []},
        },
        "rulesets/fw/rules": {"rules": 5000, "changed": 5000},
    }


def test_others_are_answered_while_a_large_set_is_made(api: Api) -> None:
    api.bridge()
    many = [{"id": f"r{n}", "priority": n, **ALLOW} for n in range(10_000)]
    done = threading.Event()
    faults: list[str] = []

    def make() -> None:
        answer = api.client().put(
            f"{API}/rulesets/fw", params={"wait": "none"}, json={"spec": {"rules": many}}
        )
        if answer.status_code != 201:
            faults.append(answer.text)
        done.set()

    thread = threading.Thread(target=make)
    thread.start()
    answered = 0
    while not done.is_set():
        api("GET", "/bridges/br0")
        answered += not done.is_set()
    thread.join()
    assert not faults
    assert answered > 3
    assert len(api("GET", "/rulesets/fw")["spec"]["rules"]) == 10_000


def test_writers_of_single_rules_do_not_lose_each_other(api: Api) -> None:
    """Each write is a generation of its set."""
    ruleset(api, "fw")
    faults: list[str] = []

    def write(number: int) -> None:
        client = api.client()
        for step in range(10):
            path = f"{API}/rulesets/fw/rules/w{number}-{step % 3}"
            spec = {"priority": step, "action": {"type": "allow"}}
            answer = client.put(path, params={"wait": "none"}, json={"spec": spec})
            if answer.status_code not in (200, 201):
                faults.append(answer.text)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert api("GET", "/rulesets/fw")["generation"] == 41
    assert len(api("GET", "/rulesets/fw/rules")["items"]) == 12


def test_what_rules_logged(api: Api) -> None:
    ruleset(api, "fw", NO_HTTP)
    ruleset(api, "other")
    rows = tuple(
        RuleLogRow(
            1_900_000_000_500_000_000 + n, 3, n, "fw", "no-http", "drop", "p1", "", 60, b"\1"
        )
        for n in range(600)
    )
    api.forwarder.send(RuleLog(rows, lost=7))
    wait_until(lambda: api("GET", "/rulesets/fw/log")["items"], 5, "the records are there")
    answer = api("GET", "/rulesets/fw/log", limit=1000)
    assert len(answer["items"]) == 500
    assert answer["lost"] == 7
    assert answer["items"][0] == {
        "at": "2030-03-17T17:46:40.500001Z",
        "rule": "no-http",
        "action": "drop",
        "in_port": "p1",
        "out_port": None,
        "frame": 599,
        "frame_bytes": 60,
        "head_hex": "01",
        "generation": 3,
    }
    assert api("GET", "/rulesets/other/log")["items"] == []
    api("DELETE", "/rulesets/fw")
    ruleset(api, "fw")
    assert api("GET", "/rulesets/fw/log")["items"] == []


def test_metrics_of_rules(make_api: Callable[..., Api]) -> None:
    api = make_api(metrics_rules_max=3)
    api.wait_ready()
    api("PUT", "/policers/slow", {"spec": {"rate": 1}})
    ruleset(api, "a", *({"id": f"r{n}", **ALLOW} for n in range(2)))
    ruleset(api, "b", *({"id": f"r{n}", **ALLOW} for n in range(5)))
    text = api.http.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['vswitch_ruleset_frames_total{ruleset="a"}'] == "1.0"
    assert lines['vswitch_ruleset_bytes_total{ruleset="b"}'] == "1000.0"
    assert lines['vswitch_rule_frames_total{rule="r1",ruleset="a"}'] == "1.0"
    own = [line for line in lines if line.startswith("vswitch_rule_frames_total")]
    assert len(own) == 3
    assert lines['vswitch_policer_frames_total{policer="slow",was="dropped"}'] == "3.0"
    assert lines["vswitch_rules"] == "7.0"


def test_actions_and_fields_on_the_wire(api: Api) -> None:
    api.port("p1", bridge=None)
    rules = {
        "mirror": {"action": {"type": "mirror", "port": "p1", "snaplen": 64}},
        "set": {"action": {"type": "set", "vlan": 0, "dscp": 46, "eth_dst": "FF:00:00:00:00:01"}},
        "vlan": {"match": {"vlan": {"vid": ["10-11", "20"], "tagged": True, "pcp": 5}}, **ALLOW},
        "v6": {"match": {"ip": {"proto": "icmpv6"}, "icmp": {"type": 135}}, **ALLOW},
        "flags": {"match": {"l4": {"tcp_flags": "syn,!ack"}, "state": ["new"]}, **ALLOW},
        "frag": {"match": {"ip": {"frag": "later", "proto": ["0-5"]}, "in_port": "p1"}, **ALLOW},
        "arp": {"match": {"arp": {"op": "reply", "sha": "02:00:00:00:00:01"}}, **ALLOW},
    }
    ruleset(api, "fw", *({"id": id, "log": True, **rule} for id, rule in rules.items()))
    wire = {rule.id: rule for rule in api.forwarder.rules("fw")}
    assert all(rule.log for rule in wire.values())
    assert wire["mirror"].action == WireAction("mirror", port="p1", snaplen=64)
    assert wire["set"].action == WireAction("set", vlan=0, dscp=46, eth_dst="ff:00:00:00:00:01")
    assert wire["vlan"].match == (
        WireTerm("vlan_tagged", masks=((b"\1", b"\xff"),)),
        WireTerm("vlan_vid", masks=((b"\0\x0a", b"\xff\xfe"), (b"\0\x14", b"\xff\xff"))),
        WireTerm("vlan_pcp", masks=((b"\5", b"\xff"),)),
    )
    assert [term.field for term in wire["v6"].match] == ["ip_proto", "icmpv6_type"]
    assert wire["flags"].match == (
        WireTerm("tcp_flags", masks=((b"\2", b"\x12"),)),
        WireTerm("state", words=("new",)),
    )
    assert wire["frag"].match == (
        WireTerm("in_port", words=("p1",)),
        WireTerm("ip_proto", masks=((b"\0", b"\xfc"), (b"\4", b"\xfe"))),
        WireTerm("fragment", words=("later",)),
    )
    assert [term.field for term in wire["arp"].match] == ["arp_op", "arp_sha"]
