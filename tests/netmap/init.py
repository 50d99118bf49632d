"""The first process of the guest: mounts, modules, the checks, the end.

What is checked is said on the second serial line; the first one is the kernel's console, where
everything else goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

REPORT_LINE = "/dev/ttyS1"
_RB_AUTOBOOT = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: str, options: str = "") -> None:
    Path(place).mkdir(parents=True, exist_ok=True)
    arguments = (kind.encode(), place.encode(), kind.encode(), 0, options.encode())
    if _libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind} on {place}")


def load(module: Path) -> None:
    with module.open("rb") as file:
        if _libc.syscall(313, file.fileno(), b"", 0) != 0:  # finit_module on x86-64
            raise OSError(ctypes.get_errno(), f"load {module.name}")


def prepare() -> None:
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("devtmpfs", "/dev")
    mount("tmpfs", "/run", "mode=755")
    mount("tmpfs", "/tmp", "mode=1777")
    mount("tmpfs", "/dev/shm", "mode=1777")
    os.environ["PATH"] = "/usr/sbin:/usr/bin"
    os.environ["HOME"] = "/root"
    os.environ["PYTHONPATH"] = sys.path[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
    for module in Path("/modules/order").read_text().splitlines():
        load(Path(module))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main(check: str, arguments: list[str]) -> None:
    """Never returns: the machine ends, whatever happens."""
    try:
        prepare()
        line = os.open(REPORT_LINE, os.O_WRONLY | os.O_NOCTTY)
        os.environ["REPORT_FD"] = str(line)
        os.set_inheritable(line, True)
        sys.argv = [check, *arguments]
        runpy.run_module(check, run_name="__main__")
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os.sync()
        _libc.reboot(_RB_AUTOBOOT)
