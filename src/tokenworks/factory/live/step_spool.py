"""
Decide which steps of an engine are kept, beside those that are there; pure.

Steps of one engine follow each other. What comes late or out of order is put in its place, and
what comes again counts once; both are told, with row and column. What overlaps another step is
refused: energy would be given twice. A step that is refused keeps no other one out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenworks.factory.attribution.model import Step
from tokenworks.foundation.limits import FACTORY_STEP_S_MAX

_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """
    What is said of a row that was sent.
    """

    row: int
    column: str
    text: str


@dataclass(slots=True, kw_only=True)
class StepsTaken:
    """
    What became of steps that were sent.
    """

    steps: list[Step] = field(default_factory=list[Step])  # kept
    repeated: int = 0  # there already, word by word
    remarks: list[Remark] = field(default_factory=list[Remark])  # kept all the same
    refused: list[Remark] = field(default_factory=list[Remark])


def take(known: Sequence[Step], sent: Sequence[Step], *, latest_us: int) -> StepsTaken:
    """
    Return which steps are kept.

    Args:
        known: That are kept already, around the time of those sent.
        sent: In the order in which they came, each with its row.
        latest_us: No step may end later.
    """
    taken = StepsTaken()
    order = sorted(((one.start_us, one.end_us, one) for one in known), key=lambda each: each[:2])
    before: Step | None = None
    for step in sent:
        text = _judge(step, latest_us) or _find_overlap(order, step)
        if text is not None and text[0] == "":
            taken.repeated += 1
            taken.remarks.append(Remark(row=step.row, column="step", text=text[1]))
        elif text is not None:
            taken.refused.append(Remark(row=step.row, column=text[0], text=text[1]))
        else:
            taken.steps.append(step)
            taken.remarks.extend(find_remarks(step, before))
            insort(order, (step.start_us, step.end_us, step), key=lambda each: each[:2])
            before = step
    return taken


def find_remarks(step: Step, before: Step | None) -> list[Remark]:
    """
    Return what is odd about a step after the one above it: its order, a number left out.
    """
    if before is None:
        return []
    if step.start_us < before.start_us:
        text = f"is out of order: before step {before.name} began; it is put in its place"
        return [Remark(row=step.row, column="start", text=text)]
    if step.name.isdecimal() and before.name.isdecimal():
        left_out = int(step.name) - int(before.name) - 1
        if left_out > 0:
            text = f"comes after {before.name}: {left_out} between are missing; send them too"
            return [Remark(row=step.row, column="step", text=text)]
    return []


def _judge(step: Step, latest_us: int) -> tuple[str, str] | None:
    if step.end_us - step.start_us > FACTORY_STEP_S_MAX * _US:
        return "end", f"is more than {FACTORY_STEP_S_MAX} s after the start"
    if step.end_us > latest_us:
        return "end", "is more than 5 minutes ahead of the hub; check the engine's clock"
    return None


def _find_overlap(order: Sequence[tuple[int, int, Step]], step: Step) -> tuple[str, str] | None:
    """
    Return the fault of a step among others; with an empty column it is there already.
    """
    place = bisect_left(order, (step.start_us,), key=lambda each: each[:1])
    for near in order[max(place - 1, 0) : place + 2]:
        other = near[2]
        if other.start_us >= step.end_us or other.end_us <= step.start_us:
            continue
        if _is_same(step, other):
            return "", f"{step.name} is there already, word by word; counted once"
        if (step.name, step.start_us) == (other.name, other.start_us):
            return "step", f"{step.name} is there already, and said something else"
        text = (
            f"overlaps step {other.name}: steps of one engine follow each other;"
            " engines that share a meter need one log"
        )
        return "start", text
    return None


def _is_same(one: Step, other: Step) -> bool:
    return (one.name, one.start_us, one.end_us, one.phase, list(one.work)) == (
        other.name,
        other.start_us,
        other.end_us,
        other.phase,
        list(other.work),
    )
