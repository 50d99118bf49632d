"""/metrics in Prometheus' text format, collected anew for each scrape."""

from collections import Counter
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastpath.protocol import ConnectionQuery, RuleHits, Stats
from vswitch import __version__
from vswitch.api.answers import Served
from vswitch.problems import Problem
from vswitch.services import Services

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RULES_A_PAGE = CLIENTS_A_PAGE = 1000
router = APIRouter(tags=["system"])

_PORT_COUNTERS = {
    "rx_frames": "Frames received into the switch.",
    "rx_bytes": "Bytes received into the switch.",
    "tx_frames": "Frames sent out of the switch.",
    "tx_bytes": "Bytes sent out of the switch.",
    "copies": "Copies made by flooding received frames.",
    "segments": "Segments made by cutting large frames.",
    "originated": "Frames made by the switch itself.",
    "consumed": "Frames kept by the switch.",
    "kernel_drops": "Frames lost in the kernel's ring, outside the ledger.",
    "learned": "FDB entries the port made.",
    "moved": "FDB entries that moved to the port.",
    "zero_copy_frames": "Frames sent by exchanging buffers.",
}
_LEDGER_COUNTERS = (
    "rx_frames",
    "copies",
    "segments",
    "originated",
    "tx_frames",
    "drops",
    "consumed",
)


@router.get(
    "/metrics",
    name="get_metrics",
    summary="Counters and state for Prometheus.",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_metrics(served: Served) -> Response:
    registry = CollectorRegistry()
    registry.register(_Appliance(served))
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE})


class _Appliance(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        try:
            stats = self._services.runtime.stats()
        except Problem:
            stats = None
        yield from self._state(stats is not None)
        if stats is not None:
            yield from self._connections()
            yield from self._clients()
            yield from _ports(stats)
            yield from _queues(stats)
            yield from _ledger(stats)
            yield from self._rules()

    def _rules(self) -> Iterator[Metric]:
        """Sums of every set; of its own rules as many as are allowed, in the order of the sets."""
        room = self._services.settings.metrics_rules_max
        sums = [_counters("ruleset", what, ["ruleset"]) for what in ("frames", "bytes")]
        own = [_counters("rule", what, ["ruleset", "rule"]) for what in ("frames", "bytes")]
        for name in sorted(self._services.changes.current.rulesets):
            frames = bytes_ = 0
            for row in self._rule_counters(name):
                frames += row.frames
                bytes_ += row.bytes
                if room > 0:
                    room -= 1
                    own[0].add_metric([name, row.id], row.frames)
                    own[1].add_metric([name, row.id], row.bytes)
            sums[0].add_metric([name], frames)
            sums[1].add_metric([name], bytes_)
        yield from (*sums, *own)
        policed = CounterMetricFamily(
            "vswitch_policer_frames", "Frames within and beyond a rate.", labels=["policer", "was"]
        )
        for name, state in sorted(self._services.runtime.view.policers.items()):
            policed.add_metric([name, "passed"], state.passed)
            policed.add_metric([name, "dropped"], state.dropped)
        yield policed

    def _rule_counters(self, ruleset: str) -> Iterator[RuleHits]:
        cursor = 0
        while True:
            try:
                page = self._services.runtime.rule_counters(ruleset, cursor, RULES_A_PAGE)
            except Problem:  # it is not in force yet, or has just gone
                return
            yield from page.rows
            cursor = page.cursor
            if not cursor:
                return

    def _connections(self) -> Iterator[Metric]:
        try:
            found = self._services.runtime.connections(ConnectionQuery(), 0, 0)
        except Problem:
            return
        yield _gauge("vswitch_connections", "Connections tracked.", found.count)
        yield _gauge("vswitch_connections_max", "Connections there is room for.", found.max)

    def _clients(self) -> Iterator[Metric]:
        """Their frames are in the counters of their ports."""
        if not self._services.runtime.view.emulated_netmap:
            return
        found: Counter[tuple[str, str]] = Counter()
        cursor = 0
        while True:
            try:
                page = self._services.runtime.clients(cursor, CLIENTS_A_PAGE)
            except Problem:
                return
            found.update((row.switch, row.mode) for row in page.rows)
            cursor = page.cursor
            if not cursor:
                break
        open_ports = GaugeMetricFamily(
            "vswitch_clients", "Ports that netmap programs have open.", labels=["bridge", "mode"]
        )
        for (bridge, mode), count in sorted(found.items()):
            open_ports.add_metric([bridge, mode], count)
        yield open_ports

    def _state(self, answered: bool) -> Iterator[Metric]:
        view, configuration = self._services.runtime.view, self._services.changes.current
        build = GaugeMetricFamily(
            "vswitch_build_info", "Always 1; says which version this is.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        yield _gauge("vswitch_forwarder_up", "1: the forwarder answers.", int(answered))
        yield _gauge(
            "vswitch_revision", "Newest revision of the configuration.", configuration.revision
        )
        applied = view.applied.revision if view.applied else 0
        yield _gauge("vswitch_revision_applied", "Revision that is in force.", applied)
        yield _gauge("vswitch_bridges", "Bridges configured.", len(configuration.bridges))
        yield _gauge("vswitch_ports", "Ports configured.", len(configuration.ports))
        yield _gauge("vswitch_rulesets", "Rule sets configured.", len(configuration.rulesets))
        count = sum(len(table) for table in configuration.rules.values())
        yield _gauge("vswitch_rules", "Rules configured.", count)
        restarts = view.status.restarts if view.status else 0
        yield CounterMetricFamily(
            "vswitch_forwarder_restarts", "Restarts of the forwarder.", value=restarts
        )
        up = GaugeMetricFamily("vswitch_port_up", "1: in force and link up.", labels=["port"])
        for name, state in sorted(view.ports.items()):
            up.add_metric([name], int(state.outcome.ok and state.link_up and not state.lost))
        yield up
        known = GaugeMetricFamily("vswitch_fdb_entries", "Stations known.", labels=["bridge"])
        for name, bridge in sorted(view.bridges.items()):
            known.add_metric([name], bridge.fdb_entries)
        yield known


def _counters(of: str, what: str, labels: list[str]) -> CounterMetricFamily:
    whose = "all rules of a set" if of == "ruleset" else "a rule"
    return CounterMetricFamily(
        f"vswitch_{of}_{what}", f"{what.capitalize()} that {whose} matched.", labels=labels
    )


def _gauge(name: str, text: str, value: int) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _ports(stats: Stats) -> Iterator[Metric]:
    for field, text in _PORT_COUNTERS.items():
        family = CounterMetricFamily(f"vswitch_port_{field}", text, labels=["port"])
        for port in stats.ports:
            family.add_metric([port.name], getattr(port, field))
        yield family
    drops = CounterMetricFamily(
        "vswitch_port_drops", "Frames dropped.", labels=["port", "direction", "reason"]
    )
    for port in stats.ports:
        for direction, reasons in (("rx", port.rx_drops), ("tx", port.tx_drops)):
            for reason, frames in sorted(reasons.items()):
                drops.add_metric([port.name, direction, reason], frames)
    yield drops


def _queues(stats: Stats) -> Iterator[Metric]:
    labels = ["port", "queue"]
    frames = CounterMetricFamily(
        "vswitch_queue_rx_frames", "Frames received by a queue.", labels=labels
    )
    batches = CounterMetricFamily(
        "vswitch_queue_batches", "Batches a queue received.", labels=labels
    )
    sleeps = CounterMetricFamily("vswitch_queue_sleeps", "Times its worker slept.", labels=labels)
    busy = CounterMetricFamily(
        "vswitch_queue_busy_seconds", "Time its worker spent on frames.", labels=labels
    )
    for port in stats.ports:
        for queue in port.queues:
            where = [port.name, str(queue.id)]
            frames.add_metric(where, queue.rx_frames)
            batches.add_metric(where, queue.batches)
            sleeps.add_metric(where, queue.sleeps)
            busy.add_metric(where, queue.busy_ns / 1e9)
    yield from (frames, batches, sleeps, busy)


def _ledger(stats: Stats) -> Iterator[Metric]:
    for field in _LEDGER_COUNTERS:
        yield CounterMetricFamily(
            f"vswitch_ledger_{field}",
            "Term of rx + copies + segments + originated = tx + drops + consumed + in flight.",
            value=getattr(stats.ledger, field),
        )
    yield _gauge("vswitch_ledger_in_flight", "Frames inside; 0 at rest.", stats.ledger.in_flight)
