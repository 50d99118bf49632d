"""A script of docs/examples as a process: run to its end or interrupted, and what it leaves.

    with Example("pipe") as example:
        assert example.wait() == 0, example.output
        example.check_nothing_left()

All that it starts has a TMPDIR of its own in its environment and is known by it, in whatever
session or namespace it is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.topology import wait_until

TOP = Path(__file__).parent.parent.parent
EXAMPLES = TOP / "docs/examples"
NETNS = Path("/run/netns")
TIMEOUT_S = 120.0
END_S = 30.0


def names() -> list[str]:
    return sorted(path.name for path in EXAMPLES.iterdir() if os.access(path, os.X_OK))


def _namespaces() -> set[str]:
    return {entry.name for entry in NETNS.iterdir()} if NETNS.is_dir() else set()


class Example:
    def __init__(self, name: str) -> None:
        self._script = EXAMPLES / name
        self._home = Path(tempfile.mkdtemp(prefix="vswitch-test-"))
        self._home.chmod(0o755)  # the forwarder goes through it as a user of its own
        self._log = self._home / "output"
        self._tmp = self._home / "tmp"
        self._tmp.mkdir()

    def __enter__(self) -> Example:
        self._namespaces = _namespaces()
        with self._log.open("w") as log:  # a file: nobody who is left can keep a reader waiting
            self._process = subprocess.Popen(
                # a run in the background has SIGINT ignored, and so would the script
                ["env", "--default-signal=INT", self._script],
                env={**os.environ, "TMPDIR": str(self._tmp)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)
        wait_until(self._all_killed, END_S, "all processes are killed")
        shutil.rmtree(self._home, ignore_errors=True)

    def _all_killed(self) -> bool:
        """One is started again by another while both are being killed."""
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit status."""
        try:
            return self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._script.name} does not end:\n{self.output}") from None

    def wait_output(self, text: str) -> None:
        def there() -> bool:
            assert self._process.poll() is None, f"ended before {text!r}:\n{self.output}"
            return text in self.output

        wait_until(there, TIMEOUT_S, f"{self._script.name} says {text!r}")

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal does it: to the whole foreground group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def check_nothing_left(self) -> None:
        """Processes (those that another one adopted have a moment), files, namespaces."""
        wait_until(lambda: not self.processes(), END_S, "all processes have ended")
        assert list(self._tmp.iterdir()) == []
        hosts = {"red", "green", "blue", "left", "right"}
        assert (_namespaces() - self._namespaces) & hosts == set()

    def processes(self) -> list[int]:
        """All that run, by id; the script is one of them."""
        mark = f"TMPDIR={self._tmp}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found
