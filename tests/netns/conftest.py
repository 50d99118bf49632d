"""What several of the tests here start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fastpath import FastPath
from tests.support.topology import Topology


@pytest.fixture
def path(net: Topology, home: Path) -> Iterator[FastPath]:
    """Keeper and forwarder in the switch's namespace of the module's own `net`."""
    with FastPath(home, netns=net.switch) as started:
        yield started
