"""Hostile programs at a whole fast path, for some seconds (tests/support/hostile.py)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.fastpath import FastPath
from tests.support.hostile import Siege

pytestmark = pytest.mark.root


def test_hostile_programs_and_honest_ones(home: Path) -> None:
    with FastPath(home) as path:
        Siege(300, random.randrange(1 << 32)).run(path)
