"""
A local cap on spending: refuses before anything is signed.

It lives in one process and believes what sellers say was charged. What bounds an agent, over
processes and restarts, is its mandate at the hub.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tokenworks.sdk.errors import SpendCapError
from tokenworks.sdk.model import to_atomic, to_units


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reservation:
    """
    What one payment may cost, taken from the cap until it is known what it did cost.
    """

    amount: int


class SpendCap:
    """
    At most so much for one payment, and for all together; atomic over threads.

    Args:
        per_payment: In whole units, as text or ``Decimal``.
        total: For the life of this object; ``None``: only each payment is capped.
        asset: The one currency that may be spent.
    """

    def __init__(
        self,
        *,
        per_payment: Decimal | str | int,
        total: Decimal | str | int | None = None,
        asset: str = "USD",
    ) -> None:
        self.asset: Final = asset
        self._per_payment = to_atomic(per_payment)
        self._total = None if total is None else to_atomic(total)
        self._lock = threading.Lock()
        self._open: set[Reservation] = set()
        self._spent = 0
        self._reserved = 0

    @property
    def spent(self) -> Decimal:
        """
        Return what was charged, in whole units.
        """
        return to_units(self._spent)

    @property
    def reserved(self) -> Decimal:
        """
        Return what payments under way, or of unknown end, may still cost.
        """
        return to_units(self._reserved)

    def reserve(self, amount: int) -> Reservation:
        """
        Take an atomic amount from the cap, or refuse.

        Raises:
            SpendCapError: It is more than one payment may cost, or than is left.
        """
        with self._lock:
            left = self._per_payment
            if self._total is not None:
                left = min(left, self._total - self._spent - self._reserved)
            if amount > left:
                message = (
                    f"The seller asks for {to_units(amount)} {self.asset}, "
                    f"and the local cap leaves {to_units(left)}."
                )
                raise SpendCapError(message, asked=amount, left=left)
            reservation = Reservation(amount=amount)
            self._open.add(reservation)
            self._reserved += amount
            return reservation

    def conclude(self, reservation: Reservation, *, charged: int) -> None:
        """
        Turn a reservation into what was charged; 0 gives it back. A second time does nothing.

        More than was reserved counts too: a seller's claim never makes room.
        """
        with self._lock:
            if reservation in self._open:
                self._open.remove(reservation)
                self._reserved -= reservation.amount
                self._spent += max(0, charged)
