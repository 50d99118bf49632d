"""Who may include or import whom, and what lies where. The drawing is in docs/architecture.md.

Python directions are import-linter's (pyproject.toml); here are the rules it cannot say: which C
header a C file may see, and which libraries belong to which package.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
SOURCES = TOP / "fastpath/src"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)

# Lowest first. A file sees its own layer and those below it.
LAYERS = (
    {"error", "frame", "flow_key", "huge", "ring", "lane", "stats", "offload", "checksum", "cbpf"}
    | {"netdev", "netmap_abi", "portspec", "overlay_wire", "vxlan_wire"}
    | {"rule", "rule_counters"},
    {"parse", "vlan", "fdb", "overlay_inner", "neighbor", "neighbor_table", "monitor"}
    | {"fdb_map", "fdb_view", "pair_books"}
    | {"ring_frames", "classify", "classify_build", "classify_tables", "flow_cache"}
    | {"flow_cache_lines", "parse_plain"}
    | {"cover", "witness"}
    | {"classify_list", "classify_plan", "classify_probe", "classify_steps", "classify_table"}
    | {"policer", "reject"}
    | {"conntrack", "conntrack_table", "conntrack_tcp", "conntrack_tuple", "conntrack_fragments"},
    {"port", "port_bell", "bridge", "bridge_decide", "tx"}
    | {"port_overlay", "overlay", "overlay_open", "overlay_rx", "overlay_tx"}
    | {"rules", "rules_work", "rules_walk", "action"}
    | {"rules_hits", "rules_hits_avx512", "rules_hits_loops"},
    {"config", "snapshot", "worker", "rules_tables"},
    {"engine", "engine_tables", "engine_publish", "engine_rules", "engine_rule_counters"}
    | {"engine_conntrack", "engine_pairs"}
    | {"trace", "trace_rules", "trace_way", "analyse"},
)
# Byte work, testable on arrays: no port, no system call.
PURE = {
    "parse",
    "vlan",
    "fdb",
    "classify",
    "classify_list",
    "classify_plan",
    "classify_steps",
    "classify_table",
    "flow_cache",
    "offload",
    "checksum",
    "neighbor",
    "neighbor_table",
    "overlay_wire",
    "vxlan_wire",
    "ring_frames",
}
SYSTEM_HEADERS_OF_PURE = {
    "arpa/inet.h",
    "assert.h",
    "endian.h",
    "errno.h",
    "limits.h",
    "stdalign.h",
    "stdatomic.h",
    "stdbool.h",
    "stddef.h",
    "stdint.h",
    "stdlib.h",
    "string.h",
}
# The forwarding database seeds its hash; the flow cache asks for huge pages and looks at four tags
# at once.
SYSTEM_HEADERS_BESIDES = {
    "fdb": {"sys/random.h"},
    "flow_cache": {"sys/mman.h", "emmintrin.h"},
}
SYSTEM_INCLUDE = re.compile(r"^#include <([^>]+)>", re.MULTILINE)

TOP_LEVEL = {
    "LICENSE",
    "Makefile",
    "README.md",
    "docker",
    "docs",
    "fastpath",
    "meson.build",
    "migrations",
    "openapi.json",
    "pyproject.toml",
    "tests",
    "vswitch",
}


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git work tree")
    return done.stdout.splitlines()


def layer_of(name: str) -> int | None:
    for number, names in enumerate(LAYERS):
        if name in names:
            return number
    return None


def c_files() -> list[Path]:
    found = sorted(SOURCES.glob("*.[ch]"))
    assert found
    return found


@pytest.mark.parametrize("path", c_files(), ids=lambda path: path.name)
def test_c_includes_point_downwards(path: Path) -> None:
    own = layer_of(path.stem)
    for header in INCLUDE.findall(path.read_text()):
        other = layer_of(Path(header).stem)
        if own is not None and other is not None:
            assert other <= own, f"{path.name} (layer {own}) includes {header} (layer {other})"


# Called by the keeper and by the forwarder's main thread; nothing of the frame path includes them.
ASIDE = {"port_types", "sandbox"}


def test_every_c_file_has_its_place() -> None:
    homeless = {p.name for p in c_files() if layer_of(p.stem) is None and not driver_of(p)}
    assert {name for name in homeless if Path(name).stem not in ASIDE} == set()


def driver_of(path: Path) -> str | None:
    """The port type a file belongs to: port_tap.c and tap_rx.c are "tap"."""
    types = {p.stem.removeprefix("port_") for p in SOURCES.glob("port_*.c")} - {"types"}
    stem = path.stem.removeprefix("port_")
    return next((name for name in types if stem == name or stem.startswith(f"{name}_")), None)


@pytest.mark.parametrize("path", [p for p in c_files() if driver_of(p)], ids=lambda path: path.name)
def test_port_files_see_the_port_interface_and_the_lowest_layers_only(path: Path) -> None:
    allowed = LAYERS[0] | LAYERS[1] | {"port"}
    for header in INCLUDE.findall(path.read_text()):
        # A driver's own headers bear its name; helpers that several share are port_*.h.
        own = driver_of(Path(header)) == driver_of(path) or header.startswith("port_")
        assert Path(header).stem in allowed or own, f"{path.name} includes {header}"


@pytest.mark.parametrize(
    "path", [p for p in c_files() if p.stem in PURE], ids=lambda path: path.name
)
def test_byte_work_makes_no_system_calls(path: Path) -> None:
    text = path.read_text()
    allowed = SYSTEM_HEADERS_OF_PURE | SYSTEM_HEADERS_BESIDES.get(path.stem, set())
    assert set(SYSTEM_INCLUDE.findall(text)) <= allowed
    assert "port.h" not in INCLUDE.findall(text)


@pytest.mark.parametrize("path", c_files(), ids=lambda path: path.name)
def test_every_c_file_says_what_it_is(path: Path) -> None:
    """A header in its opening comment, a C file there or in its header."""
    text = path.read_text()
    if path.suffix == ".h" or not path.with_suffix(".h").exists():
        assert text.startswith(("/*", "//")), f"{path.name} does not open with a comment"
    assert len(text.splitlines()) <= 700, f"{path.name} is too long to read"
    if path.suffix == ".h":
        assert "#pragma once" in text


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def python_files(package: str) -> list[Path]:
    return sorted((TOP / package).rglob("*.py"))


def test_the_control_plane_sees_only_the_wire_of_the_fast_path() -> None:
    for path in python_files("vswitch"):
        for module in imports_of(path):
            if module.split(".")[0] == "fastpath":
                assert module == "fastpath.protocol" or (
                    module == "fastpath" and "from fastpath import protocol" in path.read_text()
                ), f"{path.relative_to(TOP)} imports {module}"


def test_the_fast_path_does_not_know_the_control_plane() -> None:
    for path in python_files("fastpath"):
        assert "vswitch" not in {module.split(".")[0] for module in imports_of(path)}, path


def test_the_wire_needs_msgspec_and_nothing_else() -> None:
    import sys

    modules = {name.split(".")[0] for name in imports_of(TOP / "fastpath/protocol.py")}
    assert modules - set(sys.stdlib_module_names) == {"msgspec"}


def test_only_the_store_speaks_sql() -> None:
    for path in python_files("vswitch"):
        if path.relative_to(TOP / "vswitch").parts[0] == "store":
            continue
        roots = {module.split(".")[0] for module in imports_of(path)}
        # Opening the database belongs to whoever starts the process.
        assert not roots & {"sqlalchemy", "sqlite3"}, f"{path.relative_to(TOP)} queries a database"


def test_the_top_level_holds_what_it_should() -> None:
    found = {name.split("/")[0] for name in tracked()}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL
