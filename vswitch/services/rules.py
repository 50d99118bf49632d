"""Status of rule sets, rules, groups and policers, from the last view. Pure but for the clock."""

from __future__ import annotations

import time
from typing import Any

from fastpath.protocol import Outcome, RuleSetState
from vswitch.kinds import Configuration, Key, Stored
from vswitch.kinds.group import GroupStatus
from vswitch.kinds.policer import PolicerStatus
from vswitch.kinds.resource import Condition
from vswitch.kinds.rule import RuleError, RuleSpec, RuleStatus
from vswitch.kinds.ruleset import Compiled, FailedRule, RuleSetStatus
from vswitch.view import View

_OK = Outcome()


def outcome(key: Key, view: View) -> Outcome:
    """The forwarder's newest word on the object."""
    if key.kind == "rule":
        state = view.rulesets.get(key.parent)
        if state is None:
            return _OK
        if key.name in state.failed or state.outcome.ok:
            return state.failed.get(key.name, _OK)
        # The set waits for another rule: its field is none of this rule's.
        return Outcome(state.outcome.code, state.outcome.message, state.outcome.hint)
    if key.kind == "policer" and key.name in view.policers:
        return view.policers[key.name].outcome
    if key.kind == "ruleset" and key.name in view.rulesets:
        return _of_set(view.rulesets[key.name])
    return _OK


def _of_set(state: RuleSetState) -> Outcome:
    """A set one of whose rules is not in force is not ready."""
    if not state.outcome.ok or not state.failed:
        return state.outcome
    id, first = min(state.failed.items())
    more = f" (and {len(state.failed) - 1} more rules)" if len(state.failed) > 1 else ""
    return Outcome(first.code, f"Rule {id}: {first.message}{more}", first.hint)


def readiness(spec: RuleSpec) -> tuple[str, str, str, str] | None:
    """A rule that is in force and yet matches nothing."""
    if not spec.enabled:
        return ("False", "DISABLED", "The rule is not enabled.", "")
    if spec.expires and spec.expires <= time.time():
        return ("False", "EXPIRED", f"The rule expired at {spec.expires_at}.", "")
    return None


def status(
    configuration: Configuration,
    stored: Stored[Any],
    view: View,
    conditions: list[Condition],
    observed: int,
) -> Any:
    key = stored.key
    common: dict[str, Any] = {"conditions": conditions, "observed_generation": observed}
    if key.kind == "ruleset":
        return _ruleset(configuration, key.name, view if observed else View(), common)
    if key.kind == "policer":
        state = view.policers.get(key.name) if observed else None
        return PolicerStatus(
            **common,
            burst=stored.spec.effective_burst,
            passed=state.passed if state else 0,
            dropped=state.dropped if state else 0,
        )
    if key.kind == "group":
        sets = [Key("ruleset", name).path for name in sorted(configuration.sets_naming(key))]
        return GroupStatus(**common, referrers=sets)
    said = outcome(key, view) if observed else _OK
    error = None
    if not said.ok:
        where = pointer_of(said.field)
        error = RuleError(code=said.code, pointer=where, message=said.message, hint=said.hint)
    return RuleStatus(**common, last_error=error)


_PLACES = {
    "in_port": "in_port",
    "fragment": "ip/frag",
    "state": "state",
    "tcp_flags": "l4/tcp_flags",
    "l4_src": "l4/sport",
    "l4_dst": "l4/dport",
    "icmpv6_type": "icmp/type",
    "icmpv6_code": "icmp/code",
}


def pointer_of(field: str) -> str:
    """ "match.ip_src" -> "/match/ip/src", "action.port" -> "/action/port"; "" stays so."""
    part, _, name = field.partition(".")
    if part == "match" and name:
        place = _PLACES.get(name) or name.replace("_", "/", 1)
        return f"/match/{place}"
    return f"/{field.replace('.', '/')}" if field else ""


def _ruleset(
    configuration: Configuration, name: str, view: View, common: dict[str, Any]
) -> RuleSetStatus:
    state = view.rulesets.get(name)
    fields = {field: getattr(state, field) if state else 0 for field in Compiled.model_fields}
    failed = [
        FailedRule(
            id=id,
            code=said.code,
            pointer=pointer_of(said.field),
            message=said.message,
            hint=said.hint,
        )
        for id, said in (sorted(state.failed.items()) if state else ())
    ]
    return RuleSetStatus(
        **common,
        rules=len(configuration.rules_of(name)),
        compiled=Compiled(**fields),
        failed=failed,
    )
