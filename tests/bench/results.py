"""What a case found: samples by subject, and ours beside each peer.

Only neighbours are compared: round i of one subject was measured right before or after round i of
the others, so a ratio is taken round by round, and its spread is that of the rounds' ratios.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.cases import Peers, Sample


@dataclass(frozen=True)
class Result:
    """One case. ``left_out``: by subject why it has no samples; ``error``: why nobody has.
    ``failed``: subjects that should have had some. ``noise``: the machine's, meanwhile."""

    name: str
    unit: str
    ours: str
    peers: Peers
    higher_is_better: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    error: str | None = None
    noise: dict[str, float] = field(default_factory=dict)

    def ratios(self, peer: str) -> list[float]:
        """Round by round, above 1 where ours is better; a round in which the one that is divided by
        reached nothing has none."""
        pairs = zip(self.samples.get(self.ours, ()), self.samples.get(peer, ()), strict=False)
        values = [(ours.value, other.value) for ours, other in pairs]
        if not self.higher_is_better:
            values = [(other, ours) for ours, other in values]
        return [over / under for over, under in values if under]

    def beside(self, peer: str) -> dict[str, Any] | None:
        """The ratio and what became of its target. A peer that reached nothing is surpassed by
        whoever reached something."""
        if not self.samples.get(peer) or not self.samples.get(self.ours):
            return None
        target, ratios = self.peers[peer], self.ratios(peer)
        if not ratios:
            met = self.higher_is_better and any(s.value for s in self.samples[self.ours])
            return {"median": None, "target": target, "met": None if target is None else met}
        median = statistics.median(ratios)
        spread = {"median": median, "min": min(ratios), "max": max(ratios)}
        return {**spread, "target": target, "met": None if target is None else median >= target}

    def limited(self) -> dict[str, dict[str, Any]]:
        """Ours beside what is wanted of it alone."""
        ours = self.samples.get(self.ours)
        if not ours:
            return {}
        found = {"value": statistics.median(s.value for s in ours), **detail_medians(ours)}
        return {
            name: {"found": found[name], "most": most, "met": found[name] <= most}
            for name, most in self.limits.items()
        }

    def as_json(self) -> dict[str, Any]:
        beside = {peer: self.beside(peer) for peer in self.peers}
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "higher_is_better": self.higher_is_better,
            "error": self.error,
            "left_out": self.left_out,
            "failed": self.failed,
            "noise": self.noise,
            "limits": self.limited(),
            "ratios": {peer: ratio for peer, ratio in beside.items() if ratio is not None},
            "subjects": {
                subject: {
                    "median": statistics.median(s.value for s in samples),
                    "min": min(s.value for s in samples),
                    "max": max(s.value for s in samples),
                    "detail_medians": detail_medians(samples),
                    "rounds": [asdict(s) for s in samples],
                }
                for subject, samples in self.samples.items()
                if samples
            },
        }


def detail_medians(samples: Sequence[Sample]) -> dict[str, float]:
    names = {name for sample in samples for name in sample.detail}
    return {
        name: statistics.median(sample.detail.get(name, 0) for sample in samples)
        for name in sorted(names)
    }


def write_json(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
