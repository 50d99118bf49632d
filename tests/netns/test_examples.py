"""Every script of docs/examples works, and nothing is left of it, whether it ends or is stopped."""

from __future__ import annotations

import re

import pytest

from tests.support import examples
from tests.support.examples import Example

pytestmark = pytest.mark.root

# `make demo` has tests of its own, in test_demo.py.
NAMES = [name for name in examples.names() if name != "demo"]


@pytest.mark.parametrize("name", NAMES)
def test_example(name: str) -> None:
    """Each checks its own outcome; its last word is that the books balance."""
    with Example(name) as example:
        assert example.wait() == 0, example.output
        assert re.search(r"^(\d+) = \1$", example.output, re.MULTILINE), example.output
        example.check_nothing_left()


def test_ctrl_c_in_the_middle() -> None:
    """Of the one with two appliances, while the second one starts."""
    with Example("tap-overlay") as example:
        example.wait_output("== the right one")
        assert len(example.processes()) > 4  # an appliance among them
        example.interrupt()
        assert example.wait() == 130, example.output
        example.check_nothing_left()


def test_the_readme_names_each() -> None:
    readme = (examples.TOP / "README.md").read_text()
    assert [name for name in NAMES if f"| `{name}` |" not in readme] == []
