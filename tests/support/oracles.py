"""Other people's switches over the switch ends of a topology: what ours is compared with.

Each is a context manager that starts the switch and removes it again. settle() is called between
two batches of frames: when it returns, what the switch learned from the first holds for the
second.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tests.support.topology import Topology, linux_bridge, run, wait_until

OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


@dataclass(frozen=True)
class PortVlan:
    """A port's VLAN membership in the words of the API."""

    mode: str  # access, trunk, native, tunnel
    pvid: int = 1
    tagged: tuple[int, ...] = ()

    def vlans(self) -> set[int]:
        """All VLANs that the port is a member of."""
        own = set() if self.mode == "trunk" else {self.pvid}
        return own | (set(self.tagged) if self.mode in ("trunk", "native") else set())


@dataclass(frozen=True)
class PortRules:
    """What a port does besides VLANs: gets flooded frames, learns, never speaks to the other
    isolated ports."""

    flood: bool = True
    learning: bool = True
    isolated: bool = False


class Switch(Protocol):
    """A running switch, ours or another."""

    name: str

    def settle(self) -> None: ...


class LinuxBridge:
    """The kernel's bridge, VLAN-unaware; it forwards in the sender's context."""

    name = "linux-bridge"

    def __init__(self, net: Topology, rules: Sequence[PortRules] | None = None) -> None:
        self._net = net
        self._rules = rules or [PortRules()] * len(net.hosts)
        self._bridge = contextlib.ExitStack()

    def __enter__(self) -> LinuxBridge:
        self._bridge.enter_context(linux_bridge(self._net))
        for ifname, rules in zip(self._net.switch_ifs, self._rules, strict=True):
            flood, learning, isolated = (
                "on" if value else "off" for value in (rules.flood, rules.learning, rules.isolated)
            )
            run(
                *("bridge", "-n", self._net.switch, "link", "set", "dev", ifname),
                *("flood", flood, "mcast_flood", flood, "bcast_flood", flood),
                *("learning", learning, "isolated", isolated),
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._bridge.close()

    def settle(self) -> None:
        """Nothing is deferred."""

    def filter(self, lines: Iterable[str], declarations: str = "") -> None:
        """What is forwarded is judged by these lines of an nftables chain, in place of earlier
        ones; what none of them matches passes. ``declarations``: sets that they name."""
        chain = "\n".join(lines)
        self._net.run(
            *(self._net.switch, "nft", "-f", "-"),
            text=f"""
                table bridge rules {{}}
                delete table bridge rules
                table bridge rules {{
                    {declarations}
                    chain forward {{
                        type filter hook forward priority 0; policy accept;
                        {chain}
                    }}
                }}
            """,
        )


class OpenVSwitch:
    """OVS with its userspace datapath, run by hand with directories of its own.

    The datapath caches decisions and corrects them later, in threads of its own; settle() throws
    the cache away, so that the next batch meets what has been learned.
    """

    name = "ovs"
    program = "ovs-vswitchd"
    prefix: tuple[str, ...] = ()  # of the command that starts each process

    def __init__(self, net: Topology, vlans: Sequence[PortVlan] | None = None) -> None:
        self._net = net
        self._vlans = vlans
        self._dir: Path | None = None
        self._processes: list[subprocess.Popen[str]] = []
        self._control: socket.socket | None = None
        self._next_id = 0

    def __enter__(self) -> Self:
        self._dir = Path(tempfile.mkdtemp(prefix="ovs-oracle-"))
        try:
            self._start(self._dir)
            self._configure(self._dir)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, home: Path) -> None:
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "OVS_RUNDIR": str(home),
            "OVS_LOGDIR": str(home),
            "OVS_DBDIR": str(home),
            "RUNTIME_DIRECTORY": str(home),  # DPDK's, in place of /var/run/dpdk
        }
        run("ovsdb-tool", "create", str(home / "conf.db"), str(OVS_SCHEMA))
        quiet = ("-vconsole:off", "-vsyslog:off", "-vfile:warn", f"--log-file={home}/log")
        for argv in (
            (
                *("ovsdb-server", str(home / "conf.db"), f"--remote=punix:{home}/db.sock"),
                *(f"--unixctl={home}/db.ctl", *quiet),
            ),
            (self.program, f"unix:{home}/db.sock", f"--unixctl={home}/vs.ctl", *quiet),
        ):
            process = self._net.start(
                *(self._net.switch, *self.prefix, *argv),
                stdout=subprocess.DEVNULL,
                env=env,
                cwd=home,
            )
            self._processes.append(process)
            sock = home / ("db.sock" if argv[0] == "ovsdb-server" else "vs.ctl")
            wait_until(sock.exists, 10, f"{argv[0]} makes {sock.name}")

    def _configure(self, home: Path) -> None:
        # Two tags are looked at, so that a tunnel's customer tag is told from its own.
        command = ["set", "Open_vSwitch", ".", "other_config:vlan-limit=2", *self.settings(), "--"]
        command += ["add-br", "obr", "--", "set", "Bridge", "obr", "datapath_type=netdev"]
        run("ovs-vsctl", f"--db=unix:{home}/db.sock", "--timeout=20", *command, *self.ports())
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.settimeout(20)
        self._control.connect(str(home / "vs.ctl"))

    @property
    def pid(self) -> int:
        """Of the switch itself, which was started last."""
        return self._processes[-1].pid

    def settings(self) -> list[str]:
        """More columns of the table Open_vSwitch."""
        return []

    def ports(self) -> list[str]:
        """Words for ovs-vsctl that add the ports."""
        words = []
        for i, ifname in enumerate(self._net.switch_ifs):
            words += ["--", "add-port", "obr", ifname]
            words += ["--", "set", "Interface", ifname, f"ofport_request={i + 1}"]
            if self._vlans is not None:
                words += ["--", "set", "Port", ifname, *_ovs_vlan(self._vlans[i])]
        return words

    def call(self, method: str, *params: str) -> Any:
        """One request of ovs-appctl's protocol: JSON-RPC objects, one after the other."""
        assert self._control is not None
        self._next_id += 1
        request = {"id": self._next_id, "method": method, "params": params}
        self._control.sendall(json.dumps(request).encode())
        text = ""
        while True:
            chunk = self._control.recv(65536)
            if not chunk:
                raise ConnectionError(f"ovs-vswitchd closed the connection during {method}")
            text += chunk.decode()
            with contextlib.suppress(json.JSONDecodeError):
                answer = json.loads(text)
                if answer.get("error") is not None:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def settle(self) -> None:
        self.call("revalidator/purge")

    def fdb(self) -> str:
        return str(self.call("fdb/show", "obr"))

    def flows(self, lines: Iterable[str]) -> None:
        """In place of all flows there are, at once. First fragments have ports (they have none
        unless that is asked for)."""
        assert self._dir is not None
        path = self._dir / "flows"
        path.write_text("".join(f"{line}\n" for line in lines))
        bridge = f"unix:{self._dir}/obr.mgmt"
        run("ovs-ofctl", "set-frags", bridge, "nx-match")
        run("ovs-ofctl", "--bundle", "replace-flows", bridge, str(path))
        self.settle()

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        if self._dir is not None:
            shutil.rmtree(self._dir, ignore_errors=True)
        # The userspace datapath leaves its taps for its next start.
        for link in ("obr", "ovs-netdev"):
            subprocess.run(
                ["ip", "-n", self._net.switch, "link", "delete", link],
                capture_output=True,
                check=False,
            )


def _ovs_vlan(vlan: PortVlan) -> list[str]:
    mode = {
        "access": "access",
        "trunk": "trunk",
        "native": "native-untagged",
        "tunnel": "dot1q-tunnel",
    }[vlan.mode]
    columns = [f"vlan_mode={mode}"]
    if vlan.mode != "trunk":
        columns.append(f"tag={vlan.pvid}")
    if vlan.mode in ("trunk", "native"):
        columns.append(f"trunks={','.join(map(str, vlan.tagged))}")
    return columns
