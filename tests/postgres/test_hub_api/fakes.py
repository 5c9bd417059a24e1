"""
Stand-ins for what the hub API reads from the gateway and asks of suppliers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tokenworks.foundation.errors import NotFoundError
from tokenworks.foundation.money import USD
from tokenworks.gateway.ended_calls import CallFilter, CallRow, FlowView, SpendRow
from tokenworks.gateway.ports import ConnectFaultError, UpstreamRequest


@dataclass
class FakeCalls:
    """
    Calls kept in a list, newest first.
    """

    rows: list[CallRow] = field(default_factory=list)
    spend_rows: list[SpendRow] = field(default_factory=list)
    flow_view: FlowView = field(
        default_factory=lambda: FlowView(
            asset=USD, calls=0, tokens=0, charge_quanta=0, legs=(), last_calls=()
        )
    )
    asked: list[Any] = field(default_factory=list)

    async def list_calls(
        self, wanted: CallFilter, cursor: str | None, limit: int, /
    ) -> tuple[Sequence[CallRow], str | None]:
        """
        Filter as the gateway does.
        """
        self.asked.append(wanted)
        rows = [row for row in self.rows if self._matches(row, wanted)]
        rows.sort(key=lambda row: row.call_id, reverse=True)
        if cursor is not None:
            rows = [row for row in rows if str(row.call_id) < cursor]
        page = [replace(row, lines=(), attempts=()) for row in rows[:limit]]
        return page, str(page[-1].call_id) if len(rows) > limit else None

    async def get_call(self, call_id: UUID, /) -> CallRow | None:
        """
        Return the call of that id.
        """
        return next((row for row in self.rows if row.call_id == call_id), None)

    async def spend(
        self, *, by: str, since: datetime, until: datetime, party_id: UUID | None
    ) -> Sequence[SpendRow]:
        """
        Return what the test put there.
        """
        self.asked.append((by, since, until, party_id))
        return self.spend_rows

    async def flow(self, seconds: int, /) -> FlowView:
        """
        Return what the test put there.
        """
        self.asked.append(seconds)
        return self.flow_view

    def _matches(self, row: CallRow, wanted: CallFilter) -> bool:
        tree = {row.organisation_id, row.team_id, row.party_id}
        return all(
            [
                wanted.within_party_id is None or wanted.within_party_id in tree,
                wanted.model is None or wanted.model == row.model,
                wanted.status is None or wanted.status == row.status,
                wanted.supplier_id is None or wanted.supplier_id == row.supplier_id,
            ]
        )


@dataclass
class FakeReceipts:
    """
    Receipts that name their view.
    """

    missing: set[UUID] = field(default_factory=set)

    async def receipt_document(self, call_id: UUID, view: str, /) -> dict[str, object]:
        """
        Return a document of the right form.
        """
        if call_id in self.missing:
            message = "There is no receipt."
            raise NotFoundError(message)
        return {"receipt": {"view": view, "call_id": str(call_id)}, "jws": "a.b.c"}


class FakeAnswer:
    """
    A whole answer.
    """

    def __init__(self, status: int, content: bytes) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._content = content

    async def read(self, max_bytes: int) -> bytes:
        """
        Return the body.
        """
        return self._content[:max_bytes]

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield self._content

    def chunks(self) -> AsyncIterator[bytes]:
        """
        Return the body in one piece.
        """
        return self._chunks()

    async def close(self) -> None:
        """
        Do nothing.
        """


class FakeUpstream:
    """
    A supplier with one model; ``answers`` overrides by path, ``is_down`` refuses.
    """

    def __init__(self) -> None:
        self.requests: list[UpstreamRequest] = []
        self.answers: dict[str, FakeAnswer] = {}
        self.is_down = False

    async def send(self, request: UpstreamRequest) -> FakeAnswer:
        """
        Answer as a small OpenAI-compatible server.
        """
        self.requests.append(request)
        if self.is_down:
            message = "Nobody is there."
            raise ConnectFaultError(message)
        for path, answer in self.answers.items():
            if request.url.endswith(path):
                return answer
        if request.url.endswith("/models"):
            return FakeAnswer(200, msgspec.json.encode({"data": [{"id": "tiny"}]}))
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        body = {"choices": [{"message": {"content": "ok"}}], "usage": usage}
        return FakeAnswer(200, msgspec.json.encode(body))

    async def close(self) -> None:
        """
        Do nothing.
        """
