"""The port types that need the netmap kernel module, checked in a guest kernel that has it.

    NETMAP_KO=.../netmap.ko NETMAP_KERNEL=.../boot/vmlinuz-6.1.0-1-amd64 make test-netmap
    ... make test-netmap ARGS="N3 N10"        only these items
    ... NETMAP_BRIDGE=... NETMAP_PKT_GEN=... make test-netmap ARGS=bench

The guest's root file system is made of this machine's files (image.py), QEMU emulates its
processors (machine.py), guest.py is what runs in it. Exit status 0: every check passed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.netmap import bench, image, machine, report

USAGE = """\
test-netmap: boots a kernel under QEMU and checks the netmap ports there. It needs

  NETMAP_KERNEL   the kernel to boot, boot/vmlinuz-VERSION of an unpacked kernel package
                  (apt-get download linux-image-VERSION-unsigned; dpkg -x FILE DIRECTORY)
  NETMAP_KO       the public netmap module, built for that kernel; network drivers are the
                  kernel's own, which netmap serves through its emulated adapter
  NETMAP_MODULES  optional: the kernel package's lib/modules/VERSION, for the modules veth and tun;
                  looked for beside NETMAP_KERNEL
  NETMAP_BRIDGE, NETMAP_PKT_GEN
                  optional: the module's own programs (apps/bridge/bridge, apps/pkt-gen/pkt-gen of
                  its build), for the item bench: our forwarder beside that bridge, in figures

and qemu-system-x86_64 (apt-get install qemu-system-x86).
"""
MODULES = ("veth", "tun")
LIMIT_S = 1500.0


class UsageError(Exception):
    """The environment does not name what is needed."""


def setting(name: str) -> Path:
    if not os.environ.get(name):
        raise UsageError(f"{name} is not set")
    path = Path(os.environ[name])
    if not path.exists():
        raise UsageError(f"{name}: there is no {path}")
    return path.resolve()


def module_directory(kernel: Path) -> Path:
    if os.environ.get("NETMAP_MODULES"):
        return setting("NETMAP_MODULES")
    version = kernel.name.partition("-")[2]
    beside = kernel.parents[1] / "lib/modules" / version
    if not beside.is_dir():
        raise UsageError(f"NETMAP_MODULES is not set, and there is no {beside}")
    return beside


def needed_by(module: Path) -> list[str]:
    """Names of the modules that a module says it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in (found[1].decode() if found else "").split(",") if name]


def module_order(given: Path, directory: Path) -> list[Path]:
    """The given module and MODULES, each behind what it depends on."""
    files = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}
    files["netmap"] = given

    def with_needs(name: str) -> Iterator[str]:
        if name not in files:
            raise UsageError(f"there is no module {name} below {directory}")
        for need in needed_by(files[name]):
            yield from with_needs(need.replace("-", "_"))
        yield name

    order = dict.fromkeys(name for start in ("netmap", *MODULES) for name in with_needs(start))
    return [files[name] for name in order]


def bench_programs(items: list[str]) -> dict[str, Path]:
    """Without them only the item that needs them is left out, unless it was asked for."""
    missing = [variable for variable in bench.PROGRAMS.values() if not os.environ.get(variable)]
    if missing and bench.ITEM not in items:
        if not items:
            say(f"{bench.ITEM} is left out: {' and '.join(missing)} not set")
        return {}
    return {name: setting(variable) for name, variable in bench.PROGRAMS.items()}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(arguments: argparse.Namespace) -> int:
    kernel = setting("NETMAP_KERNEL")
    module = setting("NETMAP_KO")
    if shutil.which(machine.PROGRAM) is None:
        raise UsageError(f"{machine.PROGRAM} is missing")
    modules = module_order(module, module_directory(kernel))
    programs = bench_programs(arguments.items)
    console = image.ROOT / "build/netmap-console.txt"
    with tempfile.TemporaryDirectory(prefix="vswitch-netmap-") as home:
        initramfs = Path(home, "initramfs")
        image.make(initramfs, modules, programs, "tests.netmap.guest", arguments.items)
        guest = machine.Machine(kernel, initramfs, console, LIMIT_S)
        passed = failed = 0
        ended = False
        for line in guest.lines():
            result = line.partition(" ")[0]
            passed += result == report.PASSED
            failed += result == report.FAILED
            ended = ended or result == report.END
            if result in (report.PASSED, report.FAILED):
                say(line)
    if not ended:
        failed += 1
        why = f"was ended after {LIMIT_S:.0f} s" if guest.timed_out else "ended before its checks"
        say(f"{report.FAILED} the guest {why}; its console said:\n{guest.console_tail()}")
    say(f"{passed} passed, {failed} failed (console: {console.relative_to(image.ROOT)})")
    return 1 if failed or not passed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-netmap", epilog=USAGE)
    parser.add_argument("items", nargs="*", help="items to check (N1, ...); all when none is named")
    try:
        return run(parser.parse_args())
    except (UsageError, image.MissingError) as error:
        sys.stderr.write(f"{USAGE}\ntest-netmap: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
