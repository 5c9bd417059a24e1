"""
The last minutes of the plant in a few figures; pure. Sums are whole microjoules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tokenworks.web.console.factory.live_model import Live

MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """
    What stands above the charts; ``None`` where nothing is known.
    """

    watts: float | None  # of the newest interval that is over and was metered
    watts_from: str | None  # when it began
    watts_until: str | None
    tokens_per_s: float | None  # of the newest interval that was divided
    joules_per_output_token: float | None  # of all divided energy, used or not
    energy_uj: int  # metered in the window
    divided_uj: int  # of it, in intervals that were divided
    unattributed_uj: int
    output_tokens: int
    coverage: float | None  # of the time since the first interval
    methods: tuple[str, ...]

    @property
    def energy_j(self) -> float:
        """
        Return what was metered.
        """
        return self.energy_uj / MICRO

    @property
    def unattributed_share(self) -> float | None:
        """
        Return the part of the divided energy that no call used.
        """
        return self.unattributed_uj / self.divided_uj if self.divided_uj else None


def to_summary(live: Live) -> Summary:
    """
    Return the figures of what the hub showed.
    """
    divided = [point for point in live.points if point.unattributed_uj is not None]
    metered = [point for point in live.points if point.is_complete and point.coverage > 0]
    divided_uj = sum(int(point.energy_uj) for point in divided)
    tokens = sum(point.output_tokens or 0 for point in divided)
    count = len(live.points)
    return Summary(
        watts=metered[-1].watts if metered else None,
        watts_from=metered[-1].start if metered else None,
        watts_until=metered[-1].end if metered else None,
        tokens_per_s=divided[-1].output_tokens_per_s if divided else None,
        joules_per_output_token=divided_uj / MICRO / tokens if tokens else None,
        energy_uj=sum(int(point.energy_uj) for point in live.points),
        divided_uj=divided_uj,
        unattributed_uj=sum(int(point.unattributed_uj or 0) for point in divided),
        output_tokens=tokens,
        coverage=sum(point.coverage for point in live.points) / count if count else None,
        methods=tuple(sorted({each for point in divided for each in point.methods})),
    )
