"""What runs in the guest: an appliance between four hosts, and the checks, one after the other;
behind them what is measured, where the programs to measure with came along."""

from __future__ import annotations

import sys

from tests.netmap import basics, bench, pipes, ports, vale
from tests.netmap.report import run_all
from tests.netmap.world import World

CHECKS = (*basics.CHECKS, *ports.CHECKS, *vale.CHECKS, *pipes.CHECKS)
MEASURED = bench.CHECKS if bench.there() else ()


def main(items: list[str]) -> None:
    with World() as world:
        run_all([c for c in (*CHECKS, *MEASURED) if not items or c.item in items], world)


if __name__ == "__main__":
    main(sys.argv[1:])
