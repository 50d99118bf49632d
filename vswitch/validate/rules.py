"""What must hold between rule sets, rules, groups, policers and what they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from vswitch import vale
from vswitch.kinds import Configuration, Key
from vswitch.kinds.action import JumpAction
from vswitch.problems import Detail, Problem
from vswitch.settings import Limits

JUMPS_MAX = 8
"""Jumps within jumps, as the fast path follows them."""
_WORDS = {"ip": "IP addresses", "mac": "MAC addresses", "port": "ports"}


def users(after: Configuration, key: Key) -> list[Key]:
    """Rules, and sets by where they are attached, that name the object."""
    if key.kind in ("rule", "fdb"):
        return []
    found = after.attached_to(key) if key.kind in ("bridge", "port") else []
    return found if key.kind == "bridge" else found + after.rules_naming(key)


def faults(
    before: Configuration,
    after: Configuration,
    touched: Iterable[Key],
    limits: Limits,
    pointers: Mapping[Key, str],
) -> Iterator[Detail]:
    present = [key for key in touched if after.get(key) is not None]
    sets = {key.parent for key in present if key.kind == "rule"}
    for name in sorted(sets):
        yield from _room(before, after, name, limits, pointers)
    for key in present:
        if key.kind == "rule":
            yield from _references(after, key, pointers.get(key, "/spec"))
        elif key.kind == "ruleset":
            yield from _attachments(before, after, key, limits, pointers.get(key, "/spec"))
        elif key.kind == "group":
            yield from _group(before, after, key, limits)
        elif key.kind == "port":
            yield from _moved(before, after, key, limits)
    yield from _jumps(after, [key for key in present if key.kind == "rule"], pointers)
    yield from _counts(before, after, limits)


def _room(
    before: Configuration,
    after: Configuration,
    name: str,
    limits: Limits,
    pointers: Mapping[Key, str],
) -> Iterator[Detail]:
    if name not in after.rulesets:
        raise Problem("NOT_FOUND", f"There is no RuleSet named {name}.")
    count = len(after.rules_of(name))
    if limits.rules < count > len(before.rules_of(name)):
        places = (place for key, place in pointers.items() if key.parent == name)
        place = next(places, "").rpartition("/")[0]
        text = f"{name} would have {count} rules, {limits.rules} are allowed."
        yield Detail(place, "RULE_LIMIT", text)


def _references(after: Configuration, key: Key, base: str) -> Iterator[Detail]:
    spec = after.rules_of(key.parent)[key.name].spec
    for place, target, wanted in spec.references():
        where = base + "".join(f"/{part}" for part in place)
        stored = after.get(target)
        if stored is None:
            text = f"There is no {target.kind} named {target.name}."
            yield Detail(where, "REFERENCE_NOT_FOUND", text)
        elif wanted and stored.spec.type != wanted:
            has, needs = _WORDS[stored.spec.type], _WORDS[wanted]
            text = f"Group {target.name} holds {has}; {needs} are needed here."
            yield Detail(where, "INVALID", text)


# --- where sets are asked -----------------------------------------------------------------------


def _attachments(
    before: Configuration, after: Configuration, key: Key, limits: Limits, base: str
) -> Iterator[Detail]:
    attach = after.rulesets[key.name].spec.attach
    old = before.rulesets.get(key.name)
    if not attach or (old is not None and old.spec.attach == attach):
        return
    counts = _stage_counts(after)
    for index, one in enumerate(attach):
        where = f"{base}/attach/{index}"
        target = one.target
        stored = after.get(target)
        if stored is None:
            text = f"There is no {target.kind} named {target.name}."
            yield Detail(f"{where}/{target.kind}", "REFERENCE_NOT_FOUND", text)
        elif any(_is_kernel(after, name) for name in _bridges(after, target)):
            text = "Frames of a VALE switch of the kernel pass no rules of ours."
            yield Detail(f"{where}/{target.kind}", "VALE_LIMIT", text)
        elif (most := _longest(after, counts, target, one.direction)) > limits.attach:
            text = f"{most} sets would be asked there, {limits.attach} are allowed."
            yield Detail(where, "ATTACH_LIMIT", text)


def _moved(
    before: Configuration, after: Configuration, key: Key, limits: Limits
) -> Iterator[Detail]:
    """A port that comes into a bridge brings its own sets to the bridge's."""
    old = before.ports.get(key.name)
    if old is not None and old.spec.bridges == after.ports[key.name].spec.bridges:
        return
    counts = _stage_counts(after)
    for direction in ("ingress", "egress"):
        most = _longest(after, counts, key, direction)
        if most > limits.attach:
            text = f"{most} rule sets would be asked at its {direction}, {limits.attach} at most."
            yield Detail("/spec/bridge", "ATTACH_LIMIT", text)
    own = any(counts[key, direction] for direction in ("ingress", "egress"))
    if own and any(_is_kernel(after, name) for name in _bridges(after, key)):
        text = "Rule sets are attached to this port; a VALE switch of the kernel asks none."
        yield Detail("/spec/bridge", "VALE_LIMIT", text)


def _bridges(after: Configuration, target: Key) -> tuple[str, ...]:
    """Those whose frames meet a set that is attached there."""
    return (target.name,) if target.kind == "bridge" else after.ports[target.name].spec.bridges


def _is_kernel(after: Configuration, bridge: str) -> bool:
    stored = after.bridges.get(bridge)
    return stored is not None and vale.is_kernel(stored.spec)


def _stage_counts(after: Configuration) -> Counter[tuple[Key, str]]:
    """How many sets are attached to each bridge and port. Sets are few."""
    return Counter(
        (attach.target, attach.direction)
        for stored in after.rulesets.values()
        for attach in stored.spec.attach
    )


def _longest(
    after: Configuration, counts: Counter[tuple[Key, str]], target: Key, direction: str
) -> int:
    """Of the chains that a set attached there is part of."""
    here = counts[target, direction]
    if target.kind == "port":
        bridges = _bridges(after, target)
        return here + max((counts[Key("bridge", name), direction] for name in bridges), default=0)
    ports = after.members(target.name)
    return here + max((counts[Key("port", name), direction] for name in ports), default=0)


# --- groups and numbers -------------------------------------------------------------------------


def _group(
    before: Configuration, after: Configuration, key: Key, limits: Limits
) -> Iterator[Detail]:
    spec = after.groups[key.name].spec
    if len(spec.members) > limits.group_members:
        text = f"{len(spec.members)} members, {limits.group_members} are allowed."
        yield Detail("/spec/members", "MEMBER_LIMIT", text)
    old = before.groups.get(key.name)
    if old is not None and old.spec.type != spec.type and (names := after.sets_naming(key)):
        text = f"Rules of {names[0]} name this group as one of {_WORDS[old.spec.type]}."
        yield Detail("/spec/type", "IN_USE", text)


def _counts(before: Configuration, after: Configuration, limits: Limits) -> Iterator[Detail]:
    for objects, code, word in (
        ("rulesets", "RULESET_LIMIT", "rule sets"),
        ("groups", "GROUP_LIMIT", "groups"),
        ("policers", "POLICER_LIMIT", "policers"),
    ):
        most, count = getattr(limits, objects), len(getattr(after, objects))
        if most < count > len(getattr(before, objects)):
            yield Detail("", code, f"At most {most} {word} are allowed.")


# --- jumps --------------------------------------------------------------------------------------


def _jumps(
    after: Configuration, touched: Iterable[Key], pointers: Mapping[Key, str]
) -> Iterator[Detail]:
    """Jumps must come to an end: no set may lead back to itself, and chains are bounded."""
    jumps: dict[tuple[str, str], Key] = {}
    for key in touched:
        action = after.rules_of(key.parent)[key.name].spec.action
        if isinstance(action, JumpAction):
            jumps.setdefault((key.parent, action.ruleset), key)
    if not jumps:
        return
    down = {
        name: [target.name for target in table.references if target.kind == "ruleset"]
        for name, table in after.rules.items()
    }
    up: dict[str, list[str]] = {}
    for name, targets in down.items():
        for target in targets:
            up.setdefault(target, []).append(name)
    for (source, target), key in jumps.items():
        where = f"{pointers.get(key, '/spec')}/action/ruleset"
        if source in _reachable(down, target):
            text = f"{target} leads back to {source}: frames would jump for ever."
            yield Detail(where, "JUMP_LOOP", text)
        elif (depth := 1 + _depth(down, target) + _depth(up, source)) > JUMPS_MAX:
            text = f"{depth} jumps would follow each other, {JUMPS_MAX} are allowed."
            yield Detail(where, "JUMP_LIMIT", text)


def _reachable(edges: Mapping[str, list[str]], start: str) -> set[str]:
    seen, left = {start}, [start]
    while left:
        for name in edges.get(left.pop(), ()):
            if name not in seen:
                seen.add(name)
                left.append(name)
    return seen


def _depth(edges: Mapping[str, list[str]], start: str) -> int:
    """Steps of the longest way from there; JUMPS_MAX is enough to know."""
    steps, level = 0, {start}
    while steps < JUMPS_MAX:
        level = {name for here in level for name in edges.get(here, ())}
        if not level:
            break
        steps += 1
    return steps
