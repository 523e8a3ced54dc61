# SPDX-License-Identifier: Apache-2.0
"""Figures for Prometheus, asked for at every scrape: the workers count, the daemon keeps nothing."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from fisk_core import __version__
from fisk_core.api.services import Services
from fisk_core.catalog import listing
from fisk_core.errors import FiskError

LOG = logging.getLogger(__name__)

_LABELS = ("fisk", "name")
_COUNTERS = {
    "errors": "Requests answered with an error.",
    "corrupt": "Requests answered with an error because stored data or metadata is damaged.",
    "cold_reads": "Reads that had to wait for the device.",
    "throttled": "Seconds connections waited because of limits.",
}
_OPERATIONS = ("reads", "writes", "flushes", "trims", "zeroes")
_GAUGES = {"queue": "Requests that wait now.", "connections": "Connections open now."}
_MAP = {
    "layers": "Layers the map names.",
    "pages": "Pages of the map.",
    "dirty_blocks": "Blocks whose owner is not durable yet.",
    "bytes": "Memory the map takes.",
}


def exposition(services: Services, accept: str) -> tuple[bytes, str]:
    """Give all figures as text, and its media type."""
    encode, media_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(services))
    return encode(registry), media_type


class Figures(Collector):
    """The figures of one daemon at this moment."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("fisk_build", "What runs here.", labels=("version", "host"))
        build.add_metric((__version__, self._services.host), 1)
        started = GaugeMetricFamily("fisk_start_time_seconds", "When fiskd started.")
        started.add_metric((), self._services.started)
        yield build
        yield started
        yield from self._catalog()
        yield from self._pools()
        yield from self._workers()

    def _catalog(self) -> Iterator[Metric]:
        with self._services.engine.catalog.read() as conn:
            counted = listing.count(conn)
        fisks = GaugeMetricFamily("fisk_fisks", "Fisks in the catalog.", labels=("state", "role"))
        for (state, role), number in counted.items():
            fisks.add_metric((state, role), number)
        yield fisks
        jobs = GaugeMetricFamily("fisk_jobs", "Jobs of this host.", labels=("kind", "state"))
        found = self._services.runner.list(host=self._services.host)
        for (kind, state), number in Counter((job.kind, job.state.value) for job in found).items():
            jobs.add_metric((kind, state), number)
        yield jobs

    def _pools(self) -> Iterator[Metric]:
        total = GaugeMetricFamily("fisk_pool_size_bytes", "What the pool's medium holds.", labels=("pool",))
        free = GaugeMetricFamily("fisk_pool_free_bytes", "What is free of it.", labels=("pool",))
        suspect = GaugeMetricFamily(
            "fisk_pool_suspect_layers",
            "Layers that may hold garbage: the collector looks at them.",
            labels=("pool",),
        )
        with self._services.engine.catalog.read() as conn:
            layers = listing.suspect_layers(conn)
        for name in self._services.engine.pool_names():
            try:
                info = self._services.engine.pool(name)
            except FiskError as exc:
                LOG.info("no figures of pool %s: %s", name, exc)
                continue
            total.add_metric((name,), info.total)
            free.add_metric((name,), info.free)
            suspect.add_metric((name,), layers.get(name, 0))
        yield from (total, free, suspect)

    def _workers(self) -> Iterator[Metric]:
        found = [status for status in self._services.supervisor.workers() if status.metrics]
        with self._services.engine.catalog.read() as conn:
            names = listing.names(conn, [status.fisk_id for status in found])
        known = [((status.fisk_id, names.get(status.fisk_id, "")), status.metrics or {}) for status in found]
        yield from _counted(known)
        yield from _gauged(known)
        for kind in ("read", "write", "flush"):
            yield _latency(kind, known)


Known = Sequence[tuple[tuple[str, str], Mapping[str, Any]]]


def _counted(known: Known) -> Iterable[Metric]:
    done = CounterMetricFamily("fisk_operations", "Requests answered.", labels=(*_LABELS, "operation"))
    moved = CounterMetricFamily("fisk_bytes", "Bytes read and written.", labels=(*_LABELS, "direction"))
    others = {
        name: CounterMetricFamily(f"fisk_{name}{'_seconds' * (name == 'throttled')}", text, labels=_LABELS)
        for name, text in _COUNTERS.items()
    }
    for labels, figures in known:
        for operation in _OPERATIONS:
            done.add_metric((*labels, operation), figures.get(operation, 0))
        for direction in ("read", "write"):
            moved.add_metric((*labels, direction), figures.get(f"{direction}_bytes", 0))
        for name, family in others.items():
            family.add_metric(labels, figures.get(name, 0))
    return done, moved, *others.values()


def _gauged(known: Known) -> Iterable[Metric]:
    plain = {name: GaugeMetricFamily(f"fisk_{name}", text, labels=_LABELS) for name, text in _GAUGES.items()}
    maps = {name: GaugeMetricFamily(f"fisk_map_{name}", text, labels=_LABELS) for name, text in _MAP.items()}
    cache = GaugeMetricFamily("fisk_cache_bytes", "Bytes of layers in the page cache.", labels=_LABELS)
    for labels, figures in known:
        for name, family in plain.items():
            family.add_metric(labels, figures.get(name, 0))
        for name, family in maps.items():
            family.add_metric(labels, figures.get("map", {}).get(name, 0))
        resident = figures.get("cache", {}).get("bytes_resident")
        if resident is not None:
            cache.add_metric(labels, resident)
    return *plain.values(), *maps.values(), cache


def _latency(kind: str, known: Known) -> Metric:
    family = HistogramMetricFamily(
        f"fisk_{kind}_latency_seconds", f"From a {kind} request to its answer.", labels=_LABELS
    )
    for labels, figures in known:
        latency = figures.get("latency") or {}
        bounds = [*map(str, latency.get("bounds", ())), "+Inf"]
        so_far, buckets = 0, []
        for bound, count in zip(bounds, latency.get(kind, ()), strict=False):
            so_far += count
            buckets.append((bound, float(so_far)))
        if buckets:
            family.add_metric(labels, buckets, latency.get(f"{kind}_sum", 0.0))
    return family
