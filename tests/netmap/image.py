"""A root file system for a guest, made of this machine's own files.

Programs come with the libraries that ldd names, Python as the interpreter that runs this with its
standard library, our package as `meson install` lays it out and the distributions that it requires.
The result is an initramfs: a cpio archive in the "newc" format (the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path("/usr/local/lib/vswitch/site-packages")  # where the guest's Python finds ours
EXTRAS = Path("/usr/local/lib/netmap")  # programs that were given by their path
TOOLS = ("cat", "ethtool", "ip", "ls", "ping", "sh", "sysctl", "tc")
NOT_NEEDED = {"test", "idlelib", "lib2to3", "ensurepip", "turtledemo", "tkinter"}


class MissingError(RuntimeError):
    """Something that the guest needs is not on this machine."""


class Archive:
    """Writes a cpio archive, each path once, parents before children."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._seen: set[str] = set()
        self._inode = 0

    def directory(self, path: Path) -> None:
        if str(path) in self._seen or str(path) == "/":
            return
        self.directory(path.parent)
        self._entry(path, stat.S_IFDIR | 0o755)

    def device(self, path: Path, major: int, minor: int) -> None:
        self.directory(path.parent)
        self._entry(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def text(self, path: Path, content: str, mode: int = 0o644) -> None:
        self.directory(path.parent)
        self._entry(path, stat.S_IFREG | mode, content.encode())

    def link(self, path: Path) -> None:
        """A symbolic link as it is, without what it points to."""
        self._entry(path, stat.S_IFLNK | 0o777, os.readlink(path).encode())

    def file(self, source: Path, path: Path | None = None) -> None:
        """A file or directory, under its own path or another.

        Under its own: a link stays a link and brings its target. Byte code comes along: it is
        known by the time of its source, and compiling takes an emulated processor minutes.
        """
        if source.is_dir():
            for top, names, files in os.walk(source):
                names[:] = sorted(name for name in names if name not in NOT_NEEDED)
                for name in sorted(files):
                    file = Path(top, name)
                    self.file(file, (path or source) / file.relative_to(source))
            return
        place = path or source.parent.resolve() / source.name
        if str(place) in self._seen:
            return
        self.directory(place.parent)
        if source.is_symlink() and path is None:
            self.link(place)
            self.file(place.parent / os.readlink(place))
        else:
            status = source.stat()
            mode = stat.S_IFREG | 0o644 | (status.st_mode & 0o111)
            self._entry(place, mode, source.read_bytes(), time_s=int(status.st_mtime))

    def close(self) -> None:
        self._entry(Path("/TRAILER!!!"), 0)

    def _entry(
        self,
        path: Path,
        mode: int,
        content: bytes = b"",
        device: tuple[int, int] = (0, 0),
        time_s: int = 0,
    ) -> None:
        self._seen.add(str(path))
        self._inode += 1
        name = str(path).lstrip("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, time_s, len(content), 0, 0, *device, len(name), 0)
        self._padded(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
        self._padded(content)

    def _padded(self, content: bytes) -> None:
        self._out.write(content + b"\0" * (-len(content) % 4))


def libraries(programs: Iterable[Path]) -> set[Path]:
    """What the dynamic linker would load for them, its own file included."""
    said = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    ).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x[0-9a-f]+\)", said)}


def programs(names: Iterable[str]) -> list[Path]:
    found = []
    for name in names:
        path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if path is None:
            raise MissingError(f"the program {name} is not installed on this machine")
        found.append(Path(path))
    return found


def distributions(name: str) -> Iterator[importlib.metadata.Distribution]:
    """What a distribution requires, and what that requires, itself not included."""
    seen, waiting = {name}, [name]
    while waiting:
        for requirement in importlib.metadata.requires(waiting.pop()) or ():
            found = re.match(r"[A-Za-z0-9._-]+", requirement)
            if found is None or "extra ==" in requirement or found[0] in seen:
                continue
            seen.add(found[0])
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                yield importlib.metadata.distribution(found[0])
                waiting.append(found[0])


def add_python(archive: Archive) -> list[Path]:
    """Interpreter, standard library, required distributions; the extension modules among them."""
    interpreter = Path(sys.executable).resolve()
    archive.file(interpreter)
    archive.file(Path(sysconfig.get_path("stdlib")))
    binaries = [interpreter, *Path(sysconfig.get_path("stdlib")).rglob("*.so")]
    for distribution in distributions("vswitch"):
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or not source.is_file():
                continue  # programs in bin/: nothing starts them here
            archive.file(source, PACKAGES / file)
            if ".so" in source.suffixes:
                binaries.append(source)
    return binaries


def add_vswitch(archive: Archive) -> list[Path]:
    """Our package as it is installed, the test support and the measuring tools."""
    build = ROOT / f"build/cp{sys.version_info.major}{sys.version_info.minor}"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as staging:
        for command in (
            ["ninja", "-C", str(build)],
            ["meson", "install", "-C", str(build), "--no-rebuild", "--destdir", staging],
        ):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise MissingError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr}")
        installed = next(Path(staging).rglob("vswitch/__init__.py")).parents[1]
        compileall.compile_dir(installed, quiet=1)
        archive.file(installed, PACKAGES)
    for source in ("tests/__init__.py", "tests/support", "tests/netmap"):
        archive.file(ROOT / source, PACKAGES / source)
    binaries = list((build / "fastpath").glob("*.so"))
    for tool in (build / "tests/bench").iterdir():
        if tool.is_file() and os.access(tool, os.X_OK) and not tool.suffix:
            archive.file(tool, PACKAGES / "build" / tool.relative_to(build))
            binaries.append(tool)
    return binaries


def make(
    path: Path,
    modules: Iterable[Path],
    extras: Mapping[str, Path],
    check: str,
    arguments: Sequence[str],
) -> None:
    """Writes the archive: the guest loads `modules` in that order and runs `python -m check`;
    `extras` are programs by the name they get in EXTRAS."""
    with path.open("wb") as out:
        archive = Archive(out)
        archive.device(Path("/dev/console"), 5, 1)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                archive.link(Path("/", name))
        tools = programs(TOOLS)
        for tool in tools:
            archive.file(tool)
        for name, program in extras.items():
            archive.file(program, EXTRAS / name)
        tools += extras.values()
        for library in sorted(libraries([*tools, *add_python(archive), *add_vswitch(archive)])):
            archive.file(library)
        archive.text(Path("/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
        archive.text(Path("/etc/group"), "root:x:0:\n")
        order = [
            (Path(f"/modules/{i:02}-{module.name}"), module) for i, module in enumerate(modules)
        ]
        for place, module in order:
            archive.file(module, place)
        archive.text(Path("/modules/order"), "".join(f"{place}\n" for place, _ in order))
        archive.text(
            Path("/init"),
            f"#!{Path(sys.executable).resolve()} -I\nimport sys\n"
            f"sys.path.insert(0, {str(PACKAGES)!r})\nfrom tests.netmap import init\n"
            f"init.main({check!r}, {list(arguments)!r})\n",
            0o755,
        )
        archive.close()
