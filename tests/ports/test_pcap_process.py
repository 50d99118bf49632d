"""pcap ports in the real processes: files opened by the keeper, read and written in the sandbox.

in.pcap ---> replay ---- bridge ---- capture ---> out.pcap
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastpath import protocol as wire
from tests.support.fastpath import Client, FastPath, bridge, port
from tests.support.rigs import frame, pcap_read, pcap_write
from tests.support.topology import wait_until

pytestmark = pytest.mark.root


def drops(stats: wire.Stats, reason: str) -> int:
    return sum(p.rx_drops.get(reason, 0) + p.tx_drops.get(reason, 0) for p in stats.ports)


def configure(client: Client, rate: int) -> wire.Ack:
    return client.apply(
        [
            bridge("br0"),
            port("capture", "pcap", "br0", options={"out": "out.pcap"}),
            port("replay", "pcap", "br0", options={"in": "in.pcap", "rate": str(rate)}),
        ]
    )


def test_replay_is_captured(tmp_path: Path) -> None:
    frames = [frame(n, 60 + n % 1400) for n in range(3000)]
    with FastPath(tmp_path) as path, path.client() as client:
        pcap_write(path.data / "pcap" / "in.pcap", frames)
        ack = configure(client, 0)
        assert all(outcome.ok for outcome in ack.outcomes.values()), ack
        out = path.data / "pcap" / "out.pcap"
        wait_until(lambda: len(pcap_read(out)) >= len(frames), 20, "all frames are captured")
        assert pcap_read(out) == frames
        ledger = client.check_ledger()
        assert (ledger.rx_frames, ledger.tx_frames, ledger.drops) == (3000, 3000, 0)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    pcap_write(secret, [frame(1)])
    with FastPath(tmp_path) as path, path.client() as client:
        (path.data / "pcap" / "in.pcap").symlink_to(secret)
        outcome = configure(client, 0).outcomes["port/replay"]
        assert not outcome.ok
        assert "in.pcap" in outcome.message


def test_killed_forwarders_lose_what_they_held(tmp_path: Path) -> None:
    """What is missing in the capture is booked as restart; nothing comes twice or out of order."""
    count = 12000
    frames = [frame(n, 100) for n in range(count)]
    with FastPath(tmp_path) as path:
        pcap_write(path.data / "pcap" / "in.pcap", frames)
        out = path.data / "pcap" / "out.pcap"
        with path.client() as client:
            configure(client, 4000)
        for quarter in (1, 2, 3):
            wait_until(
                lambda part=quarter: len(pcap_read(out)) > part * count // 5,  # type: ignore[misc]
                20,
                "the replay goes on",
            )
            path.wait_replaced(path.kill_forwarder())
        with path.client() as client:
            wait_until(lambda: frames[-1] in pcap_read(out)[-1:], 20, "the last frame arrives")
            client.check_ledger()
            stats = client.stats()
        captured = [int.from_bytes(data[14:18], "big") for data in pcap_read(out)]
        assert captured == sorted(set(captured)), "twice, or out of order"
        assert pcap_read(out) == [frames[n] for n in captured]
        assert count - len(captured) <= drops(stats, "restart")
        assert drops(stats, "restart") <= 3 * 64, "at most a batch a kill"
