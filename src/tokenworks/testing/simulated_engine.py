"""
SIMULATION: an engine with a known cost of every call, a meter beside it, and their logs.

The truth is assumed, not measured: a step takes ``a + b * batch + c * prefill tokens`` seconds;
decode draws the logistic power ``P0 + L / (1 + exp(-k (log2 batch - x0)))`` above idle, with the
coefficients of an H100 (300 W + 300 W, k 1, x0 4.2; ML.ENERGY's form); a prefill token costs
0.077 J, a little more with every token before it, and reading the cache costs by its size. The
attribution is not told any of that, and its own law (a sum of five terms) is another one.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tokenworks.factory.attribution.model import Span, Step, StepPhase, Work
from tokenworks.factory.energy.model import PowerSeries, Quantity, Reading

DEVICE: Final = "gpu0"
CODE: Final = "code"
CONVERSATION: Final = "conversation"

_START_US: Final = 1_767_225_600_000_000
_IDLE_W: Final = 300.0
_DECODE_W: Final = 300.0
_STEEPNESS: Final = 1.0
_MIDDLE: Final = 4.2
_STEP_S: Final = 0.012
_STEP_PER_CALL_S: Final = 0.000_15
_STEP_PER_PREFILL_TOKEN_S: Final = 0.000_12
_PREFILL_TOKEN_J: Final = 0.077
_PREFILL_PAIR_J: Final = 3e-6
_DECODE_PAIR_J: Final = 8e-6
_CHUNK_TOKENS: Final = 2_048
_BATCH_MAX: Final = 64
_PAUSE_US: Final = 3_000_000
_LONGEST_TOKENS: Final = 16_000


@dataclass(slots=True)
class _Call:
    name: str
    kind: str
    arrives_us: int
    prompt: int
    answer: int
    read: int = 0
    written: int = 0
    true_j: float = 0.0
    start_us: int = 0
    end_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """
    What was logged, and what nobody but the simulation knows.
    """

    steps: Sequence[Step]
    spans: Sequence[Span]
    true_j: Mapping[str, float]
    kinds: Mapping[str, str]
    powers_w: Sequence[tuple[int, int, float]] = field(repr=False)  # start, end, constant power

    def measure_counter(self, every_us: int = 100_000) -> PowerSeries:
        """
        Return a counter of energy, read now and then.
        """
        return _series(self._sample(every_us), Quantity.COUNTER, random.Random(0), noise=0.0)

    def measure_power(self, *, seed: int, every_us: int = 100_000, noise: float) -> PowerSeries:
        """
        Return the mean power since the last reading, each wrong by a normal relative error.
        """
        return _series(self._sample(every_us), Quantity.POWER, random.Random(seed), noise=noise)

    def _sample(self, every_us: int) -> list[tuple[int, float]]:
        samples: list[tuple[int, float]] = [(self.powers_w[0][0], 0.0)]
        energy_j, due_us = 0.0, self.powers_w[0][0] + every_us
        for start_us, end_us, power_w in self.powers_w:
            at_us = start_us
            while due_us <= end_us:
                energy_j += power_w * (due_us - at_us) / 1e6
                samples.append((due_us, energy_j))
                at_us, due_us = due_us, due_us + every_us
            energy_j += power_w * (end_us - at_us) / 1e6
        return samples


def simulate_engine(*, seed: int, calls: int, calls_per_s: float = 1.6) -> SimulatedRun:
    """
    Return one run of a mix of conversations and code, shaped like Azure's traces of 2023.

    Args:
        seed: Of everything random.
        calls: How many arrive.
        calls_per_s: How many arrive in a second, as a Poisson process.
    """
    chance = random.Random(seed)
    arriving = deque(_arrive(chance, calls, calls_per_s))
    everyone = list(arriving)
    waiting: deque[_Call] = deque()
    running: list[_Call] = []
    steps: list[Step] = []
    powers: list[tuple[int, int, float]] = [(_START_US, _START_US + _PAUSE_US, _IDLE_W)]
    now_us = _START_US + _PAUSE_US
    while arriving or waiting or running:
        while arriving and arriving[0].arrives_us <= now_us:
            waiting.append(arriving.popleft())
        while waiting and len(running) < _BATCH_MAX:
            running.append(waiting.popleft())
            running[-1].start_us = now_us
        if not running:
            powers.append((now_us, arriving[0].arrives_us, _IDLE_W))
            now_us = arriving[0].arrives_us
            continue
        step, power_w = _step(running, now_us, len(steps))
        steps.append(step)
        powers.append((step.start_us, step.end_us, power_w))
        now_us = step.end_us
        for call in running:
            call.end_us = now_us
        running = [call for call in running if call.written < call.answer]
    powers.append((now_us, now_us + _PAUSE_US, _IDLE_W))
    return SimulatedRun(
        steps=steps,
        spans=[
            Span(
                call=call.name,
                start_us=call.start_us,
                end_us=call.end_us,
                prefill_tokens=call.prompt,
                decode_tokens=call.answer,
                row=number,
            )
            for number, call in enumerate(everyone, start=2)
        ],
        true_j={call.name: call.true_j for call in everyone},
        kinds={call.name: call.kind for call in everyone},
        powers_w=powers,
    )


def _arrive(chance: random.Random, calls: int, calls_per_s: float) -> list[_Call]:
    at_us = _START_US + _PAUSE_US
    arriving: list[_Call] = []
    for number in range(calls):
        at_us += int(chance.expovariate(calls_per_s) * 1e6)
        kind = CODE if chance.random() < 0.3 else CONVERSATION
        # Medians below the traces' means (1,155 in, 211 out; 2,048 in, 28 out): they are skewed.
        prompt, answer = (1_500, 20) if kind == CODE else (800, 150)
        arriving.append(
            _Call(
                name=f"call-{number:05d}",
                kind=kind,
                arrives_us=at_us,
                prompt=_draw(chance, prompt),
                answer=_draw(chance, answer),
            )
        )
    return arriving


def _draw(chance: random.Random, median: int) -> int:
    return min(max(1, round(median * math.exp(chance.gauss(0, 0.8)))), _LONGEST_TOKENS)


def _step(running: Sequence[_Call], now_us: int, number: int) -> tuple[Step, float]:
    """
    Run one step, add to each call what it truly costs, and return the step with its power.
    """
    left = _CHUNK_TOKENS
    work: list[Work] = []
    costs_j: list[float] = []
    inside: list[_Call] = []
    for call in running:
        prefill = min(call.prompt - call.read, left)
        decode = int(call.read == call.prompt)
        if not call.read and not prefill:
            continue  # Admitted, but no part of it is in the engine yet.
        left -= prefill
        context = call.read + call.written
        inside.append(call)
        work.append(
            Work(
                call=call.name,
                prefill_tokens=prefill,
                decode_tokens=decode,
                context_tokens=context,
            )
        )
        costs_j.append(
            prefill * _PREFILL_TOKEN_J
            + _PREFILL_PAIR_J * prefill * (context + prefill / 2)
            + decode * _DECODE_PAIR_J * context
        )
        call.read += prefill
        call.written += decode
    prefills = sum(one.prefill_tokens for one in work)
    decoding = sum(one.decode_tokens for one in work)
    decode_s = (_STEP_S + _STEP_PER_CALL_S * decoding) if decoding else 0.0
    duration_us = round(1e6 * max(decode_s + _STEP_PER_PREFILL_TOKEN_S * prefills, _STEP_S / 2))
    if decoding:
        rise = 1 + math.exp(-_STEEPNESS * (math.log2(decoding) - _MIDDLE))
        each_j = _DECODE_W / rise * decode_s / decoding
        for place, one in enumerate(work):
            costs_j[place] += each_j * one.decode_tokens
    step_j = sum(costs_j) + _IDLE_W * duration_us / 1e6
    for call, cost_j in zip(inside, costs_j, strict=True):
        call.true_j += cost_j + _IDLE_W * duration_us / 1e6 / len(inside)
    phase = StepPhase.MIXED if prefills and decoding else StepPhase.DECODE
    if not decoding:
        phase = StepPhase.PREFILL
    step = Step(
        name=str(number),
        start_us=now_us,
        end_us=now_us + duration_us,
        phase=phase,
        work=work,
        row=number + 1,
    )
    return step, step_j / (duration_us / 1e6)


def _series(
    samples: Sequence[tuple[int, float]], quantity: Quantity, chance: random.Random, *, noise: float
) -> PowerSeries:
    readings: list[Reading] = []
    if quantity is Quantity.COUNTER:
        values = [(at_us, round(energy_j * 1e6)) for at_us, energy_j in samples]
    else:
        # The mean of an interval stands at its middle.
        values = [
            (
                (at_us + next_us) // 2,
                round(
                    (next_j - energy_j) / (next_us - at_us) * 1e12 * (1 + chance.gauss(0, noise))
                ),
            )
            for (at_us, energy_j), (next_us, next_j) in pairwise(samples)
        ]
    for at_us, value in values:
        readings.append(Reading(device=DEVICE, at_us=at_us, quantity=quantity, value=value))
    return PowerSeries(readings=readings)
