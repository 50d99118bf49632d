"""Import of `filterrule` tables over REST: which sets come of it, and which go."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import API, Api
from tests.api.test_problems import check

IN_80 = {
    "dir": 0,
    "proto": 6,
    "srcaddr": "10.1.2.3",
    "srcmask": "255.0.0.0",
    "dstaddr": "0.0.0.0",
    "dstmask": "0.0.0.0",
    "srcport": -1,
    "dstport": 80,
}
OUT_ANY_53 = {"dir": 1, "proto": -1, "dstport": 53}


def imported(api: Api, name: str, *rules: Any, **more: Any) -> Any:
    body = {"format": "filterrule", "rules": list(rules), **more}
    return api("POST", f"/rulesets/{name}/import", body, expect=200)["items"]


def names(api: Api) -> list[str]:
    return [item["name"] for item in api("GET", "/rulesets")["items"]]


def test_N7_a_table_of_one_direction(api: Api) -> None:
    api.bridge()
    made = imported(api, "fw", IN_80, attach=[{"bridge": "br0"}])
    assert made == [{"name": "fw", "direction": "in", "rules": 1}]
    spec = api("GET", "/rulesets/fw")["spec"]
    assert spec["default"] == "allow"
    assert spec["attach"] == [{"bridge": "br0", "direction": "ingress", "order": 100}]
    (rule,) = spec["rules"]
    assert (rule["id"], rule["priority"], rule["action"]) == ("0", 0, {"type": "drop"})
    assert rule["match"] == {
        "ip": {"version": 4, "src": "10.0.0.0/8", "proto": 6},
        "l4": {"dport": ["80"]},
    }
    assert "rule/fw/0" in api.forwarder.objects
    revision = api("GET", "/system/ready")["revision"]
    assert imported(api, "fw", IN_80) == made
    assert api("GET", "/system/ready")["revision"] == revision, "the same again changes nothing"


def test_N7_a_table_of_both_directions(api: Api) -> None:
    api.port("p1", bridge=None)
    made = imported(api, "fw", IN_80, OUT_ANY_53, attach=[{"port": "p1"}])
    assert [(item["name"], item["rules"]) for item in made] == [("fw-in", 1), ("fw-out", 2)]
    out = api("GET", "/rulesets/fw-out")["spec"]
    assert out["attach"] == [{"port": "p1", "direction": "egress", "order": 100}]
    assert [rule["id"] for rule in out["rules"]] == ["1", "1-other"]
    assert out["rules"][1]["match"]["ip"]["proto"] == ["0-5", "7-16", "18-255"]
    imported(api, "fw", IN_80)
    assert names(api) == ["fw"], "what the first import made is replaced as a whole"
    imported(api, "fw", IN_80, OUT_ANY_53)
    assert names(api) == ["fw-in", "fw-out"]
    assert api("GET", "/rulesets/fw-in")["spec"]["attach"] == []


def test_an_import_leaves_other_sets_alone(api: Api) -> None:
    api("PUT", "/rulesets/fw-in", {"spec": {}})
    imported(api, "other", IN_80)
    imported(api, "fw", IN_80)
    assert names(api) == ["fw", "fw-in", "other"]


def test_imports_that_are_refused(api: Api) -> None:
    path = f"{API}/rulesets/fw/import"
    check(api.http.post(path, json={"format": "iptables", "rules": []}), 422, "INVALID")
    body: dict[str, Any] = {"format": "filterrule", "rules": [{"dir": 0, "proto": 999}]}
    problem = check(api.http.post(path, json=body), 422, "INVALID")
    assert problem["errors"][0]["pointer"] == "/rules/0/proto"
    body = {"format": "filterrule", "rules": [IN_80], "attach": [{"bridge": "no"}]}
    problem = check(api.http.post(path, json=body), 422, "REFERENCE_NOT_FOUND")
    assert problem["errors"][0]["pointer"] == "/attach/0/bridge"
    long = f"{API}/rulesets/{'n' * 28}/import"
    both = {"format": "filterrule", "rules": [IN_80, OUT_ANY_53]}
    check(api.http.post(long, json=both), 422, "INVALID")
    api("PUT", "/rulesets/a", {"spec": {}})
    imported(api, "fw", IN_80)
    jump = {"spec": {"action": {"type": "jump", "ruleset": "fw"}}}
    api("PUT", "/rulesets/a/rules/j", jump)
    check(api.http.post(path, json=both), 409, "IN_USE")
    assert names(api) == ["a", "fw"]
