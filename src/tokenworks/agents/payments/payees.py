"""
Who is paid, and on which account.

Facts about a payee are remembered for a few seconds, as those about an API key are: whoever was
frozen a moment ago may still be paid for so long. Nothing is spent by that.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

from tokenworks.agents.payments.errors import PayeeNotActiveError, PayeeUnknownError
from tokenworks.agents.payments.legs import PAYEE_PURPOSES, CaptureAccounts
from tokenworks.agents.payments.ports import Parties
from tokenworks.catalogue.chart_of_accounts import load_chart_of_accounts
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.errors import NotFoundError
from tokenworks.identity.model import PLATFORM_ID, Party, PartyKind, PartyState
from tokenworks.ledger.service import Ledger

PAYEES_REMEMBERED_MAX: Final = 65_536
REMEMBERED_S: Final = 5.0


class Payees:
    """
    Payees and their accounts.
    """

    def __init__(self, parties: Parties, ledger: Ledger, clock: Clock) -> None:
        self._parties = parties
        self._ledger = ledger
        self._clock = clock
        self._known: OrderedDict[UUID, tuple[float, Party]] = OrderedDict()

    async def payable(self, payee_id: UUID) -> Party:
        """
        Return a payee that may be paid.

        Raises:
            PayeeUnknownError: There is no such party.
            PayeeNotActiveError: It is frozen or closed.
        """
        party = await self._party(payee_id)
        if party.state is not PartyState.ACTIVE:
            raise PayeeNotActiveError(f"The payee is {party.state.value}.", param="pay_to")
        return party

    async def owners(self, payee_id: UUID) -> frozenset[UUID]:
        """
        Return a payee and its organisation.
        """
        party = await self._party(payee_id)
        return frozenset({party.party_id, party.organisation_id})

    async def accounts(self, payee_id: UUID, currency: str) -> CaptureAccounts:
        """
        Return where a capture's transfers go, whatever the payee's state: a hold is a promise.
        """
        party = await self._party(payee_id)
        purpose = PAYEE_PURPOSES[party.kind]
        owner_id = party.organisation_id if party.kind is PartyKind.BUYER else party.party_id
        limit = f"LIMIT.{currency}"
        account = self._account
        return CaptureAccounts(
            payee=await account(owner_id, purpose, currency),
            is_client_money=load_chart_of_accounts()[purpose].is_client_money,
            own_funds=await account(PLATFORM_ID, "own_funds", currency),
            safeguarded=await account(PLATFORM_ID, "safeguarded", currency),
            money_limit_spent=await account(PLATFORM_ID, "limit_spent", limit),
            payments_spent=await account(PLATFORM_ID, "limit_spent", "LIMIT.PAYMENTS"),
        )

    async def _account(self, party_id: UUID, purpose: str, asset: str) -> int:
        known = self._ledger.known_account(party_id, purpose, asset)
        return known if known is not None else await self._ledger.account(party_id, purpose, asset)

    async def _party(self, payee_id: UUID) -> Party:
        now_s = self._clock.monotonic_s()
        known = self._known.get(payee_id)
        if known is not None and now_s - known[0] < REMEMBERED_S:
            return known[1]
        try:
            party = await self._parties.get_party(payee_id)
        except NotFoundError as error:
            message = f"There is no party {payee_id} to be paid."
            raise PayeeUnknownError(message, param="pay_to") from error
        self._known[payee_id] = (now_s, party)
        self._known.move_to_end(payee_id)
        if len(self._known) > PAYEES_REMEMBERED_MAX:
            self._known.popitem(last=False)
        return party
