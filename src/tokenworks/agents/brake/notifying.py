"""
Tell owners' webhooks about reviews: an outbox, delivered at least once.

A message is put into the outbox by the transaction that opens or ends the review (``reviews``).
Whoever delivers takes it for ``LEASE`` in a transaction of its own, sends without one, and writes
down what became of it; when it dies in between, the next one tries again after the lease. An
attempt that is written down late changes nothing: the number of attempts has moved on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from tokenworks.agents.brake import outbox, review_store
from tokenworks.agents.brake.errors import InvalidWebhookError, WebhookNotFoundError
from tokenworks.agents.brake.model import Review
from tokenworks.agents.brake.ports import Sent, WebhookSender
from tokenworks.agents.brake.webhooks import (
    SECRET_BYTES,
    Delivery,
    Webhook,
    message_body,
    message_id_of,
    next_attempt_after,
    secret_text,
    signed_headers,
)
from tokenworks.foundation.clock import Clock
from tokenworks.postgres.pool import Pool
from tokenworks.supply.errors import SecretUnreadableError, UrlNotAllowedError
from tokenworks.supply.secrets import SecretBox
from tokenworks.supply.ssrf import Resolver, check_base_url, resolve_host

LEASE: Final = timedelta(seconds=60)
BATCH_MAX: Final = 20
DELIVERIES_SHOWN: Final = 20
GONE: Final = 410

_log = structlog.get_logger("tokenworks.webhooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    delivery: Delivery
    review: Review | None
    webhook: outbox.StoredWebhook | None


class Webhooks:
    """
    Know owners' webhooks and deliver what they are to be told.

    Args:
        pool: Connections to the database.
        clock: The time.
        box: Encrypts the secrets.
        sender: Posts messages; ``None``: this process only keeps the outbox.
        source: The hub as a URI, for the messages.
        resolve: Turns host names into addresses; replaced in tests.
        random_bytes: Makes the secrets; unpredictable outside tests.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        clock: Clock,
        box: SecretBox,
        sender: WebhookSender | None = None,
        source: str = "urn:tokenworks:hub",
        resolve: Resolver = resolve_host,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._box = box
        self._sender = sender
        self._source = source
        self._resolve = resolve
        self._random_bytes = random_bytes

    async def put(
        self, party_id: UUID, url: str, *, allow_private: bool, actor: str
    ) -> tuple[Webhook, str]:
        """
        Set where a party is told; return it with its secret, which is shown only now.

        Setting it again, even to the same URL, makes a new secret.

        Args:
            party_id: Whose webhook.
            url: ``https://host[:port][/path]``; ``http`` only with ``allow_private``.
            allow_private: The operator vouches for a private address and for plain http.
            actor: Who, as the books keep it.

        Raises:
            InvalidWebhookError: Malformed, or it leads where the hub may not go.
        """
        try:
            checked = await check_base_url(url, allow_private=allow_private, resolve=self._resolve)
        except UrlNotAllowedError as error:
            # The rules are those of suppliers' addresses, and so are the sentences.
            message = error.message.replace("supplier", "webhook")
            raise InvalidWebhookError(message, param="url") from error
        secret = secret_text(self._random_bytes(SECRET_BYTES))
        webhook = Webhook(
            party_id=party_id,
            url=checked.url,
            allow_private=allow_private,
            actor=actor,
            created_at=self._clock.now(),
        )
        sealed = self._box.encrypt(secret, owner_id=party_id)
        async with self._pool.connection() as connection:
            await outbox.put_webhook(connection, webhook, secret_encrypted=sealed)
        return webhook, secret

    async def get(self, party_id: UUID) -> tuple[Webhook, list[Delivery]]:
        """
        Return a party's webhook and the last messages to it, newest first.

        Raises:
            WebhookNotFoundError: It has none.
        """
        async with self._pool.connection() as connection:
            stored = await outbox.read_webhooks(connection, [party_id])
            deliveries = await outbox.deliveries_of(connection, party_id, count=DELIVERIES_SHOWN)
        if party_id not in stored:
            raise WebhookNotFoundError("This party has no webhook.")
        return stored[party_id].webhook, deliveries

    async def remove(self, party_id: UUID) -> None:
        """
        Tell a party no more.

        Raises:
            WebhookNotFoundError: It has none.
        """
        async with self._pool.connection() as connection:
            if not await outbox.delete_webhook(connection, party_id):
                raise WebhookNotFoundError("This party has no webhook.")

    async def deliver_due(self) -> int:
        """
        Try to deliver what is due, at most ``BATCH_MAX`` messages at once; return how many.
        """
        assert self._sender is not None, "only a process with a sender delivers"
        messages = await self._claim()
        await asyncio.gather(*(self._deliver(self._sender, message) for message in messages))
        return len(messages)

    async def _claim(self) -> Sequence[_Message]:
        now = self._clock.now()
        async with self._pool.connection() as connection:
            claimed = await outbox.claim(
                connection, count=BATCH_MAX, leased_until=now + LEASE, now=now
            )
            if not claimed:
                return ()
            webhooks = await outbox.read_webhooks(connection, {d.party_id for d in claimed})
            reviews = await review_store.read_reviews(connection, {d.review_id for d in claimed})
        return [
            _Message(
                delivery=delivery,
                review=reviews.get(delivery.review_id),
                webhook=webhooks.get(delivery.party_id),
            )
            for delivery in claimed
        ]

    async def _deliver(self, sender: WebhookSender, message: _Message) -> None:
        delivery = message.delivery
        sent = await self._send(sender, message)
        now = self._clock.now()
        is_over = message.webhook is None or sent.http_status == GONE
        again = None if is_over else next_attempt_after(delivery.attempts, now=now)
        state = "delivered" if sent.error is None else "given_up" if again is None else "waiting"
        async with self._pool.connection() as connection:
            await outbox.end_attempt(
                connection, delivery, sent, state=state, next_attempt_at=again or now
            )
        if sent.error is not None:
            _log.warning(
                "webhook_not_delivered",
                party_id=str(delivery.party_id),
                review_id=str(delivery.review_id),
                event_of_review=delivery.event,
                attempts=delivery.attempts,
                state=state,
                reason=sent.error,
            )

    async def _send(self, sender: WebhookSender, message: _Message) -> Sent:
        delivery, webhook = message.delivery, message.webhook
        if webhook is None or message.review is None:
            return Sent(http_status=None, error="the webhook was removed")
        try:
            secret = self._box.decrypt(webhook.secret_encrypted, owner_id=delivery.party_id)
        except SecretUnreadableError:
            return Sent(http_status=None, error="the stored secret cannot be opened")
        body = message_body(
            message.review, delivery.event, created_at=delivery.created_at, source=self._source
        )
        headers = signed_headers(
            secret,
            message_id=message_id_of(delivery.review_id, delivery.event),
            body=body,
            sent_at=self._now(),
        )
        return await sender.send(
            webhook.webhook.url,
            headers=headers,
            body=body,
            allow_private=webhook.webhook.allow_private,
        )

    def _now(self) -> datetime:
        return self._clock.now()
