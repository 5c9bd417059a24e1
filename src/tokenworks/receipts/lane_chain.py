"""
Check what stands between the receipts of one lane.

No position has two contents (``chain_forked``), each names the link of the one before
(``chain_broken``), time never runs back. A missing position is no error, because a reader owns
only some of a lane's receipts. Only valid receipts are compared, so that a forged one cannot put
a true one in doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from tokenworks.receipts.findings import Problem, ProblemCode, Verification
from tokenworks.receipts.model import link_after


def check_links(verifications: Sequence[Verification]) -> list[Verification]:
    """
    Add what is wrong between receipts that are right by themselves.

    The result has the order of the input. O(n log n).
    """
    problems: dict[int, list[Problem]] = {}
    notes: dict[int, list[Problem]] = {}
    valid = [index for index, one in enumerate(verifications) if one.ok and one.number is None]
    valid.sort(key=lambda index: _position(verifications[index]))
    for _, lane in groupby(valid, key=lambda index: _position(verifications[index])[:2]):
        earlier: int | None = None
        for index in lane:
            if earlier is not None:
                for found in _compare(verifications[earlier], verifications[index]):
                    is_remark = found.code is ProblemCode.NOT_CONSECUTIVE
                    (notes if is_remark else problems).setdefault(index, []).append(found)
            earlier = index
    return [
        replace(
            receipt,
            problems=(*receipt.problems, *problems.get(index, ())),
            notes=(*receipt.notes, *notes.get(index, ())),
        )
        for index, receipt in enumerate(verifications)
    ]


def _position(receipt: Verification) -> tuple[str, int, int]:
    assert receipt.issuer is not None, "a valid receipt names its issuer"
    assert receipt.lane is not None, "a valid receipt names its lane"
    assert receipt.sequence is not None, "a valid receipt names its place"
    return receipt.issuer, receipt.lane, receipt.sequence


def _compare(earlier: Verification, later: Verification) -> Iterable[Problem]:
    _, lane, place = _position(earlier)
    _, _, next_place = _position(later)
    if place == next_place:
        if _content(earlier) != _content(later):
            message = f"Position {place} of lane {lane} holds two different receipts."
            yield Problem(code=ProblemCode.CHAIN_FORKED, message=message)
        return
    if _time(later) < _time(earlier):
        message = f"Position {next_place} of lane {lane} is older than {place}."
        yield Problem(code=ProblemCode.TIME_RUNS_BACK, message=message)
    if next_place != place + 1:
        message = f"Positions {place + 1} to {next_place - 1} of lane {lane} are not here."
        yield Problem(code=ProblemCode.NOT_CONSECUTIVE, message=message)
    elif later.previous != _link(earlier):
        message = f"Position {next_place} of lane {lane} does not follow {place} as it is here."
        yield Problem(code=ProblemCode.CHAIN_BROKEN, message=message)


def _content(receipt: Verification) -> tuple[object, ...]:
    return receipt.root, receipt.previous, receipt.call_id, receipt.issued_at_s


def _time(receipt: Verification) -> int:
    assert receipt.issued_at_s is not None, "a valid receipt carries its time"
    return receipt.issued_at_s


def _link(receipt: Verification) -> bytes:
    assert receipt.previous is not None, "a valid receipt names the link before"
    assert receipt.root is not None, "a valid receipt names its root"
    return link_after(receipt.previous, receipt.root)
