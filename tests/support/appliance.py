"""A whole appliance of its own for a test: `vswitch serve` with private directories, its API as
methods, its processes by name.

    with Topology() as net, Appliance(net, net.switch) as switch:
        switch.bridge("br0", *net.switch_ifs)
        ...
        switch.check_ledger()
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.oracles import PortRules, PortVlan
from tests.support.topology import Topology, end_process, run, wait_until

PROCESSES = ("keeper", "forwarder", "control")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; one connection a request, closed whatever happens."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("vswitch", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ApiError(RuntimeError):
    """The API refused; the message holds its problem document."""


def listens(path: Path) -> bool:
    """Does anybody accept connections there? (httpx would leave the socket of a failed attempt to
    the garbage collector, and that is a warning in some later test.)"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return path.is_socket() and probe.connect_ex(str(path)) == 0


class Appliance:
    """Runs in network namespace `netns` (None: the caller's). Use as a context manager."""

    name = "vswitch"
    start_s = 30.0  # an emulated processor needs more
    request_s = 15.0

    def __init__(self, net: Topology, netns: str | None, arguments: Sequence[str] = ()) -> None:
        self._net = net
        self._arguments = tuple(arguments)
        self._netns = netns
        self._home: Path | None = None
        self._serve: subprocess.Popen[str] | None = None

    # --- processes --------------------------------------------------------------------------------

    def __enter__(self) -> Appliance:
        self._home = Path(tempfile.mkdtemp(prefix="vswitch-test-"))
        # The processes run under uids of their own and must get through to their directories.
        self._home.chmod(0o755)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    @property
    def home(self) -> Path:
        """Holds run/, data/ and serve.log."""
        assert self._home is not None
        return self._home

    @property
    def log(self) -> str:
        return (self.home / "serve.log").read_text(errors="replace")

    def start(self) -> None:
        """Starts all processes and waits until frames would be forwarded."""
        with (self.home / "serve.log").open("a") as log:
            self._serve = self._net.start(
                self._netns,
                *(sys.executable, "-m", "vswitch", "serve"),
                *("--listen", f"unix:{self.home}/run/api.sock"),
                *("--data-dir", f"{self.home}/data", "--run-dir", f"{self.home}/run"),
                *self._arguments,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._alive_and_ready, self.start_s, "the appliance is ready")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it said:\n{self.log}") from None

    def _alive_and_ready(self) -> bool:
        assert self._serve is not None
        if self._serve.poll() is not None:
            raise RuntimeError(f"serve ended with {self._serve.returncode}:\n{self.log}")
        return self.ready()

    def ready(self) -> bool:
        """Does the API answer, and say that forwarding works?"""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._request("GET", "/api/v1/system/ready", None)[0] == 200
        return False

    def stop(self) -> None:
        """Ends serve as an operator would, then whatever it may have left; directories stay."""
        left = {name: self.pid(name) for name in PROCESSES}
        if self._serve is not None:
            end_process(self._serve, 20)
            self._serve = None
        for pid in left.values():
            if pid is not None and self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: not self._is_ours(pid), 10, f"process {pid} has ended")  # type: ignore[misc]

    @staticmethod
    def _is_ours(pid: int) -> bool:
        """A number in a pid file may meanwhile be another program's."""
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return b"fastpath" in words or b"vswitch" in words
        return False

    def pid(self, name: str) -> int | None:
        """Process id of keeper, forwarder or control; None when it does not run."""
        if self._home is None:
            return None
        try:
            pid = int((self.home / "run" / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def kill(self, name: str) -> int:
        """SIGKILLs one process (of PROCESSES, or serve) and returns the id it had."""
        pid = self._serve.pid if name == "serve" and self._serve else self.pid(name)
        if pid is None:
            raise ProcessLookupError(f"{name} does not run")
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_replaced(self, name: str, old_pid: int, timeout_s: float = 20) -> int:
        """Waits until another process has taken the place of old_pid; returns its id."""
        wait_until(lambda: self.pid(name) not in (None, old_pid), timeout_s, f"{name} runs again")
        pid = self.pid(name)
        assert pid is not None
        return pid

    def settle(self) -> None:
        """As tests.support.oracles: workers learn as they forward, nothing is deferred."""

    # --- API --------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        """One request; JSON of the answer. ApiError holds the problem of a refusal."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        status, text = self._request(method, f"/api/v1{path}{query}", body)
        if status >= 400:
            raise ApiError(f"{method} {path}: {status} {text}")
        return json.loads(text) if text else None

    def _request(self, method: str, path: str, body: Any) -> tuple[int, str]:
        socket_path = self.home / "run/api.sock"
        with contextlib.closing(_UnixConnection(socket_path, self.request_s)) as connection:
            headers = {"Content-Type": "application/json"}
            text = None if body is None else json.dumps(body)
            connection.request(method, path, body=text, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def clear(self) -> None:
        """Nothing is configured: as the next user of it would find a new one."""
        for kind in ("rulesets", "ports", "bridges"):
            for item in self.call("GET", f"/{kind}")["items"]:
                self.call("DELETE", f"/{kind}/{item['name']}")

    def put_bridge(self, name: str, **spec: Any) -> Any:
        return self.call("PUT", f"/bridges/{name}", {"spec": spec})

    def put_port(self, name: str, bridge: str, backend: dict[str, Any], **spec: Any) -> Any:
        return self.call(
            "PUT", f"/ports/{name}", {"spec": {"bridge": bridge, "backend": backend, **spec}}
        )

    def put_rules(self, name: str, rules: Sequence[Mapping[str, Any]], **spec: Any) -> Any:
        """A whole rule set; every rule of it is in force, or AssertionError."""
        spec = {"attach": [{"bridge": "br0", "direction": "ingress"}], **spec}
        body = {"spec": {**spec, "rules": list(rules)}}
        answer = self.call("PUT", f"/rulesets/{name}", body, wait="applied")
        status = answer["status"]
        ready = [c for c in status["conditions"] if c["type"] == "Ready"]
        assert not status["failed"], status["failed"]
        assert [c["status"] for c in ready] == ["True"], ready
        return answer

    def hits(self, name: str) -> dict[str, int]:
        """Frames that met each rule of a set."""
        items = self.call("GET", f"/rulesets/{name}/counters")["items"]
        return {item["id"]: item["frames"] for item in items}

    def bridge(self, name: str, *ifnames: str, **spec: Any) -> list[str]:
        """A bridge over af_packet ports on ifnames, ready to forward; returns the port names."""
        self.put_bridge(name)
        ports = [f"p{i}" for i in range(len(ifnames))]
        for port, ifname in zip(ports, ifnames, strict=True):
            self.put_port(port, name, {"type": "af_packet", "ifname": ifname}, **spec)
        self.wait_ports(*ports)
        return ports

    def rules_bridge(self, name: str, ifnames: list[str], rules: list[PortRules]) -> None:
        """A bridge over af_packet ports with rules, ready to forward."""
        self.put_bridge(name)
        for i, (ifname, rule) in enumerate(zip(ifnames, rules, strict=True)):
            self.put_port(
                f"p{i}",
                name,
                {"type": "af_packet", "ifname": ifname},
                flood=rule.flood,
                learning=rule.learning,
                isolation_group=1 if rule.isolated else 0,
            )
        self.wait_ports(*(f"p{i}" for i in range(len(ifnames))))

    def tap_bridge(self, name: str) -> list[str]:
        """A bridge over TAP devices that are made here and given to the topology's hosts, in the
        place (and under the name) of their veth ends; returns the port names."""
        self.put_bridge(name)
        ports = [f"p{i}" for i in range(len(self._net.hosts))]
        for i, (port, host) in enumerate(zip(ports, self._net.hosts, strict=True)):
            device = self._net.host_ifs[i]
            run("ip", "-n", host, "link", "delete", device)
            self.put_port(port, name, {"type": "tap", "name": device})
            self.wait_ready(port)
            run("ip", "-n", self._net.switch, "link", "set", device, "netns", host)
            run("ip", "-n", host, "link", "set", device, "up")
            if self._net.addresses:
                address = f"{self._net.addresses[i]}/24"
                run("ip", "-n", host, "address", "add", address, "dev", device)
        self.wait_ports(*ports)
        return ports

    def vlan_bridge(self, name: str, ifnames: list[str], vlans: list[PortVlan]) -> None:
        """A bridge that filters VLANs over af_packet ports, ready to forward."""
        self.put_bridge(name, vlan_filtering=True)
        for i, (ifname, vlan) in enumerate(zip(ifnames, vlans, strict=True)):
            spec: dict[str, Any] = {"mode": vlan.mode}
            if vlan.mode != "trunk":
                spec["pvid"] = vlan.pvid
            if vlan.tagged:
                spec["tagged"] = [str(vid) for vid in vlan.tagged]
            self.put_port(f"p{i}", name, {"type": "af_packet", "ifname": ifname}, vlan=spec)
        self.wait_ports(*(f"p{i}" for i in range(len(ifnames))))

    def conditions(self, port: str) -> dict[str, dict[str, Any]]:
        status = self.call("GET", f"/ports/{port}")["status"]
        return {condition["type"]: condition for condition in status["conditions"]}

    def wait_ports(self, *ports: str, timeout_s: float = 15) -> None:
        """Waits until every port is Ready and its link is up."""
        for port in ports:
            self._wait_conditions(port, ("Ready", "LinkUp"), timeout_s)

    def wait_ready(self, *ports: str, timeout_s: float = 15) -> None:
        """Waits until every port is Ready, its link up or down."""
        for port in ports:
            self._wait_conditions(port, ("Ready",), timeout_s)

    def _wait_conditions(self, port: str, kinds: tuple[str, ...], timeout_s: float) -> None:
        def true() -> bool:
            conditions = self.conditions(port)
            return all(str(conditions.get(kind, {}).get("status")) == "True" for kind in kinds)

        try:
            wait_until(true, timeout_s, f"port {port} is {' and '.join(kinds)}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.conditions(port)}") from None

    def drops(self, reason: str) -> int:
        """Frames that all ports dropped for one reason."""
        items = self.call("GET", "/stats/drops")["items"]
        return sum(int(item["frames"]) for item in items if item["reason"] == reason)

    def port_stats(self) -> dict[str, dict[str, Any]]:
        return {item["name"]: item for item in self.call("GET", "/stats/ports")["items"]}

    def check_ledger(self, timeout_s: float = 5) -> dict[str, Any]:
        """Waits until nothing is in flight, then requires that the switch's books balance.

        Returns the ledger: rx + copies + segments + originated = tx + drops + consumed.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ledger: dict[str, Any] = self.call("GET", "/stats/ports")["ledger"]
            income = sum(ledger[k] for k in ("rx_frames", "copies", "segments", "originated"))
            outgo = sum(ledger[k] for k in ("tx_frames", "drops", "consumed"))
            if income == outgo:
                return ledger
            if time.monotonic() > deadline:
                raise AssertionError(f"the ledger does not balance: {income} != {outgo}: {ledger}")
            time.sleep(0.02)
