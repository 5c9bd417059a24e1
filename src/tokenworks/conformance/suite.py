"""
Run the checks against one facilitator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from tokenworks.conformance import amounts, authority, escrows, money, refusals, wire
from tokenworks.conformance.errors import AuditImpossibleError
from tokenworks.conformance.ground import Ground
from tokenworks.conformance.model import (
    Check,
    Finding,
    Group,
    Outcome,
    Report,
    failed,
    survived,
)

CHECKS: Final[tuple[Check, ...]] = (
    *money.CHECKS,
    *refusals.CHECKS,
    *amounts.CHECKS,
    *authority.CHECKS,
    *escrows.CHECKS,
    *wire.CHECKS,
)
"""All checks in the order in which they run: the one that may end a process is the last."""


class Listener(Protocol):
    """
    Who is told how an audit goes.
    """

    def began(self, check: Check, *, number: int, of: int) -> None:
        """
        Hear that a check begins.
        """
        ...

    def ended(self, finding: Finding) -> None:
        """
        Hear a verdict.
        """
        ...


async def audit(
    ground: Ground,
    checks: Sequence[Check],
    *,
    listener: Listener | None = None,
) -> Report:
    """
    Attack a facilitator and return what came of it.

    Raises:
        AuditImpossibleError: An honest payment does not go through before the first attack: then
            no refusal means anything.
    """
    started_at = ground.clock.now()
    if reason := await pay_honestly(ground, "before"):
        message = f"An honest payment does not go through: {reason}."
        raise AuditImpossibleError(message)
    findings: list[Finding] = []
    planned = (*checks, STILL_SELLS)
    for number, check in enumerate(planned, start=1):
        if listener is not None:
            listener.began(check, number=number, of=len(planned))
        finding = await _run(check, ground)
        findings.append(finding)
        if listener is not None:
            listener.ended(finding)
    await pay_honestly(ground, "after")
    return Report(
        target=ground.facilitator.url,
        network=ground.sale.network,
        scheme=ground.sale.scheme,
        started_at=started_at,
        in_parallel=ground.in_parallel,
        findings=tuple(findings),
    )


async def pay_honestly(ground: Ground, when: str) -> str:
    """
    Pay as a seller and a payer of good faith do; return why it failed, or nothing.
    """
    order = ground.order(await ground.purse.funded(), ground.sale_at(f"honest-{when}"))
    verified = await ground.facilitator.verify(order)
    if not verified.is_valid:
        return f"not verified: {verified.reason}"
    settled = await ground.facilitator.settle(order)
    return "" if settled.is_settled else f"not settled: {settled.reason}"


async def still_sells(ground: Ground) -> Outcome:
    """
    Pay honestly after everything.
    """
    reason = await pay_honestly(ground, "after")
    if reason:
        return failed("Honest payments no longer go through after the attacks.", reason=reason)
    return survived("An honest payment went through after the attacks.")


STILL_SELLS: Final = Check(
    check_id="still-sells",
    group=Group.MONEY,
    proves="Whoever is honest is served as before, after all attacks.",
    attack=still_sells,
)
"""The end of every audit."""


def choose(checks: Sequence[Check], only: Sequence[str]) -> tuple[Check, ...]:
    """
    Return the checks with these ids; all without any.

    Raises:
        AuditImpossibleError: There is no check of that name.
    """
    known = {check.check_id for check in checks}
    if unknown := [name for name in only if name not in known]:
        message = f"There is no check {', '.join(unknown)}; known: {', '.join(sorted(known))}."
        raise AuditImpossibleError(message)
    return tuple(check for check in checks if not only or check.check_id in only)


async def _run(check: Check, ground: Ground) -> Finding:
    started_s = ground.clock.monotonic_s()
    try:
        outcome = await check.attack(ground)
    except AuditImpossibleError as error:
        outcome = failed(f"Could not be tried: {error.message}")
    return Finding(
        check_id=check.check_id,
        group=check.group,
        proves=check.proves,
        outcome=outcome,
        took_ms=round((ground.clock.monotonic_s() - started_s) * 1_000),
    )
