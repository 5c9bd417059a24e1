"""
Who is paid, and on which account.

Who a payee is never changes, so that is remembered. Whether it may be paid is read each time
before a hold, for all who ask meanwhile in one statement: a payee is on no spend path, so the
ledger would not stop a payment to one that was frozen a moment ago.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

from tokenworks.agents.payments.errors import PayeeNotActiveError, PayeeUnknownError
from tokenworks.agents.payments.legs import PAYEE_PURPOSES, CaptureAccounts
from tokenworks.agents.payments.ports import Parties
from tokenworks.agents.together import Together
from tokenworks.catalogue.chart_of_accounts import load_chart_of_accounts
from tokenworks.foundation.errors import NotFoundError
from tokenworks.identity.model import PLATFORM_ID, Party, PartyKind
from tokenworks.ledger.service import Ledger

PAYEES_REMEMBERED_MAX: Final = 65_536
TOGETHER_MAX: Final = 256


class Payees:
    """
    Payees and their accounts.
    """

    def __init__(self, parties: Parties, ledger: Ledger) -> None:
        self._parties = parties
        self._ledger = ledger
        self._stopped = Together(parties.stopped, askers_max=TOGETHER_MAX)
        self._known: OrderedDict[UUID, Party] = OrderedDict()

    async def payable(self, payee_id: UUID) -> Party:
        """
        Return a payee that may be paid.

        Raises:
            PayeeUnknownError: There is no such party.
            PayeeNotActiveError: It, or somebody above it, is frozen or closed.
        """
        party = await self._party(payee_id)
        if payee_id == PLATFORM_ID:
            return party  # never anything but active
        state = (await self._stopped.ask((payee_id,))).get(payee_id)
        if state is not None:
            raise PayeeNotActiveError(f"The payee is {state.value}.", param="pay_to")
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
        known = self._known.get(payee_id)
        if known is not None:
            self._known.move_to_end(payee_id)
            return known
        try:
            party = await self._parties.get_party(payee_id)
        except NotFoundError as error:
            message = f"There is no party {payee_id} to be paid."
            raise PayeeUnknownError(message, param="pay_to") from error
        self._known[payee_id] = party
        if len(self._known) > PAYEES_REMEMBERED_MAX:
            self._known.popitem(last=False)
        return party
