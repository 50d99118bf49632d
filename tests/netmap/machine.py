"""QEMU, without acceleration, for one run that ends by itself or by its time limit."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "qemu-system-x86_64"
CONSOLE_TAIL = 60


class Machine:
    """Boots `kernel` with `initramfs`; `lines` gives what the guest says on its second serial line.

    console     file that gets what the kernel and the processes say
    limit_s     seconds after which the guest is ended
    """

    def __init__(self, kernel: Path, initramfs: Path, console: Path, limit_s: float) -> None:
        self._arguments = [
            *("nice", "-n", "5", PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2560"),
            *("-display", "none", "-serial", f"file:{console}", "-serial", "stdio"),
            *("-kernel", str(kernel), "-initrd", str(initramfs)),
            # no_timer_check: a busy host emulates the timer too slowly for the kernel's check
            *("-append", "console=ttyS0 panic=-1 quiet no_timer_check"),
        ]
        self._console = console
        self._limit_s = limit_s
        self.timed_out = False

    def lines(self) -> Iterator[str]:
        """Line after line until the guest has ended."""
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
            timer = threading.Timer(self._limit_s, self._end, (process,))
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield line.decode(errors="replace").rstrip("\r\n")
                if process.wait() != 0 and not self.timed_out:
                    said.seek(0)
                    raise RuntimeError(f"{PROGRAM}: {said.read().decode(errors='replace')}")
            finally:
                timer.cancel()
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self.timed_out = True
        process.kill()

    def console_tail(self) -> str:
        """The last lines of the console, for a guest that ended too early."""
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-CONSOLE_TAIL:])
