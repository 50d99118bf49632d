"""A clone below a directory that only root can pass (/root, mkdtemp): it runs all the same.

The control plane and the forwarder give up their rights after they have read all their code; an
import that comes later finds nothing. Here the directory above the clone is closed, in a mount
namespace of its own, and everything is used that might import something late.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.unit.test_serve import Instance, wait_until

TOP = Path(__file__).resolve().parent.parent.parent

CLOSE = """
set -e
mkdir -p "$1"
mount --bind "$2" "$1"
mount -t tmpfs -o mode=0700 tmpfs "$(dirname "$2")"
mkdir -p "$2"
mount --bind "$1" "$2"
cd "$2"
shift 2
exec "$@"
"""

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(TOP.parent == Path("/"), reason="nothing above the clone can be closed"),
]


def test_a_clone_below_a_closed_directory_runs() -> None:
    with contextlib.closing(Instance(Path("/run"))) as instance:
        keep = str(instance.home / "keep")
        instance.prefix = ("unshare", "--mount", "sh", "-c", CLOSE, "sh", keep, str(TOP))
        instance.start()
        instance.call("PUT", "/bridges/br0", {"spec": {"vlan_filtering": True}})
        for name in ("m0", "m1"):
            spec = {"bridge": "br0", "backend": {"type": "memory"}, "vlan": {"mode": "access"}}
            instance.call("PUT", f"/ports/{name}", {"spec": spec})
        instance.call("PATCH", "/ports/m1", {"spec": {"admin_up": False}})
        for path in ("/bridges/br0/fdb", "/stats/ports", "/system/preflight", "/revisions"):
            instance.call("GET", path)
        metrics = instance.http.get("/metrics")
        assert metrics.status_code == 200, metrics.text
        assert instance.http.get("/api/v1/nothing").status_code == 404
        assert instance.http.put("/api/v1/ports/m0", content=b"{").status_code == 400
        instance.call("DELETE", "/bridges/br0?cascade=true")
        instance.call("PUT", "/bridges/br1", {"spec": {}})
        for name in ("control", "forwarder", "keeper"):
            before = instance.pid(name)
            os.kill(before, signal.SIGKILL)
            wait_until(f"a new {name}", lambda: instance.pid(name) not in (0, before))  # noqa: B023
            wait_until("readiness", instance.ready)
        assert [item["name"] for item in instance.call("GET", "/bridges")["items"]] == ["br1"]
        assert "Traceback" not in instance.log(), instance.log()
        assert instance.stop() == 0
