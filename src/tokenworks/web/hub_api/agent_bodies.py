"""
What comes in about agents and mandates.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self
from uuid import UUID

from pydantic import Field, model_validator

from tokenworks.agents.mandates.ap2_signed import SIGNED_CHARACTERS_MAX
from tokenworks.agents.mandates.model import TERMS_LIST_MAX, Window
from tokenworks.web.hub_api.bodies import Body, DecimalIn, NameOrId, NewName, PageQuery, ShortText

MomentText = Annotated[str, Field(min_length=1, max_length=40, examples=["2026-12-31T12:00:00Z"])]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[list[Word], Field(min_length=1, max_length=TERMS_LIST_MAX)]
Address = Annotated[str, Field(min_length=1, max_length=100)]
LIMITS_MAX: Final = len(Window)


class MoneyLimitIn(Body):
    """
    At most so much money in each window.
    """

    window: Window
    amount: DecimalIn


class CountLimitIn(Body):
    """
    At most so many payments in each window.
    """

    window: Window
    payments: Annotated[int, Field(ge=1, le=2**62)]


class TermsIn(Body):
    """
    What a mandate allows; what is left out is not narrowed.
    """

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    amount_min: DecimalIn | None = None
    amount_max: DecimalIn | None = None
    budgets: Annotated[tuple[MoneyLimitIn, ...], Field(max_length=LIMITS_MAX)] = ()
    counts: Annotated[tuple[CountLimitIn, ...], Field(max_length=LIMITS_MAX)] = ()
    payee_budgets: Annotated[tuple[MoneyLimitIn, ...], Field(max_length=LIMITS_MAX)] = ()
    payees: Annotated[list[NameOrId], Field(min_length=1, max_length=TERMS_LIST_MAX)] | None = None
    instruments: Words | None = None
    providers: Words | None = None
    not_before: MomentText | None = None
    not_after: MomentText | None = None
    reference: Word | None = None
    tools: Words | None = None
    models: Words | None = None
    delegations_max: Annotated[int, Field(ge=0, le=100)] = 0


class AgentIn(Body):
    """
    A new agent below its owner; without a key it gets a wallet later.
    """

    name: NewName
    owner: NameOrId
    public_key: Address | None = None
    label: ShortText = ""


class WalletIn(Body):
    """
    A public key that is to speak for an agent.
    """

    public_key: Address
    label: ShortText = ""


class MandateIn(Body):
    """
    A mandate to be issued.
    """

    agent: NameOrId
    terms: TermsIn
    parent: UUID | None = None
    label: ShortText = ""
    expires_at: MomentText | None = None


class DelegationIn(Body):
    """
    A delegation as a wallet signed it.
    """

    jws: Annotated[str, Field(min_length=1, max_length=300_000)]


class RaiseIn(Body):
    """
    A budget that is to be larger.
    """

    window: Window
    amount: DecimalIn


class Ap2In(Body):
    """
    An open payment mandate of AP2, all claims disclosed, and who its merchants are here.

    As it was signed (``sd_jwt``, with the ``issuer_key`` that must have signed it), or as claims
    alone (``mandate``), whose signature nobody checks.
    """

    agent: NameOrId
    mandate: dict[str, Any] | None = None
    sd_jwt: Annotated[str, Field(max_length=SIGNED_CHARACTERS_MAX)] | None = None
    issuer_key: dict[str, Any] | None = None
    payees: Annotated[dict[str, NameOrId], Field(max_length=TERMS_LIST_MAX)] = Field(
        default_factory=dict[str, NameOrId]
    )
    parent: UUID | None = None
    label: ShortText = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.mandate is None) == (self.sd_jwt is None):
            message = "give either mandate or sd_jwt"
            raise ValueError(message)
        if self.issuer_key is not None and self.sd_jwt is None:
            message = "issuer_key checks an sd_jwt; claims alone have no signature"
            raise ValueError(message)
        return self


class AgentQuery(PageQuery):
    """
    Which agents.
    """

    owner: NameOrId | None = None


class MandateQuery(PageQuery):
    """
    Which mandates.
    """

    agent: NameOrId | None = None
