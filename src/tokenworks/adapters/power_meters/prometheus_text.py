"""
Read power from a Prometheus text, as NVIDIA's DCGM exporter writes it.

The counter of energy is taken when every device has it, else the power. Where GPUs are cut in
instances, the exporter repeats a GPU's figure for each of them: it is counted once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tokenworks.adapters.power_meters.moments import now_us
from tokenworks.factory.energy.model import Quantity, Reading
from tokenworks.factory.errors import PowerSourceError
from tokenworks.foundation.clock import Clock

FETCH_TIMEOUT_S: Final = 5.0
TEXT_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMetric:
    """
    A metric that tells power or energy.
    """

    name: str
    quantity: Quantity
    micro_per_unit: int  # microwatts or microjoules in one
    device_labels: Sequence[str]  # the first that is there names the device


_DCGM_LABELS: Final = ("UUID", "uuid", "gpu")
DCGM: Final = (
    PowerMetric(
        name="DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",  # millijoules since the driver was loaded
        quantity=Quantity.COUNTER,
        micro_per_unit=1_000,
        device_labels=_DCGM_LABELS,
    ),
    PowerMetric(
        name="DCGM_FI_DEV_POWER_USAGE",  # watts
        quantity=Quantity.POWER,
        micro_per_unit=1_000_000,
        device_labels=_DCGM_LABELS,
    ),
)


class PrometheusText:
    """
    Power from what an exporter answers.

    Args:
        clock: When a reading is taken, where the text has no time of its own.
        fetch: Returns the text.
        metrics: Which are understood, the best first.
    """

    def __init__(
        self, clock: Clock, fetch: Callable[[], str], metrics: Sequence[PowerMetric] = DCGM
    ) -> None:
        self._clock = clock
        self._fetch = fetch
        self._metrics = metrics

    def read(self) -> Sequence[Reading]:
        """
        Return one reading of each device.
        """
        at_us = now_us(self._clock)
        found: dict[str, dict[str, Reading]] = {metric.name: {} for metric in self._metrics}
        by_name = {metric.name: metric for metric in self._metrics}
        try:
            families = list(text_string_to_metric_families(self._fetch()))
        except ValueError as error:
            message = f"What the exporter answers is no Prometheus text: {error}"
            raise PowerSourceError(message) from error
        for sample in (one for family in families for one in family.samples):
            # The parser gives counters the suffix that OpenMetrics asks for; DCGM writes none.
            metric = by_name.get(sample.name) or by_name.get(sample.name.removesuffix("_total"))
            if metric is not None:
                reading = _to_reading(sample, metric, at_us)
                known = found[metric.name].setdefault(reading.device, reading)
                if known.value != reading.value:
                    message = f"{metric.name} has two values for {reading.device}."
                    raise PowerSourceError(message)
        devices = {device for readings in found.values() for device in readings}
        for readings in found.values():
            if readings and readings.keys() == devices:
                return list(readings.values())
        names = ", ".join(by_name)
        raise PowerSourceError(f"No metric has all devices; looked for {names}.")

    @property
    def counter_ranges_uj(self) -> Mapping[str, int]:
        """
        Return nothing: 64 bits of millijoules do not end.
        """
        return {}


def fetch_text(url: str) -> str:
    """
    Return what an exporter answers.

    Raises:
        PowerSourceError: When it does not, or says too much.
    """
    try:
        with httpx.stream("GET", url, timeout=FETCH_TIMEOUT_S) as response:
            response.raise_for_status()
            content = b""
            for piece in response.iter_bytes():
                content += piece
                if len(content) > TEXT_BYTES_MAX:
                    message = f"{url} answers with more than {TEXT_BYTES_MAX} bytes."
                    raise PowerSourceError(message)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"{url} does not answer: {error or type(error).__name__}"
        raise PowerSourceError(message) from error
    return content.decode("utf-8", "replace")


def _to_reading(sample: Sample, metric: PowerMetric, at_us: int) -> Reading:
    device = next((sample.labels[one] for one in metric.device_labels if one in sample.labels), "")
    if not device:
        labels = ", ".join(metric.device_labels)
        message = f"{metric.name} has a sample without a device (one of {labels})."
        raise PowerSourceError(message)
    is_number = math.isfinite(sample.value)
    return Reading(
        device=device,
        at_us=at_us if sample.timestamp is None else round(float(sample.timestamp) * 1_000_000),
        quantity=metric.quantity,
        value=round(sample.value * metric.micro_per_unit) if is_number else None,
        column=metric.name,
    )
