"""What most tests of af_packet ports stand on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rigs import AfPacketRig
from tests.support.switch import Switch


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[AfPacketRig]:
    with contextlib.closing(AfPacketRig(tmp_path)) as rig:
        yield rig


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch
