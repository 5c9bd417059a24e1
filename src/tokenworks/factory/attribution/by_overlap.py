"""
Divide metered energy among calls by overlap of their spans; pure.

At each moment the calls whose spans cover it get equal parts. It conserves, but it does not know
phases: a call with a long prompt and a short answer is given too little (docs/factory.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tokenworks.factory.attribution.model import (
    Attribution,
    CallEnergy,
    Method,
    Part,
    Span,
)
from tokenworks.factory.attribution.sharing import share
from tokenworks.factory.energy.validation import Meter


def attribute_spans(
    meter: Meter, spans: Sequence[Span], *, tell: Callable[[int], None] = lambda _: None
) -> Attribution:
    """
    Return what each call is given; cost is spans times the calls running at once.

    Args:
        meter: What was metered.
        spans: One a call.
        tell: Called with the percentage done, now and then.
    """
    events = sorted(
        [(span.start_us, 1, place) for place, span in enumerate(spans)]
        + [(span.end_us, 0, place) for place, span in enumerate(spans)]
    )
    given = [0] * len(spans)
    not_whole: set[int] = set()
    running: dict[int, None] = {}  # in the order of their starts
    inside_uj = 0
    since_us = meter.start_us
    for number, (at_us, is_start, place) in enumerate(events):
        if running and at_us > since_us:
            energy_uj = meter.energy_uj(since_us, at_us)
            inside_uj += energy_uj
            for one, part_uj in zip(running, share(energy_uj, [1] * len(running)), strict=True):
                given[one] += part_uj
            if not meter.is_covered(since_us, at_us):
                not_whole.update(running)
        since_us = at_us
        if is_start:
            running[place] = None
        else:
            del running[place]
        tell(100 * (number + 1) // len(events))
    meter_uj = meter.total_uj
    return Attribution(
        method=Method.OVERLAP_SHARE,
        calls=[
            CallEnergy(
                call=span.call,
                parts_uj={Part.OVERLAP: given[place]},
                tokens=span.prefill_tokens + span.decode_tokens,
                is_whole=place not in not_whole,
            )
            for place, span in enumerate(spans)
        ],
        meter_uj=meter_uj,
        unattributed_uj=meter_uj - sum(given),
        outside_uj=meter_uj - meter.unplaced_uj - inside_uj,
        unplaced_uj=meter.unplaced_uj,
    )
