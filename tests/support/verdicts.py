"""What a switch lets through: frames of tests.support.packets sent by one host, those that the
other one received.

    host 0 ══ p0 [ any switch ] p1 ══ host 1

A frame that arrives has to be the frame that was sent, byte for byte, and to come once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.support.compare import WINDOW_FRAMES
from tests.support.packets import Made, number_of
from tests.support.peer_rules import MARK_SOURCE
from tests.support.topology import Topology
from tests.support.wire import END_MARK, Wire


def mark(number: int) -> bytes:
    head = b"\x03" + bytes(5) + MARK_SOURCE + b"\x88\xb5"
    return head + bytes(30) + END_MARK + number.to_bytes(8, "big")


class Passing:
    """Sends through whatever switch joins the two first hosts of a topology."""

    def __init__(self, net: Topology) -> None:
        self._wire = Wire(net)
        self._marks = 0

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *error: object) -> None:
        self._wire.__exit__(*error)

    def passed(self, frames: Iterable[bytes], source: int = 0) -> set[int]:
        """Numbers of those that arrived at the other host."""
        if not self._marks:
            self._reach(source)
        sent = list(frames)
        found: set[int] = set()
        for first in range(0, len(sent), WINDOW_FRAMES):
            found |= self._window(sent[first : first + WINDOW_FRAMES], source)
        return found

    def _reach(self, source: int) -> None:
        """Until a mark arrives: some switches take a moment to start."""
        deadline = time.monotonic() + 15
        while True:
            try:
                self._window([], source)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _window(self, frames: Sequence[bytes], source: int) -> set[int]:
        # The second mark is for OVS, which sends what it has decided about before what it has to
        # ask about, of what it received together.
        arrived = [*self._mark(frames, source), *self._mark([], source)]
        by_number = {number_of(frame): frame for frame in frames}
        for frame in arrived:
            assert by_number[number_of(frame)] == frame, frame.hex()
        numbers = Counter(number for frame in arrived if (number := number_of(frame)) is not None)
        assert all(count == 1 for count in numbers.values()), numbers.most_common(3)
        return set(numbers)

    def _mark(self, frames: Sequence[bytes], source: int) -> list[bytes]:
        """Sends frames and a mark; what had come to the other host when that did."""
        self._marks += 1
        to = 1 - source
        received = self._wire.exchange(source, frames, [(mark(self._marks), frozenset({to}))])
        return [frame for frame in received[to] if number_of(frame) is not None]


@dataclass(frozen=True)
class Excuse:
    """Frames whose verdicts may differ."""

    why: str
    applies: Callable[[Made], bool]


@dataclass
class Comparison:
    """Two switches' verdicts on the same frames."""

    frames: int = 0
    passed: int = 0
    mismatches: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)

    def add(
        self, made: Sequence[Made], ours: set[int], theirs: set[int], excuses: Sequence[Excuse]
    ) -> None:
        self.frames += len(made)
        self.passed += len(ours)
        for frame in made:
            if (frame.number in ours) == (frame.number in theirs):
                continue
            reasons = [excuse.why for excuse in excuses if excuse.applies(frame)]
            self.excused.update(reasons)
            if not reasons:
                side = "only we" if frame.number in ours else "only they"
                kind = " ".join(sorted(frame.kind)) or "plain"
                self.mismatches.append(f"{side} pass {kind}: {frame.data[:80].hex(' ', 2)}")
