"""What holds for every test: who may run it, and how hypothesis searches.

Tests marked ``root`` make network namespaces; without root they are skipped with that reason. The
end of a run says which of the founding semantics were shown (tests/support/semantics.py).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import semantics

# A machine that builds at the same time makes single examples slow; that is no failure.
settings.register_profile(
    "vswitch", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("vswitch")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory that the fast path's own users can enter, which pytest's are not."""
    top = Path(tempfile.gettempdir())
    for parent in (tmp_path, *tmp_path.parents):
        if parent == top or not parent.is_relative_to(top):
            break
        parent.chmod(0o755)
    return tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _group(items)
    if os.geteuid() == 0:
        return
    needs_root = pytest.mark.skip(reason="needs root and network namespaces")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(needs_root)


def _group(items: list[pytest.Item]) -> None:
    """For runs of several processes (-n 2 --dist loadgroup): what makes namespaces and measures
    time stays in one of them, and begins first; the files of the rest go to whoever is free."""
    items.sort(key=lambda item: item.get_closest_marker("root") is None)
    for item in items:
        name = "root" if item.get_closest_marker("root") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(name))


def pytest_collection_finish(session: pytest.Session) -> None:
    """An id that a test's name bears is an item that there is."""
    for item in session.items:
        unknown = [name for name in semantics.items_of(item.name) if name not in semantics.ITEMS]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} names {', '.join(unknown)}, which is no item")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    stats = terminalreporter.stats
    outcomes = [(report.nodeid, "passed") for report in stats.get("passed", [])]
    outcomes += [(r.nodeid, "failed") for word in ("failed", "error") for r in stats.get(word, [])]
    outcomes += [(report.nodeid, "skipped") for report in stats.get("skipped", [])]
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not stats.get("deselected")
    said = list(semantics.lines(outcomes, whole=whole))
    if said:
        terminalreporter.section("founding semantics")
        for line in said:
            terminalreporter.write_line(line)
