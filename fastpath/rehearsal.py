"""What a standby does before its turn: an engine of its own, with the rules of the one that runs.

The standby reads the state memory as its predecessor writes it, and compiles what it finds. At a
takeover it is a fraction of a second behind, and that is all that is left to compile.

Rules are a function of what is wanted as long as nothing else is in force. A predecessor that runs
a set as it was though another is wanted (``Kept``), or a set that was refused here, make a takeover
begin at the beginning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fastpath import channel
from fastpath.apply import Applier
from fastpath.channel import Send
from fastpath.native import Engine
from fastpath.native_rules import RuleTables
from fastpath.outcomes import Notify
from fastpath.regions import Record, State, StateStore
from fastpath.rule_objects import Tables

LOOK_S = 0.2

log = logging.getLogger(__name__)


def _unsent(message: channel.Message, fds: Sequence[int]) -> bool:
    return False


def _untold(kind: str, object: str, message: str) -> None:
    pass


@dataclass(slots=True)
class Outside:
    """Whom an applier speaks to: nobody, until it is a forwarder's."""

    send: Send = _unsent
    notify: Notify = _untold


class Rehearsal:
    """Call :meth:`work` whenever nothing else is to be done, :meth:`perform` when the other is
    dead. ``engine`` makes one in the memories that outlive it, ``rule_tables`` what its rules are
    put in force with."""

    def __init__(
        self,
        store: StateStore,
        limits: Mapping[str, int],
        engine: Callable[[], Engine],
        rule_tables: Callable[[Engine], Tables] = RuleTables,
    ) -> None:
        self._store = store
        self._limits = limits
        self._make_engine = engine
        self._rule_tables = rule_tables
        self._kept: set[str] = set()
        self._spoilt = False
        self._look_at = 0.0
        self._engine = engine()
        self._applier: Applier | None = None
        self.outside = Outside()

    @property
    def wait_s(self) -> float | None:
        """Until :meth:`work` has something to do; None: never."""
        if self._spoilt:
            return None
        if self._applier is not None and self._applier.rules.busy:
            return 0.0
        return max(0.0, self._look_at - time.monotonic())

    def work(self) -> None:
        """A portion of rules, or a look at what the predecessor wrote."""
        try:
            self._work()
        except Exception:  # a standby that knows nothing is better than none
            log.exception("the predecessor's configuration cannot be followed")
            self._spoilt = True

    def _work(self) -> None:
        if self._applier is not None and self._applier.rules.busy:
            self._applier.rules.step()
            if not self._applier.rules.busy:
                self._applier.rules.publish()  # numbers of what went are free again
            return
        self._look()
        self._look_at = time.monotonic() + LOOK_S

    def perform(self, *, recover: bool) -> tuple[Engine, Applier]:
        """Take over from a predecessor that is dead, if there was one."""
        applier = None if self._spoilt else self._catch_up()
        if applier is None:
            self._engine.destroy()
            self._engine = self._make_engine()
            applier = self._begin(self._store.load())
        if recover:
            self._engine.take_over()
        return self._engine, applier

    def _catch_up(self) -> Applier | None:
        """None: it is not what the predecessor ran."""
        applier = self._look()
        while applier.rules.busy:
            applier.rules.step()
        return applier if applier.rules.whole and not self._kept else None

    def _begin(self, state: State) -> Applier:
        return Applier(
            self._engine,
            self._store,
            state,
            self._limits,
            lambda message, fds: self.outside.send(message, fds),
            lambda kind, object, message: self.outside.notify(kind, object, message),
            rule_tables=self._rule_tables(self._engine),
        )

    def _look(self) -> Applier:
        if self._applier is None:
            state = self._store.load()
            self._kept = {kept.ruleset.name for kept in state.kept}
            self._applier = self._begin(msgspec.structs.replace(state, kept=()))
            self._applier.rehearse()
            return self._applier
        records = self._store.follow()
        if records is None:
            state = self._store.load()
            self._kept = {kept.ruleset.name for kept in state.kept}
            records = [_difference(self._applier, state)]
        for record in records:
            self._kept = self._kept - set(record.let_go) | {k.ruleset.name for k in record.kept}
            self._applier.follow(record)
        return self._applier


def _difference(applier: Applier, state: State) -> Record:
    """What makes the one to the other; kept sets are not the applier's."""
    before, after = applier.objects, {obj.key: obj for obj in state.objects}
    return Record(
        state.revision,
        state.hash,
        state.generation,
        tuple(obj for key, obj in after.items() if before.get(key) != obj),
        tuple(key for key in before if key not in after),
        state.bridge_slots,
        state.port_slots,
    )
