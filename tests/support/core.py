"""The lowest layer of the C core for Python tests: parse, vlan, fdb, cbpf, classify, on bytes.

The C files are compiled with SHIMS into a shared object. Declarations are
read from the sources: what stands between ``/* cffi: begin */`` and ``/* cffi: end */``, as
fastpath/build_ffi.py does for the engine.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "fastpath/src"
SHIMS = tuple(ROOT / f"tests/support/{name}_shim.c" for name in ("core", "classify", "conntrack"))
COMPILED = (
    *("cbpf", "error", "fdb", "fdb_view", "offload", "overlay_inner", "overlay_wire", "parse"),
    *("vlan", "vxlan_wire", "classify", "classify_build", "classify_list", "classify_plan"),
    *("classify_probe", "classify_steps", "classify_table", "flow_cache", "huge"),
    *("conntrack", "conntrack_fragments", "conntrack_table", "conntrack_tcp", "conntrack_tuple"),
)
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)


@cache
def core() -> tuple[Any, Any]:
    """cffi's FFI and the library; neither has types that a checker could know."""
    ffi = FFI()
    headers = ("error.h", "flow_key.h", "fdb.h", "vxlan_wire.h", "overlay_wire.h", "rule.h")
    headers += ("conntrack.h",)
    for path in (*(SOURCE / name for name in headers), *SHIMS):
        ffi.cdef("\n".join(MARKED.findall(path.read_text())))
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "core.so"
        command = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=gnu17", "-O2", "-g", "-shared", "-fPIC", "-D_GNU_SOURCE"),
            *(f"-I{SOURCE}", "-o", str(target), *(str(shim) for shim in SHIMS)),
            *(str(SOURCE / f"{name}.c") for name in COMPILED),
            "-lpcap",
        ]
        subprocess.run(command, check=True)
        return ffi, ffi.dlopen(str(target))
