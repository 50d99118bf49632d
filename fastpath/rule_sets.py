"""Rule sets in force: numbers, what has to be compiled again, what the engine is told.

Wanted objects come in by :meth:`RuleSets.want`; :meth:`RuleSets.step` compiles what that touched,
a portion at a time, and gives the engine each set as one change; :meth:`RuleSets.publish` makes all
of it count. The cost follows the change: a set knows which of its rules may differ from what the
engine has, and every name knows the rules that refer to it.

A set whose change cannot be compiled, or that the engine refuses, stays in force as it was, whole;
its outcome and the rule's say why. What it holds on to (a port's number, a policer, a set it jumps
to) stays until it lets go.
"""

from __future__ import annotations

import errno
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import length_hint

from fastpath import check, outcomes, plan, rules
from fastpath.native import NativeError
from fastpath.native_rules import MATCH_BYTES, PlacedPolicer, PlacedRule, PlacedSet
from fastpath.outcomes import Outcomes
from fastpath.protocol import Outcome, WireGroup, WirePolicer, WireRule, WireRuleSet
from fastpath.regions import Kept
from fastpath.rule_objects import LiveRule, RuleSet, Tables
from fastpath.rule_places import Places, Published
from fastpath.rules import Compiler, Names, RuleError

RuleObject = WireGroup | WirePolicer | WireRuleSet | WireRule
KINDS = frozenset({"group", "policer", "ruleset", "rule"})

PORTION = 256  # rules compiled at a time: a few milliseconds
FAILED_MAX = 64  # rules of a set that are said to have failed
_FINE = Outcome()


@dataclass(slots=True)
class _Work:
    """A set that is being compiled."""

    set: RuleSet
    ids: Iterator[str]
    removed: list[str] = field(default_factory=list)
    added: dict[str, PlacedRule] = field(default_factory=dict)
    lives: dict[str, LiveRule] = field(default_factory=dict)  # what these will be


class RuleSets:
    """``limits``: sets_max, rules_max, set_rules_max, policers_max, matches_max, rule_matches_max.

    ``generation`` gives the number of the next configuration; ``wall`` is Unix time.
    """

    def __init__(
        self,
        tables: Tables,
        limits: Mapping[str, int],
        outcomes: Outcomes,
        generation: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.tables = tables
        self._limits = limits
        self._outcomes = outcomes
        self._generation = generation
        self._wall = wall
        self.sets: dict[str, RuleSet] = {}
        self.policers: dict[str, WirePolicer] = {}
        self.policer_slots: dict[str, int] = {}
        self.names = Names()
        self._policers_in_force: dict[str, WirePolicer] = {}
        self._bridges: Mapping[str, int] = {}
        self._compiler = Compiler(self.names, limits["rule_matches_max"])
        self._users: dict[str, dict[tuple[str, str], None]] = {}
        self._held: Counter[str] = Counter()
        self.slots: dict[int, tuple[str, str]] = {}  # number -> set and id, the last it had
        self._free: list[int] = []
        self._retired: list[int] = []  # their rules may be met until the next publish
        self._next_slot = 0
        self._matches = 0
        self._loggers = 0
        self.before_reuse: Callable[[], None] = lambda: None
        self._expiring: list[tuple[int, str, str]] = []
        self._todo: dict[str, None] = {}
        self._work: _Work | None = None
        self._aside = False  # the engine has changes that do not count yet
        self._published = Published()
        self._unpublished = Outcome()  # why what was compiled does not count

    # --- what is wanted -------------------------------------------------------------------------

    def want(self, upserts: Iterable[RuleObject], deletes: Iterable[str]) -> None:
        """These objects are as given from now on, those are gone."""
        for key in deletes:
            self._forget(key)
        for obj in upserts:
            match obj:
                case WireRule():
                    self._want_rule(obj)
                case WireRuleSet():
                    self._want_set(obj)
                case WireGroup():
                    self._want_group(obj)
                case WirePolicer():
                    self._want_policer(obj)

    def place(self, ports: Mapping[str, int], bridges: Mapping[str, int]) -> None:
        """Numbers of the ports and bridges that are wanted."""
        before = self.names.ports
        for name in before.keys() | ports.keys():
            if before.get(name) != ports.get(name):
                self._touch_users(f"port/{name}")
        self.names.ports = ports
        self._bridges = bridges

    def _want_rule(self, rule: WireRule) -> None:
        owner = self._set(rule.ruleset)
        self._unuse(owner.wanted.get(rule.id))
        owner.wanted[rule.id] = rule
        for key in rules.uses(rule):
            self._users.setdefault(key, {})[rule.ruleset, rule.id] = None
        if rule.expires_at:
            heapq.heappush(self._expiring, (rule.expires_at, rule.ruleset, rule.id))
        self._touch(owner, rule.id)

    def _want_set(self, spec: WireRuleSet) -> None:
        owner = self._set(spec.name)
        if owner.spec is None:
            self._touch_users(spec.key)
            owner.dirty |= dict.fromkeys(owner.wanted) | dict.fromkeys(owner.live)
        owner.spec = spec
        self._todo[spec.name] = None

    def _want_group(self, group: WireGroup) -> None:
        text = check.group_problem(group)
        if text:
            self._outcomes.fail(group.key, Outcome("INVALID", text))
            self.names.groups.pop(group.name, None)
        else:
            self._outcomes.succeed(group.key)
            self.names.groups[group.name] = group
        self._touch_users(group.key)

    def _want_policer(self, policer: WirePolicer) -> None:
        self.policers[policer.name] = policer
        text = check.policer_problem(policer)
        if text:
            self._outcomes.fail(policer.key, Outcome("INVALID", text))
            return  # one that was in force stays
        slot = self._number(
            self.policer_slots, policer.name, self._limits["policers_max"], policer.key
        )
        if slot is None:
            return
        self._outcomes.succeed(policer.key)
        self._policers_in_force[policer.name] = policer
        if self.names.policers.get(policer.name) != slot:
            self.names.policers[policer.name] = slot
            self._touch_users(policer.key)

    def _forget(self, key: str) -> None:
        kind, _, name = key.partition("/")
        if kind == "rule":
            set_name, _, id = name.partition("/")
            owner = self._set(set_name)
            self._unuse(owner.wanted.pop(id, None))
            owner.failed.pop(id, None)
            self._touch(owner, id)
            return
        if kind == "ruleset":
            self._set(name).spec = None
            self.names.sets.pop(name, None)
            self._todo[name] = None
        elif kind == "group":
            self.names.groups.pop(name, None)
        else:
            self.policers.pop(name, None)
            self.names.policers.pop(name, None)
        self._touch_users(key)

    def _set(self, name: str) -> RuleSet:
        owner = self.sets.get(name)
        if owner is None:
            owner = self.sets[name] = RuleSet(name)
        return owner

    def _unuse(self, rule: WireRule | None) -> None:
        if rule is None:
            return
        for key in rules.uses(rule):
            users = self._users[key]
            users.pop((rule.ruleset, rule.id), None)
            if not users:
                del self._users[key]

    def _touch(self, owner: RuleSet, id: str) -> None:
        owner.dirty[id] = None
        self._todo[owner.name] = None

    def _touch_users(self, key: str) -> None:
        for set_name, id in self._users.get(key, {}):
            self._touch(self.sets[set_name], id)

    def _number(self, slots: dict[str, int], name: str, most: int, key: str) -> int | None:
        """The object's number; None: there are too many, and its outcome says so."""
        if name not in slots:
            slot = plan.free_slot(slots, most)
            if slot is None:
                kind = key.partition("/")[0]
                self._outcomes.fail(key, outcomes.refused("LIMIT", f"{most} {kind}s are the limit"))
                return None
            slots[name] = slot
        return slots[name]

    # --- compiling, a portion at a time -----------------------------------------------------------

    @property
    def busy(self) -> bool:
        """There is something to compile."""
        return self._work is not None or bool(self._todo)

    def step(self) -> bool:
        """One portion; True when more are to come."""
        if self._work is None:
            if not self._todo:
                return False
            owner = self.sets[next(iter(self._todo))]
            del self._todo[owner.name]
            if owner.spec is None:
                self._leave(owner)
                return self.busy
            if not self._enter(owner, owner.spec):
                return self.busy
            self._work = _Work(owner, iter(tuple(owner.dirty)))
        if not self._compile(self._work):
            work, self._work = self._work, None
            self._finish(work)
        return self.busy

    def _leave(self, owner: RuleSet) -> None:
        """The set is not wanted; rules that say they are in it have nowhere to be."""
        owner.failed = {}
        for id in islice(owner.wanted, FAILED_MAX):
            text = f"rule set {owner.name} is not there"
            self._fail_rule(owner, id, outcomes.refused("REFERENCE_NOT_FOUND", text, "ruleset"))

    def _enter(self, owner: RuleSet, spec: WireRuleSet) -> bool:
        """Give the set its number; False: it cannot be in force."""
        text = check.ruleset_problem(spec)
        if text:
            self._refuse(owner, Outcome("INVALID", text))
            return False
        if owner.slot is None:
            taken = {s.name: s.slot for s in self.sets.values() if s.slot is not None}
            slot = plan.free_slot(taken, self._limits["sets_max"])
            if slot is None:
                text = f"{self._limits['sets_max']} rule sets are the limit"
                self._refuse(owner, outcomes.refused("LIMIT", text))
                return False
            try:
                self.tables.update(slot, [], [])
            except NativeError as error:
                self._refuse(owner, _of_error(error))
                return False
            owner.slot = slot
        if self.names.sets.get(spec.name) != owner.slot:
            self.names.sets[spec.name] = owner.slot
            self._touch_users(spec.key)
        return True

    def _compile(self, work: _Work) -> bool:
        """The next rules; False when none are left or too many failed."""
        owner = work.set
        now = self._wall()
        for id in islice(work.ids, PORTION):
            rule = owner.wanted.get(id)
            if rule is None or 0 < rule.expires_at <= now:
                owner.failed.pop(id, None)
                self._outcomes.succeed(f"rule/{owner.name}/{id}")
                if id in owner.live:
                    work.removed.append(id)
                continue
            try:
                rules.problem(rule)
                action = self._compiler.action(rule)
                matches = self._compiler.matches(rule)
            except RuleError as error:
                self._fail_rule(owner, id, outcomes.refused(error.code, str(error), error.field))
                if len(owner.failed) >= FAILED_MAX:
                    return False
            else:
                owner.failed.pop(id, None)
                work.added[id] = PlacedRule(-1, rule.priority, id, action, matches)
                work.lives[id] = self._live_rule(rule, len(matches) // MATCH_BYTES)
        return length_hint(work.ids) > 0

    def _live_rule(self, rule: WireRule, matches: int) -> LiveRule:
        """What is remembered of a rule; its number comes last."""
        uses = rules.uses(rule)
        if not uses:
            return LiveRule(rule, -1, matches, (), ())
        groups = {term.group: None for term in rule.match if term.group}
        return LiveRule(
            rule,
            -1,
            matches,
            tuple(key for key in uses if not key.startswith("group/")),
            tuple(self.names.groups[name] for name in groups),
        )

    def _fail_rule(self, owner: RuleSet, id: str, outcome: Outcome) -> None:
        owner.failed[id] = outcome
        self._outcomes.fail(f"rule/{owner.name}/{id}", outcome)

    def _finish(self, work: _Work) -> None:
        """Everything is compiled: the engine gets it as one change, or the set stays."""
        owner = work.set
        failed = next((id for id in owner.failed if id in owner.wanted), None)
        if failed is not None:
            outcome = owner.failed[failed]
            text = f"rule {failed}: {outcome.message}"
            self._refuse(owner, outcomes.refused(outcome.code, text, outcome.field))
            return
        full = self._too_many(work)
        if not full.ok:
            self._refuse(owner, full)
            return
        self._number_rules(work)
        try:
            self._update(owner, work.removed, work.added, work.lives)
        except NativeError as error:
            new = [rule.slot for id, rule in work.added.items() if id not in owner.live]
            self._free += new
            self._refuse(owner, _of_error(error))
            return
        owner.dirty.clear()
        for id in work.added:
            self._outcomes.succeed(f"rule/{owner.name}/{id}")
        owner.in_force = owner.spec
        owner.refused = Outcome()
        self._judge(owner)

    def _too_many(self, work: _Work) -> Outcome:
        """Is there room for what was compiled?"""
        owner = work.set
        new = [id for id in work.added if id not in owner.live]
        count = len(owner.live) + len(new) - len(work.removed)
        if count > self._limits["set_rules_max"]:
            text = f"{self._limits['set_rules_max']} rules a set are the limit"
            return outcomes.refused("RULE_LIMIT", text)
        free = len(self._free) + self._limits["rules_max"] - self._next_slot
        if len(new) > free:
            text = f"{self._limits['rules_max']} rules in all sets are the limit"
            return outcomes.refused("RULE_LIMIT", text)
        before = {id: owner.live[id].matches for id in owner.dirty if id in owner.live}
        after = {id: len(rule.matches) // MATCH_BYTES for id, rule in work.added.items()}
        if self._matches - sum(before.values()) + sum(after.values()) > self._limits["matches_max"]:
            text = f"{self._limits['matches_max']} alternatives in all sets are the limit"
            most = max(after, key=lambda id: after[id] - before.get(id, 0))
            self._fail_rule(owner, most, outcomes.refused("RULE_LIMIT", text, "match"))
            return outcomes.refused("RULE_LIMIT", f"rule {most}: {text}", "match")
        return Outcome()

    def _number_rules(self, work: _Work) -> None:
        """A rule that is there keeps its own number."""
        for id, rule in work.added.items():
            old = work.set.live.get(id)
            rule.slot = work.lives[id].slot = old.slot if old else self._take_slot()

    def _take_slot(self) -> int:
        if self._free:
            slot = self._free.pop()
            self.tables.clear_counter(slot)
            return slot
        self._next_slot += 1
        return self._next_slot - 1

    def _update(
        self,
        owner: RuleSet,
        removed: Sequence[str],
        added: Mapping[str, PlacedRule],
        lives: Mapping[str, LiveRule],
    ) -> None:
        """Tell the engine, then remember."""
        assert owner.slot is not None
        if not removed and not added:
            return
        gone = [owner.live[id].slot for id in removed]
        self.tables.update(owner.slot, gone, list(added.values()))
        self._aside = True
        owner.order = None
        for id in removed:
            self._retire(owner, owner.live.pop(id))
        for id, live in lives.items():
            old = owner.live.get(id)
            if old is not None:
                self._count(owner, old, -1)
            owner.live[id] = live
            self.slots[live.slot] = (owner.name, id)
            self._count(owner, live, 1)

    def _count(self, owner: RuleSet, live: LiveRule, sign: int) -> None:
        """The sums over all rules in force, with or without this one."""
        for key in live.uses:
            self._held[key] += sign
        if live.rule.action.ruleset:
            owner.jumps[live.rule.action.ruleset] += sign
        self._matches += sign * live.matches
        self._loggers += sign * live.logs

    def _retire(self, owner: RuleSet, live: LiveRule) -> None:
        self._count(owner, live, -1)
        self._retired.append(live.slot)

    def _refuse(self, owner: RuleSet, outcome: Outcome) -> None:
        owner.refused = outcome
        self._judge(owner)

    def _judge(self, owner: RuleSet) -> None:
        """The set's outcome, of all there is to say the first."""
        key = f"ruleset/{owner.name}"
        for outcome in (owner.refused, self._unpublished, owner.astray):
            if not outcome.ok:
                self._outcomes.fail(key, outcome)
                return
        self._outcomes.succeed(key)

    # --- what counts ------------------------------------------------------------------------------

    @property
    def logging(self) -> bool:
        """A rule in force logs."""
        return self._loggers > 0

    def holds(self, key: str) -> bool:
        """Does a rule that is in force refer to this port?"""
        return self._held[key] > 0

    def refers(self, key: str) -> bool:
        """Does a rule that is wanted or in force refer to this port?"""
        return self.holds(key) or bool(self._users.get(key))

    def publish(self, *, also_old: bool = False) -> None:
        """What was compiled counts from now on; where the engine refuses, what did goes on.

        ``also_old``: sets are asked where they were, too, until ports have gone where they go.
        """
        try:
            self._publish(also_old)
        except NativeError as error:
            if also_old:
                self.publish()
                return
            self._unpublished = outcomes.of_error(error)
            self._aside = True
        else:
            if self._unpublished.ok:
                return
            self._unpublished = Outcome()
        for owner in self.sets.values():
            self._judge(owner)

    def _publish(self, also_old: bool) -> None:
        config = self._config()
        if also_old:
            config = config.and_before(self._published)
        while config != self._published or self._aside:
            self.tables.publish(self._generation(), config.sets, config.attaches, config.policers)
            self._published = config
            self._aside = False
            self._reuse()
            if also_old:
                return
            self._clear_away()
            config = self._config()  # without what only those held that went

    def _config(self) -> Published:
        needed = [owner for owner in self._needed() if owner.slot is not None]
        sets: list[PlacedSet] = []
        asked: list[tuple[int, WireRuleSet]] = []
        for owner in needed:
            spec = owner.in_force or owner.spec
            assert owner.slot is not None
            sets.append(PlacedSet(owner.slot, spec is not None and spec.default_drop))
            if owner.spec is not None and owner.in_force is not None:
                asked.append((owner.slot, owner.in_force))
        attaches, astray = Places(self.names.ports, self._bridges).of(asked)
        for owner in needed:
            outcome = astray.get(owner.name, _FINE)
            if outcome != owner.astray:
                owner.astray = outcome
                self._judge(owner)
        policers = tuple(
            PlacedPolicer(self.policer_slots[name], p.unit == "frames", p.rate, p.burst)
            for name, p in self._policers_in_force.items()
            if name in self.policers or self.holds(p.key)
        )
        return Published(tuple(sets), attaches, policers)

    def _needed(self) -> list[RuleSet]:
        """Sets that are wanted, and those that these jump to."""
        needed = {owner.name: owner for owner in self.sets.values() if owner.spec is not None}
        found = list(needed.values())
        for owner in found:  # grows
            for name, count in owner.jumps.items():
                if count > 0 and name not in needed and name in self.sets:
                    needed[name] = self.sets[name]
                    found.append(self.sets[name])
        return found

    def _reuse(self) -> None:
        """No worker meets a rule of these numbers any more."""
        if self._retired:
            self.before_reuse()
            self._free += self._retired
            self._retired.clear()

    def _clear_away(self) -> None:
        """Sets and policers that are neither wanted nor held, and published no more."""
        published = {placed.slot for placed in self._published.sets}
        for owner in [s for s in self.sets.values() if s.spec is None]:
            if owner.slot is not None and owner.slot not in published:
                self.tables.remove(owner.slot)
                for live in owner.live.values():
                    self._retire(owner, live)
                owner.live, owner.slot, owner.in_force, owner.order = {}, None, None, None
                self._reuse()
            if owner.slot is None and not owner.wanted:
                del self.sets[owner.name]
        numbers = {placed.slot for placed in self._published.policers}
        for name in self._policers_in_force.keys() - self.policers.keys():
            if self.policer_slots[name] not in numbers:
                del self._policers_in_force[name], self.policer_slots[name]

    # --- time -------------------------------------------------------------------------------------

    def retry(self) -> None:
        """What was refused for want of room is tried again."""
        for owner in self.sets.values():
            if owner.refused.code not in ("", "INVALID", "REFERENCE_NOT_FOUND"):
                self._todo[owner.name] = None
        for policer in self.policers.values():
            if policer.name not in self.policer_slots:
                self._want_policer(policer)

    def expire(self) -> bool:
        """Take rules out whose time has come; True when there were any."""
        now = self._wall()
        gone: dict[str, list[str]] = {}
        while self._expiring and self._expiring[0][0] <= now:
            at, set_name, id = heapq.heappop(self._expiring)
            owner = self.sets.get(set_name)
            live = owner.live.get(id) if owner else None
            if live is not None and live.rule.expires_at == at:
                gone.setdefault(set_name, []).append(id)
        for set_name, ids in gone.items():
            self._update(self.sets[set_name], list(dict.fromkeys(ids)), {}, {})
        return bool(gone)

    def ordered(self, name: str) -> list[str]:
        """Ids of a set's rules in force, in the order they are asked; KeyError: no such set."""
        owner = self.sets[name]
        if owner.order is None:
            rules_in_force = (live.rule for live in owner.live.values())
            ranked = sorted((rule.priority, rule.id.encode(), rule.id) for rule in rules_in_force)
            owner.order = [id for _, _, id in ranked]
        return owner.order

    # --- for a successor --------------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Nothing is in force that is not wanted: whoever compiles the same gets the same."""
        return not self.busy and not self._differing()

    def take_kept(self) -> tuple[tuple[Kept, ...], tuple[str, ...]]:
        """Sets that began to differ from what is wanted, and those that do no more."""
        differ = self._differing()
        kept = tuple(self._keep(owner) for owner in differ.values() if not owner.kept)
        let_go = tuple(s.name for s in self.sets.values() if s.kept and s.name not in differ)
        for owner in self.sets.values():
            owner.kept = owner.name in differ
        return kept, let_go

    def kept(self) -> tuple[Kept, ...]:
        """All sets that differ from what is wanted."""
        return tuple(map(self._keep, self._differing().values()))

    def _differing(self) -> dict[str, RuleSet]:
        """Sets that were refused a change, and those that only a jump still holds."""
        return {
            owner.name: owner
            for owner in self._needed()
            if owner.spec is None or (owner.in_force is not None and not owner.refused.ok)
        }

    def _keep(self, owner: RuleSet) -> Kept:
        lives = owner.live.values()
        groups = dict.fromkeys(group for live in lives for group in live.groups)
        names = dict.fromkeys(live.rule.action.policer for live in lives)
        policers = tuple(self._policers_in_force[name] for name in names if name)
        # One that was never in force is empty: others jump to it.
        spec = owner.in_force or WireRuleSet(owner.name, False, ())
        return Kept(spec, tuple(live.rule for live in lives), tuple(groups), policers)

    def restore(self, kept: Iterable[Kept]) -> None:
        """Begin with the sets that a predecessor ran though others were wanted."""
        items = tuple(kept)
        targets = {rule.action.ruleset for item in items for rule in item.rules} - {""}
        specs = {name: WireRuleSet(name, False, ()) for name in sorted(targets)}
        specs |= {item.ruleset.name: item.ruleset for item in items}
        self.want(specs.values(), ())  # there before any of them jumps to another
        self._compile_all()
        for item in items:
            made_of: tuple[RuleObject, ...] = (*item.groups, *item.policers, *item.rules)
            self.want(made_of, ())
            self._compile_all()
            self.want((), [obj.key for obj in made_of])
            self._todo.clear()  # what is wanted comes now
        self.want((), [spec.key for spec in specs.values()])
        for item in items:
            self.sets[item.ruleset.name].kept = True
        self._todo.clear()

    def _compile_all(self) -> None:
        while self.busy:
            self.step()


def _of_error(error: NativeError) -> Outcome:
    if error.code == errno.ENOSPC:
        return outcomes.refused("RULE_LIMIT", error.message)
    return outcomes.of_error(error)
