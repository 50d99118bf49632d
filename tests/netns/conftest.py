"""What several of the tests here start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fastpath import FastPath
from tests.support.topology import Topology


@pytest.fixture
def path(net: Topology, tmp_path: Path) -> Iterator[FastPath]:
    """Keeper and forwarder in the switch's namespace of the module's own `net`."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    with FastPath(tmp_path, netns=net.switch) as started:
        yield started
