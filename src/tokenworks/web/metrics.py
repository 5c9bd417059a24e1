"""
What one gateway process counts, for Prometheus.

Names follow the field's habit: ``tokenworks_<what>_<unit>_total``. No label carries a
party, a key or anything else that is not bounded.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tokenworks.gateway.model import Settled
from tokenworks.ledger.writer import Writer

MEDIA_TYPE = CONTENT_TYPE_LATEST


class HubMetrics:
    """
    Counters of the doors, and what the ledger's writer did.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[Counter, tuple[str, ...]], Counter] = {}
        self._calls = Counter(
            "tokenworks_calls",
            "Settled calls.",
            ("tier", "outcome", "stream"),
            registry=self.registry,
        )
        self._tokens = Counter(
            "tokenworks_tokens", "Metered units.", ("tier", "axis"), registry=self.registry
        )
        self._charge = Counter(
            "tokenworks_charge_nano",
            "Charged money in nano-units of the currency.",
            ("tier", "currency"),
            registry=self.registry,
        )
        self._refusals = Counter(
            "tokenworks_refusals", "Requests that were not sold.", ("code",), registry=self.registry
        )

    def settled(self, settled: Settled, *, stream: bool) -> None:
        """
        Count one call that is in the books.
        """
        tier = settled.tier
        self._of(self._calls, tier, settled.outcome.value, "yes" if stream else "no").inc()
        for axis, count in settled.usage.counts.items():
            self._of(self._tokens, tier, axis.value).inc(count)
        self._of(self._charge, tier, settled.currency).inc(settled.charge_quanta)

    def _of(self, counter: Counter, *labels: str) -> Counter:
        # The library looks a child up under a lock and checks its labels; a dictionary
        # does it at a tenth of the price.
        key = (counter, labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = counter.labels(*labels)
        return child

    def refused(self, code: str) -> None:
        """
        Count one request that was refused or failed.
        """
        self._refusals.labels(code).inc()

    def watch_writer(self, writer: Writer) -> None:
        """
        Report what the ledger's writer did and whether it reaches the books.
        """
        operations = Gauge(
            "tokenworks_ledger_operations",
            "Operations this process has committed.",
            registry=self.registry,
        )
        operations.set_function(lambda: writer.operations)
        batches = Gauge(
            "tokenworks_ledger_batches",
            "Batches this process has committed.",
            registry=self.registry,
        )
        batches.set_function(lambda: writer.batches)
        connected = Gauge(
            "tokenworks_ledger_connected",
            "1 while the books can be reached.",
            registry=self.registry,
        )
        connected.set_function(lambda: float(writer.is_connected))

    def exposition(self) -> bytes:
        """
        Return all figures in Prometheus' text format.
        """
        return generate_latest(self.registry)
