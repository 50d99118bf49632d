"""Writes the C source of the cffi extension ``fastpath._native`` from the headers themselves.

Whatever stands between ``/* cffi: begin */`` and ``/* cffi: end */`` in the listed headers is
declared to cffi word for word, so that no declaration is ever written twice.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

HEADERS = (
    "error.h",
    "stats.h",
    "port.h",
    "vlan.h",
    "flow_key.h",
    "rule.h",
    "policer.h",
    "rule_counters.h",
    "conntrack.h",
    "config.h",
    "engine.h",
    "trace.h",
    "analyse.h",
    "sandbox.h",
    "portspec.h",
    "netmap_device.h",
    "client_link.h",
    "netmap_abi.h",
    "client_wire.h",
    "client_view.h",
)
MARKED = re.compile(r"/\* cffi: begin \*/(.*?)/\* cffi: end \*/", re.DOTALL)


def declarations(source_dir: Path) -> str:
    """All marked declarations, in the order of HEADERS."""
    texts = []
    for name in HEADERS:
        texts += MARKED.findall((source_dir / name).read_text())
    return "\n".join(texts)


def main(source_dir: str, output: str) -> None:
    """Emit the extension's C source to ``output``."""
    ffi = FFI()
    ffi.cdef(declarations(Path(source_dir)))
    includes = "\n".join(f'#include "{name}"' for name in HEADERS)
    ffi.set_source("fastpath._native", includes)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
