"""What rules logged: the newest records of each set, in memory, and lines in the log."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Container
from itertools import islice

from fastpath.protocol import RuleLog, RuleLogRow

log = logging.getLogger(__name__)

ROWS_MAX = 500
"""Records that are kept of each set."""
LINES_MAX = 20
"""Lines written of one message of the forwarder; a set's log has the rest."""


class RuleLogBook:
    """Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, deque[RuleLogRow]] = {}
        self._lost = 0

    def add(self, message: RuleLog) -> None:
        with self._lock:
            self._lost += message.lost
            for row in message.rows:
                self._rows.setdefault(row.ruleset, deque(maxlen=ROWS_MAX)).append(row)
        for row in message.rows[:LINES_MAX]:
            where = f"{row.in_port} to {row.out_port}" if row.out_port else f"{row.in_port} in"
            log.info(
                "rule %s/%s %s: %s, %d bytes %s",
                *(row.ruleset, row.rule, row.action, where, row.frame_len, row.head.hex()),
            )
        left_out = len(message.rows) - LINES_MAX
        if left_out > 0 or message.lost:
            log.info("rules: %d more records, %d lost", max(left_out, 0), message.lost)

    def newest(self, ruleset: str, limit: int) -> tuple[list[RuleLogRow], int]:
        """Newest first; and how many records of all sets were lost since the start."""
        with self._lock:
            rows = self._rows.get(ruleset, deque())
            return list(islice(reversed(rows), limit)), self._lost

    def keep_only(self, rulesets: Container[str]) -> None:
        """Forget the records of sets that are gone."""
        with self._lock:
            for name in [name for name in self._rows if name not in rulesets]:
                del self._rows[name]
