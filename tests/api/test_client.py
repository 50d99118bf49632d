"""A client generated from openapi.json, used as its users would."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.api.conftest import Api

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Generated without a warning."""
    home = tmp_path_factory.mktemp("client")
    result = subprocess.run(
        [
            str(Path(sys.executable).with_name("openapi-python-client")),
            "generate",
            f"--path={ROOT / 'openapi.json'}",
            "--meta=none",
            f"--output-path={home / 'vswitch_client'}",
            "--fail-on-warning",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=home,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning" not in (result.stdout + result.stderr).lower(), result.stdout
    sys.path.insert(0, str(home))
    yield "vswitch_client"
    sys.path.remove(str(home))


class Generated:
    """The generated package by the names of its operations and models."""

    def __init__(self, package: str) -> None:
        self._package = package
        self.models: Any = importlib.import_module(f"{package}.models")
        self.client: Any = importlib.import_module(f"{package}.client")

    def operation(self, tag: str, name: str) -> ModuleType:
        return importlib.import_module(f"{self._package}.api.{tag}.{name}")


def test_a_bridge_and_two_ports(api: Api, package: str) -> None:
    generated = Generated(package)
    models = generated.models
    url = f"http://localhost:{api.port_number}"
    with generated.client.AuthenticatedClient(base_url=url, token=api.token) as client:
        put_bridge = generated.operation("bridges", "put_bridge")
        bridge = put_bridge.sync(
            "br0", client=client, body=models.BridgeWrite(spec=models.BridgeSpec(mtu=1500))
        )
        assert isinstance(bridge, models.Bridge)
        assert (bridge.generation, bridge.spec.mtu, bridge.spec.fdb.ageing_s) == (1, 1500, 300)

        put_port = generated.operation("ports", "put_port")
        for name, backend in (
            ("p1", models.Memory(type_="memory")),
            ("p2", models.AfPacket(type_="af_packet", ifname="e0", queues=2)),
        ):
            spec = models.PortSpec(backend=backend, bridge="br0")
            port = put_port.sync(name, client=client, body=models.PortWrite(spec=spec))
            assert isinstance(port, models.Port)
            assert {item.type_: item.status for item in port.status.conditions}["Ready"] == "True"

        found = generated.operation("ports", "list_ports").sync(client=client)
        assert [(item.name, item.spec.backend.type_) for item in found.items] == [
            ("p1", "memory"),
            ("p2", "af_packet"),
        ]
        assert isinstance(found.items[1].spec.backend, models.AfPacketRead)

        patch = models.PortPatch(spec=models.PortSpecPatch(admin_up=False))
        patched = generated.operation("ports", "patch_port").sync("p1", client=client, body=patch)
        assert patched.spec.admin_up is False

        stats = generated.operation("stats", "list_port_stats").sync(client=client)
        assert [item.rx_frames for item in stats.items] == [9, 9]
        assert stats.items[0].drops.additional_properties == {"malformed": 1, "queue_full": 2}

        match = models.Match(
            ip=models.IpMatch(proto="tcp", src="10.0.0.0/8"), l4=models.L4Match(dport=["80"])
        )
        rule = models.RuleEntry(id="no-http", match=match, action=models.DropAction(type_="drop"))
        attach = models.Attach(direction=models.AttachDirection.INGRESS, bridge="br0")
        spec = models.RuleSetSpec(attach=[attach], rules=[rule])
        put_ruleset = generated.operation("rulesets", "put_ruleset")
        made = put_ruleset.sync("fw", client=client, body=models.RuleSetWrite(spec=spec))
        assert isinstance(made, models.RuleSet)
        assert made.spec.rules[0].match.ip.src == "10.0.0.0/8"
        assert isinstance(made.spec.rules[0].action, models.DropActionRead)
        spec = models.RuleSpec(action=models.JumpAction(type_="jump", ruleset="none"))
        put_rule = generated.operation("rulesets", "put_rule")
        refused = put_rule.sync("fw", "j", client=client, body=models.RuleWrite(spec=spec))
        assert (refused.code, refused.errors[0].pointer) == (
            "REFERENCE_NOT_FOUND",
            "/spec/action/ruleset",
        )
        counters = generated.operation("rulesets", "list_rule_counters").sync("fw", client=client)
        assert [(item.id, item.frames) for item in counters.items] == [("no-http", 0)]
        generated.operation("rulesets", "delete_ruleset").sync_detailed("fw", client=client)

        refused = generated.operation("bridges", "delete_bridge").sync("br0", client=client)
        assert isinstance(refused, models.ProblemDocument)
        assert refused.code == "IN_USE"
        generated.operation("bridges", "delete_bridge").sync("br0", client=client, cascade=True)
        assert generated.operation("ports", "list_ports").sync(client=client).items == []
