"""vde_switch with the TAPs that it makes itself, given to the hosts in place of their veth ends."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile

from tests.bench.subjects import BOUND, ProcessSubject
from tests.support.topology import end_process, run, wait_until

PROGRAM = "vde_switch"
NAME = "vde_switch"


class VdeSwitch(ProcessSubject):
    name = NAME

    def join(self, stack: contextlib.ExitStack) -> None:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-vde-"))
        for host, ifname in zip(self.net.hosts, self.net.host_ifs, strict=True):
            run("ip", "-n", host, "link", "delete", ifname)
        taps = [word for ifname in self.net.host_ifs for word in ("--tap", ifname)]
        process = self.net.start(
            *(self.net.switch, *BOUND, PROGRAM, "--sock", f"{home}/ctl", *taps),
            stdin=subprocess.PIPE,  # at whose end it ends
            stdout=subprocess.DEVNULL,
        )
        stack.callback(end_process, process)
        for host, ifname, address in zip(
            self.net.hosts, self.net.host_ifs, self.net.addresses, strict=True
        ):
            wait_until(lambda ifname=ifname: self._made(ifname), 10, f"vde_switch makes {ifname}")  # type: ignore[misc]
            run("ip", "-n", self.net.switch, "link", "set", ifname, "netns", host)
            run("ip", "-n", host, "link", "set", ifname, "up")
            run("ip", "-n", host, "address", "add", f"{address}/24", "dev", ifname)
        self.polls(process.pid)

    def _made(self, ifname: str) -> bool:
        shown = subprocess.run(
            ["ip", "-n", self.net.switch, "link", "show", ifname], capture_output=True, check=False
        )
        return shown.returncode == 0
