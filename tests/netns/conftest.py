"""What several of the tests here start with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fastpath import FastPath
from tests.support.topology import Topology


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory that the fast path's own users can enter, which pytest's are not."""
    top = Path(tempfile.gettempdir())
    for parent in (tmp_path, *tmp_path.parents):
        if parent == top or not parent.is_relative_to(top):
            break
        parent.chmod(0o755)
    return tmp_path


@pytest.fixture
def path(net: Topology, home: Path) -> Iterator[FastPath]:
    """Keeper and forwarder in the switch's namespace of the module's own `net`."""
    with FastPath(home, netns=net.switch) as started:
        yield started
