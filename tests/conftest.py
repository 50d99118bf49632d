"""What holds for every test: who may run it, and how hypothesis searches.

Tests marked ``root`` make network namespaces; without root they are skipped with that reason.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A machine that builds at the same time makes single examples slow; that is no failure.
settings.register_profile(
    "vswitch", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("vswitch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    needs_root = pytest.mark.skip(reason="needs root and network namespaces")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(needs_root)
