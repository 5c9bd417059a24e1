"""
Throwaway organisations, agents and mandates on a hub, opened by its API with an admin key.

For hubs only: the checks of ``authority.py`` need somebody who may revoke, delegate and approve.
Every attack gets an agent of its own, so that none stands in another's way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Final, Self, cast
from uuid import UUID

import httpx

from tokenworks.conformance.errors import AuditImpossibleError
from tokenworks.conformance.facilitator import ANSWER_TIMEOUT_S
from tokenworks.conformance.hub_rail import DECIMALS, hub_wallet
from tokenworks.conformance.model import JsonObject
from tokenworks.conformance.rails import Wallet

CURRENCY: Final = "USD"
PLENTY: Final = 100_000
"""How many payments a rich wallet can make."""
SECRET_BYTES: Final = 32
RULES: Final = ("velocity", "new_payee", "price_jump", "loop", "night", "burn_rate", "score")
"""Of the brake: off for attacks, which come in bursts, but where one is about them."""
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAnswer:
    """
    What the hub API said.
    """

    status: int
    document: JsonObject

    @property
    def is_done(self) -> bool:
        """
        Whether it was done.
        """
        return httpx.codes.is_success(self.status)

    @property
    def code(self) -> str:
        """
        The error code, or the status.
        """
        return str(self.document.get("code") or self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """
    An agent with its wallet and mandate.
    """

    name: str
    organisation: str
    wallet: Wallet

    @property
    def mandate_id(self) -> str:
        """
        The mandate that pays.
        """
        assert self.wallet.mandate is not None, "agents of the suite name theirs"
        return self.wallet.mandate


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReview:
    """
    A payment that waits for a person.
    """

    review_id: str
    digest: str
    resource: str  # names the address that is paid for


class HubBusiness:
    """
    Open what an attack needs.

    Args:
        url: The hub, without a door.
        key: An admin key of it.
        price: What one payment of the suite costs, in quanta.
        mint: Gives ids, which also set names apart.
        random_bytes: Gives wallets' keys.
        transport: Replaces the network.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        price: int,
        mint: Callable[[], UUID],
        random_bytes: Callable[[int], bytes],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._mint = mint
        self._price = price
        self._random_bytes = random_bytes
        self._client = httpx.AsyncClient(
            base_url=f"{url.rstrip('/')}/hub/v1/",
            headers={"authorization": f"Bearer {key}"},
            timeout=ANSWER_TIMEOUT_S,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    # ------------------------------------------------------------------ purse

    async def funded(self) -> Wallet:
        """
        Return the wallet of a new agent with money for many payments.
        """
        return (await self.agent(await self.organisation(PLENTY))).wallet

    async def for_one(self, amount: str) -> Wallet | None:
        """
        Return the wallet of a new agent with exactly so much money.
        """
        organisation = await self.organisation(0)
        await self.deposit(organisation, int(amount))
        return (await self.agent(organisation)).wallet

    # ------------------------------------------------------------------ opening

    async def organisation(self, payments: int) -> str:
        """
        Open a buyer with the money of so many payments; return its name.
        """
        name = f"audit-{self._mint()}"
        await self.must("parties", {"name": name, "kind": "buyer"})
        await self._brake(name, {rule: {"action": "off"} for rule in RULES})
        if payments:
            await self.deposit(name, payments * self._price)
        return name

    async def deposit(self, organisation: str, quanta: int) -> None:
        """
        Credit an organisation.
        """
        await self.must("deposits", {"party": organisation, "amount": to_text(quanta)})

    async def payee(self) -> str:
        """
        Open an organisation that is paid; return its id.
        """
        name = f"audit-{self._mint()}"
        made = await self.must("parties", {"name": name, "kind": "buyer"})
        return str(made["party_id"])

    async def payee_with_key(self) -> tuple[str, str]:
        """
        Open an organisation that is paid; return its id and a key of it.
        """
        payee = await self.payee()
        return payee, str((await self.must("keys", {"party": payee}))["secret"])

    async def agent(
        self,
        organisation: str,
        *,
        payments: int | None = None,
        parent: str | None = None,
        delegations: int = 0,
    ) -> Agent:
        """
        Open an agent with a wallet and a mandate.

        Args:
            organisation: Whose money it spends.
            payments: Its mandate's budget, in payments.
            parent: The mandate that is narrowed.
            delegations: How many levels may come below.
        """
        secret = self._random_bytes(SECRET_BYTES)
        name = f"audit-{self._mint()}"
        agent = {"name": name, "owner": organisation, "public_key": hub_wallet(secret).address}
        await self.must("agents", agent)
        body = self.mandate_body(name, payments=payments, parent=parent, delegations=delegations)
        made = await self.must("mandates", body)
        wallet = hub_wallet(secret, mandate=str(made["mandate_id"]))
        return Agent(name=name, organisation=organisation, wallet=wallet)

    async def hold_new_payees(self, organisation: str) -> bool:
        """
        Let a person look at every first payment to a payee; ``False``: the hub has no brake.
        """
        return await self._brake(organisation, {"new_payee": {"action": "hold", "above": "0"}})

    async def _brake(self, organisation: str, rules: JsonObject) -> bool:
        answer = await self.ask(
            "PUT", f"parties/{organisation}/brake", {"currency": CURRENCY, "rules": rules}
        )
        if answer.status == _NOT_FOUND:
            return False
        if not answer.is_done:
            message = f"The hub refused rules of the brake: {answer.code}."
            raise AuditImpossibleError(message)
        return True

    async def reviews(self, agent: str) -> list[PendingReview]:
        """
        Return what waits for a person.
        """
        answer = await self.ask("GET", f"reviews?agent={agent}")
        items = cast("list[JsonObject]", answer.document.get("items") or [])
        return [
            PendingReview(
                review_id=str(item["review_id"]),
                digest=str(item["digest"]),
                resource=str(item["resource"]),
            )
            for item in items
        ]

    async def approve(self, review_id: str, *, digest: str) -> HubAnswer:
        """
        Say yes to a payload.
        """
        return await self.ask("POST", f"reviews/{review_id}/approve", {"digest": digest})

    def mandate_body(
        self,
        agent: str,
        *,
        payments: int | None = None,
        parent: str | None = None,
        delegations: int = 0,
    ) -> JsonObject:
        """
        Return the request for a mandate.
        """
        terms: JsonObject = {"currency": CURRENCY, "delegations_max": delegations}
        if payments is not None:
            budget = {"window": "ever", "amount": to_text(payments * self._price)}
            terms["budgets"] = [budget]
        body: JsonObject = {"agent": agent, "terms": terms}
        return body if parent is None else {**body, "parent": parent}

    # ------------------------------------------------------------------ talking

    async def must(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """
        Ask for something that an honest admin gets.

        Raises:
            AuditImpossibleError: The hub refused.
        """
        answer = await self.ask("POST", path, body)
        if not answer.is_done:
            detail = answer.document.get("detail") or answer.document.get("message") or ""
            message = (
                f"The hub refused to open what the suite needs: {path}: {answer.code} {detail}"
            )
            raise AuditImpossibleError(message)
        return answer.document

    async def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
    ) -> HubAnswer:
        """
        Ask the hub API for anything, as its admin or with another key.

        Raises:
            AuditImpossibleError: It did not answer.
        """
        headers = {"idempotency-key": str(self._mint())} if method == "POST" else {}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        try:
            response = await self._client.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            message = f"The hub API does not answer: {type(error).__name__}."
            raise AuditImpossibleError(message) from error
        try:
            document = response.json()
        except ValueError:
            document = {}
        if not isinstance(document, dict):
            document = {}
        return HubAnswer(status=response.status_code, document=cast("JsonObject", document))


def to_text(quanta: int) -> str:
    """
    Return quanta as whole units.
    """
    return format(Decimal(quanta).scaleb(-DECIMALS), "f")
