"""A TAP device that is given to another namespace stays a port: that is how containers get one.

host 0 [ tap ]======( the appliance )======[ tap ] host 1
both devices were made in the switch's namespace and moved
"""

from __future__ import annotations

import pytest

from tests.support.appliance import Appliance
from tests.support.topology import Topology


@pytest.mark.root
def test_taps_moved_into_hosts_carry_their_frames() -> None:
    with Topology() as net, Appliance(net, net.switch) as switch:
        ports = switch.tap_bridge("br0")
        macs = [net.mac(net.hosts[i], net.host_ifs[i]) for i in (0, 1)]
        net.run(net.hosts[0], "ping", "-c", "20", "-i", "0.01", "-W", "2", net.addresses[1])
        # The same devices: an interface that is taken for lost is made anew, with another address.
        assert macs == [net.mac(net.hosts[i], net.host_ifs[i]) for i in (0, 1)]
        stats = switch.port_stats()
        assert all(stats[port]["rx_frames"] >= 20 for port in ports)
        switch.check_ledger()
