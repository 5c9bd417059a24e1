"""
SIMULATION of attribution: ``python -m benchmarks.factory.attribution [--seeds N] [--calls N]``.

Each method gives the calls of a simulated engine energy from its meter; the truth is the
simulation's own (``tokenworks.testing.simulated_engine``). Printed is the error of the median
call, and the share of code (long prompts, short answers) beside its true share.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import mean, median

from rich.console import Console
from rich.table import Table

from tokenworks.factory.attribution.by_overlap import attribute_spans
from tokenworks.factory.attribution.by_step import attribute_steps
from tokenworks.factory.attribution.model import Attribution
from tokenworks.factory.energy.model import PowerSeries, Rules
from tokenworks.factory.energy.validation import Meter, validate
from tokenworks.testing.simulated_engine import CODE, SimulatedRun, simulate_engine

RATES = (0.8, 1.6, 3.2)
NOISE = 0.02
INPUT_WEIGHT = 0.25


def main() -> None:
    """
    Print the errors of each method, by load and seed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=600)
    arguments = parser.parse_args()
    table = Table(
        "calls/s", "mean batch", "seed", "meter", "method", "sum", "error of the median call",
        "p90", "code share", "true", title="SIMULATION, not a measurement of any machine",
    )  # fmt: skip
    for rate in RATES:
        for seed in range(1, arguments.seeds + 1):
            run = simulate_engine(seed=seed, calls=arguments.calls, calls_per_s=rate)
            batch = mean(len(step.work) for step in run.steps)
            meters = {
                "counter 100 ms": run.measure_counter(),
                f"watts 100 ms, {NOISE:.0%} noise": run.measure_power(seed=seed, noise=NOISE),
            }
            for meter_name, series in meters.items():
                for method, given in divide(run, series).items():
                    table.add_row(
                        f"{rate}", f"{batch:.1f}", str(seed), meter_name, method,
                        *describe(run, given),
                    )  # fmt: skip
    Console(width=160).print(table)


def divide(run: SimulatedRun, series: PowerSeries) -> Mapping[str, Mapping[str, float]]:
    """
    Return what each method gives each call, in joules.
    """
    meter = validate(series, Rules())
    weights = {
        span.call: INPUT_WEIGHT * span.prefill_tokens + span.decode_tokens for span in run.spans
    }
    scale = meter.total_uj / 1e6 / sum(weights.values())
    return {
        "step and phase": joules(attribute_steps(meter, run.steps).attribution),
        "overlap share": joules(attribute_spans(meter, run.spans)),
        "token weights": {call: weight * scale for call, weight in weights.items()},
        "snapshots": snapshots(meter, run),
    }


def joules(attribution: Attribution) -> Mapping[str, float]:
    """
    Return what calls were given.
    """
    return {call.call: call.total_uj / 1e6 for call in attribution.calls}


def snapshots(meter: Meter, run: SimulatedRun) -> Mapping[str, float]:
    """
    Return the whole meter's difference over each call, as naive counters do.
    """
    return {span.call: meter.energy_uj(span.start_us, span.end_us) / 1e6 for span in run.spans}


def describe(run: SimulatedRun, given: Mapping[str, float]) -> list[str]:
    """
    Return sum against truth, errors, and code's share beside its true one.
    """
    truth = run.true_j
    errors = sorted(abs(given[call] / truth[call] - 1) for call in truth)
    code = [call for call, kind in run.kinds.items() if kind == CODE]
    share = sum(given[call] for call in code) / sum(given.values())
    true_share = sum(truth[call] for call in code) / sum(truth.values())
    return [
        f"{sum(given.values()) / sum(truth.values()):.3f}",
        f"{median(errors):.2%}",
        f"{errors[len(errors) * 9 // 10]:.2%}",
        f"{share:.3f}",
        f"{true_share:.3f}",
    ]


if __name__ == "__main__":
    main()
