"""What hostile programs may ask for, for some seconds (tests/support/hostile_requests.py)."""

from __future__ import annotations

import random

from tests.support.hostile_requests import attack


def test_hostile_requests() -> None:
    """Sessions, pairs and errors were among what came of it."""
    counts = attack(6000, random.randrange(1 << 32))
    assert {"requests", "answers", "EBUSY", "EACCES", "EINVAL", "ENXIO"} <= counts.keys()
