"""A netmap port where there is no netmap module: it waits and says so, the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.appliance import Appliance
from tests.support.topology import Topology, wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(Path("/dev/netmap").exists(), reason="the module is loaded here"),
]


def test_a_netmap_port_waits_for_its_module() -> None:
    with Topology(hosts=2) as net, Appliance(net, net.switch) as switch:
        switch.wait_ports(*switch.bridge("br0", *net.switch_ifs))
        backend = {"type": "netmap", "portspec": f"netmap:{net.switch_ifs[0]}^"}
        switch.put_port("nm", "br0", backend)
        wait_until(
            lambda: switch.conditions("nm")["Ready"]["reason"] == "NETMAP_ABSENT",
            15,
            "the port says what is missing",
        )
        ready = switch.conditions("nm")["Ready"]
        assert ready["status"] == "False"
        assert "load the module netmap" in ready["message"]
        types = switch.call("GET", "/system/capabilities")["port_types"]
        (netmap,) = [item for item in types if item["type"] == "netmap"]
        assert not netmap["available"]
        assert "this switch's own engine" in netmap["reason"]
        found = switch.call("GET", "/system/preflight")["findings"]
        assert any("netmap: there is no /dev/netmap" in item["message"] for item in found)
        net.run(net.hosts[0], "ping", "-q", "-c", "3", "-i", "0.2", net.addresses[1])
        switch.check_ledger()
