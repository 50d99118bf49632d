"""Goes through cases: starts whom a case needs, measures them in turn, ends them when no later case
needs them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench import machine
from tests.bench.cases import Case, Sample
from tests.bench.peers import Peer, missing
from tests.bench.results import Result
from tests.bench.subjects import Ours, Subject, set_realtime

Say = Callable[[str], None]
WHY_MAX = 200


@dataclass(frozen=True)
class Plan:
    """``rounds`` of ``seconds`` for each subject of a case; ``realtime``: before other work."""

    rounds: int
    seconds: float
    realtime: bool
    say: Say


def _on_sigterm(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def names_of(case: Case) -> list[str]:
    return [case.ours, *case.peers]


class Stage:
    """The subjects that stand; those that could not be started are known with the reason."""

    def __init__(self, subjects: dict[str, Peer], plan: Plan) -> None:
        self._makers = subjects
        self._plan = plan
        self._standing: dict[str, Subject] = {}
        self.left_out: dict[str, str] = {}
        self.failed: set[str] = set()

    def __enter__(self) -> Stage:
        self._before = signal.signal(signal.SIGTERM, _on_sigterm)
        if self._plan.realtime:
            set_realtime(os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.keep(())
        finally:
            signal.signal(signal.SIGTERM, self._before)

    def take(self, names: Sequence[str]) -> dict[str, Subject]:
        """Those of the names that there are, started now if they were not."""
        for name in names:
            if name not in self._standing and name not in self.left_out:
                self._start(name)
        return {name: self._standing[name] for name in names if name in self._standing}

    def _start(self, name: str) -> None:
        lacking = missing(self._makers[name].packages)
        if lacking:
            self._leave_out(name, f"not installed: {' '.join(lacking)}")
            return
        self._plan.say(f"starting: {name}")
        try:
            subject = self._makers[name].make().__enter__()
        except Exception as error:  # the others can be measured all the same
            self.failed.add(name)
            self._leave_out(name, f"did not start: {type(error).__name__}: {error}"[:WHY_MAX])
            return
        self._standing[name] = subject
        if self._plan.realtime:
            for pid in subject.pids():
                set_realtime(pid)

    def _leave_out(self, name: str, why: str) -> None:
        self._plan.say(f"{name} is left out; {why}")
        self.left_out[name] = why

    def give_up(self, name: str, why: str) -> None:
        """One that stopped working is not measured again."""
        self.failed.add(name)
        self._leave_out(name, why)
        with contextlib.suppress(Exception):
            self._standing.pop(name).__exit__(None, None, None)

    def keep(self, names: Sequence[str]) -> None:
        """Ends the others. The books of ours have to balance."""
        wrong: list[Exception] = []
        with _undisturbed():
            for name in [name for name in self._standing if name not in names]:
                subject = self._standing.pop(name)
                try:
                    if isinstance(subject, Ours):
                        subject.check()
                except Exception as error:
                    wrong.append(error)
                finally:
                    subject.__exit__(None, None, None)
        if wrong:
            raise ExceptionGroup("after a measurement", wrong)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM waits until what is being cleaned up is clean. Networks that go meanwhile put back
    the handlers that they found; whose are in force stays in force."""
    handler = signal.getsignal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def run_case(case: Case, stage: Stage, plan: Plan) -> Result:
    """All rounds of one case; every other round goes through the subjects backwards. A subject that
    fails is left out from then on."""
    names = names_of(case)
    subjects = stage.take(names)
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    before = machine.noise()
    for number in range(plan.rounds):
        order = list(subjects)
        for name in order if number % 2 == 0 else reversed(order):
            try:
                with subjects[name].awake():
                    samples[name].append(case.measure(subjects[name], plan.seconds))
            except Exception as error:
                stage.give_up(name, f"{type(error).__name__}: {error}"[:WHY_MAX])
                del subjects[name], samples[name]
        values = ", ".join(f"{name} {found[-1].value:,.4g}" for name, found in samples.items())
        plan.say(f"{case.name} {number + 1}/{plan.rounds}: {values} {case.unit}")
    left_out = {name: stage.left_out[name] for name in names if name in stage.left_out}
    return Result(
        *(case.name, case.unit, case.ours, case.peers, case.higher_is_better, case.limits),
        samples=samples,
        left_out=left_out,
        failed=[name for name in left_out if name in stage.failed],
        noise=machine.worse(before, machine.noise()),
    )


def measure(cases: Sequence[Case], subjects: dict[str, Peer], plan: Plan) -> Iterator[Result]:
    with Stage(subjects, plan) as stage:
        for number, case in enumerate(cases):
            yield run_case(case, stage, plan)
            stage.keep([name for later in cases[number + 1 :] for name in names_of(later)])
