"""
Ask the hub API, with the key of whoever looks.

What can go wrong is six things to a page: the key is refused, the role may not see this,
the thing is not there, the hub will not do it, it asks to wait, it does not answer as it should.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import httpx
import msgspec

from tokenworks.foundation.errors import (
    ConflictError,
    ForbiddenError,
    LimitExceededError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from tokenworks.web.console.model import (
    Balance,
    Call,
    CallPage,
    Document,
    Entry,
    EntryList,
    Flow,
    PricePage,
    PriceRow,
    ReceiptDocument,
    TrialBalance,
    Whoami,
)

TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 32
RETRY_AFTER_S_DEFAULT: Final = 2.0
RETRY_AFTER_S_MAX: Final = 60.0

WILL_NOT: Final = frozenset({400, 402, 409, 413, 422})
"""Answers of a hub that understood, and says why it will not."""

Answer = TypeVar("Answer")


class HubUnreachableError(UnavailableError):
    """
    The hub did not answer, or not as a hub does.
    """

    code = "hub_unreachable"


class Hub:
    """
    The hub API as the console needs it; each method takes the reader's key.

    Args:
        url: The hub's address, without a trailing slash.
        transport: Replaces the network in tests.
    """

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT_S,
            transport=transport,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=False,  # a proxy of the environment must never see a key
        )

    async def close(self) -> None:
        """
        Close the connections.
        """
        await self._http.aclose()

    async def whoami(self, key: str) -> Whoami:
        """
        Return whose key it is.
        """
        return await self.get(Whoami, key, "/hub/v1/whoami")

    async def flow(self, key: str, seconds: int) -> Flow:
        """
        Return what flowed in the last ``seconds``; admins only.
        """
        return await self.get(Flow, key, "/hub/v1/flow", seconds=seconds)

    async def calls(self, key: str, *, limit: int, since: str | None = None) -> CallPage:
        """
        Return the newest calls the key may see.
        """
        return await self.get(CallPage, key, "/hub/v1/calls", limit=limit, since=since)

    async def call(self, key: str, call_id: str) -> Call:
        """
        Return one call with its lines and attempts.
        """
        return await self.get(Call, key, f"/hub/v1/calls/{call_id}")

    async def receipt(self, key: str, call_id: str) -> ReceiptDocument:
        """
        Return a call's receipt in the key's view.
        """
        return msgspec.convert(await self.receipt_document(key, call_id), ReceiptDocument)

    async def receipt_document(self, key: str, call_id: str) -> Document:
        """
        Return a call's receipt as it can be saved and verified.
        """
        path = f"/hub/v1/receipts/{call_id}"
        document = await self.get(Document, key, path)
        if not (isinstance(document.get("receipt"), dict) and isinstance(document.get("jws"), str)):
            raise self._strange(path)
        return document

    async def entries(self, key: str, call_id: str) -> tuple[Entry, ...]:
        """
        Return every entry of a call; admins only.
        """
        answer = await self.get(EntryList, key, f"/hub/v1/ledger/entries/{call_id}")
        return answer.items

    async def balance(self, key: str) -> Balance:
        """
        Return what the key's organisation has.
        """
        return await self.get(Balance, key, "/hub/v1/balance")

    async def trial_balance(self, key: str) -> TrialBalance:
        """
        Return whether the books balance; admins only.
        """
        return await self.get(TrialBalance, key, "/hub/v1/ledger/trial-balance")

    async def first_price(self, key: str) -> PriceRow | None:
        """
        Return something that can be called, for the line a newcomer is shown.
        """
        page = await self.get(PricePage, key, "/hub/v1/prices", limit=1)
        return page.items[0] if page.items else None

    async def published_keys(self) -> Document:
        """
        Return the public keys of receipts.
        """
        return await self.get(Document, None, "/.well-known/jwks.json")

    async def get(
        self, kind: type[Answer], key: str | None, path: str, **query: str | int | None
    ) -> Answer:
        """
        Return what the hub answers at a path, as a kind of thing.

        Raises:
            TokenworksError: As the module says.
        """
        params = {name: value for name, value in query.items() if value is not None}
        return await self._ask(kind, key, self._http.build_request("GET", path, params=params))

    async def post(
        self,
        kind: type[Answer],
        key: str,
        path: str,
        content: Mapping[str, object],
        *,
        idempotency_key: str,
    ) -> Answer:
        """
        Ask the hub to do something, once for each idempotency key.

        Raises:
            TokenworksError: As the module says; ``ConflictError`` when the hub will not do it.
        """
        headers = {"idempotency-key": idempotency_key}
        request = self._http.build_request("POST", path, json=dict(content), headers=headers)
        return await self._ask(kind, key, request)

    async def _ask(self, kind: type[Answer], key: str | None, request: httpx.Request) -> Answer:
        path = request.url.path
        if key:
            request.headers["authorization"] = f"Bearer {key}"
        try:
            response = await self._http.send(request)
        except httpx.HTTPError as error:
            message = f"The hub at {self.url} does not answer."
            raise HubUnreachableError(message, retry_after_s=RETRY_AFTER_S_DEFAULT) from error
        if not response.is_success:
            raise self._refusal(response, path)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._strange(path) from error

    def _refusal(self, response: httpx.Response, path: str) -> Exception:
        detail = _detail_of(response)
        match response.status_code:
            case httpx.codes.UNAUTHORIZED:
                return UnauthenticatedError(detail or "The hub does not accept this key.")
            case httpx.codes.FORBIDDEN:
                return ForbiddenError(detail or "This key may not see that.")
            case httpx.codes.NOT_FOUND:
                return NotFoundError(detail or "There is nothing here that this key may see.")
            case httpx.codes.TOO_MANY_REQUESTS:
                return LimitExceededError(
                    detail or "The hub asks to wait.", retry_after_s=_retry_after_of(response)
                )
            case httpx.codes.SERVICE_UNAVAILABLE:
                return HubUnreachableError(
                    detail or f"The hub at {self.url} is not ready.",
                    retry_after_s=_retry_after_of(response),
                )
            case status if status in WILL_NOT and detail:
                return ConflictError(detail)
            case _:
                return self._strange(path)

    def _strange(self, path: str) -> HubUnreachableError:
        message = f"{self.url} did not answer {path} as a Tokenworks hub does."
        return HubUnreachableError(message, retry_after_s=RETRY_AFTER_S_DEFAULT)


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def _detail_of(response: httpx.Response) -> str:
    try:
        return msgspec.json.decode(response.content, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _retry_after_of(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    seconds = float(text) if text.isascii() and text.isdigit() else RETRY_AFTER_S_DEFAULT
    return min(max(seconds, RETRY_AFTER_S_DEFAULT), RETRY_AFTER_S_MAX)
