"""
Webhooks: signed messages to a real receiver on this machine, out of a real outbox.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import pytest
from aiohttp import web
from standardwebhooks import Webhook as Verifier

from tests.postgres.brake_rig import DOLLAR, MARK_KEY, Rig, open_rig
from tokenworks.adapters.webhooks import sender as sender_module
from tokenworks.adapters.webhooks.sender import HttpWebhookSender
from tokenworks.agents.brake.errors import InvalidWebhookError, WebhookNotFoundError
from tokenworks.agents.brake.model import Action, Review
from tokenworks.agents.brake.notifying import Webhooks
from tokenworks.agents.brake.service import Brake
from tokenworks.agents.brake.webhooks import ATTEMPTS_MAX
from tokenworks.foundation.clock import FakeClock
from tokenworks.foundation.identifiers import IdentifierSource
from tokenworks.identity.model import PLATFORM_ID
from tokenworks.postgres.pool import Pool
from tokenworks.supply.secrets import SecretBox


@dataclass
class Receiver:
    """
    An owner's server: keeps what came, answers as it is told.
    """

    url: str = ""
    status: int = 204
    location: str = ""
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    came: list[tuple[dict[str, str], bytes]] = field(
        default_factory=list[tuple[dict[str, str], bytes]]
    )

    async def handle(self, request: web.Request) -> web.Response:
        """
        Keep one message.
        """
        self.came.append((dict(request.headers), await request.read()))
        await self.answers.wait()
        headers = {"location": self.location} if self.location else {}
        return web.Response(status=self.status, headers=headers, text="x" * 100_000)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """
    A real server on this machine.
    """
    receiver = Receiver()
    receiver.answers.set()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    receiver.url = f"http://{host}:{port}/hook"
    yield receiver
    receiver.answers.set()
    await runner.cleanup()


@pytest.fixture
async def rig(pool: Pool, clock: FakeClock, ids: IdentifierSource) -> Rig:
    """
    A brake that tells owners, and holds every new payee.
    """
    rig = await open_rig(pool, clock, ids)
    rig.brake = open_brake(rig)
    await rig.rules({"new_payee": {"action": "hold"}})
    return rig


def open_brake(rig: Rig) -> Brake:
    """
    A brake with webhooks over real HTTP, of a process of its own.
    """
    webhooks = Webhooks(
        rig.pool, clock=rig.clock, box=SecretBox(bytes(32)), sender=HttpWebhookSender()
    )
    return Brake(rig.pool, ledger=rig.limits, clock=rig.clock, mark_key=MARK_KEY, webhooks=webhooks)


async def held(rig: Rig) -> Review:
    """
    A payment that waits.
    """
    payment = rig.payment(quanta=DOLLAR)
    decision = await rig.brake.judge(payment)
    assert decision.action is Action.HOLD
    return await rig.brake.open_review(payment, decision)


async def subscribe(rig: Rig, url: str, party: UUID | None = None) -> str:
    """
    Set a webhook with the operator's leave for this machine; return its secret.
    """
    _, secret = await rig.brake.webhooks.put(
        party or rig.organisation, url, allow_private=True, actor="test"
    )
    return secret


async def test_owner_is_told_with_a_signed_event(rig: Rig, receiver: Receiver) -> None:
    """
    The message is a CloudEvent with the payload's digest, signed as Standard Webhooks verifies.
    """
    secret = await subscribe(rig, receiver.url)
    review = await held(rig)

    assert await rig.brake.deliver_webhooks() == 1
    assert await rig.brake.deliver_webhooks() == 0

    [(headers, body)] = receiver.came
    event = Verifier(secret).verify(body, {name.lower(): v for name, v in headers.items()})
    assert headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    assert event["specversion"] == "1.0"
    assert event["type"] == "io.tokenworks.review.opened"
    assert event["id"] == headers["webhook-id"]
    data = event["data"]
    assert data["digest"] == review.subject.digest.hex()
    assert (data["amount"], data["currency"], data["state"]) == ("1", "USD", "pending")
    assert data["asked"]["approve"] == f"/hub/v1/reviews/{review.review_id}/approve"
    assert data["reasons"][0]["rule"] == "new_payee"
    _, deliveries = await rig.brake.webhooks.get(rig.organisation)
    assert [(d.state, d.http_status, d.attempts) for d in deliveries] == [("delivered", 204, 1)]


async def test_end_of_a_review_is_told_too(rig: Rig, receiver: Receiver) -> None:
    """
    Approved, denied and expired: one message each, to the owner who asked.
    """
    await subscribe(rig, receiver.url, rig.team)
    first, second, _ = [await held(rig) for _ in range(3)]
    digest = first.subject.digest
    await rig.brake.approve(first.review_id, digest=digest, actor="a", person=rig.user)
    digest = second.subject.digest
    await rig.brake.deny(second.review_id, digest=digest, actor="a", person=PLATFORM_ID)
    rig.clock.advance(timedelta(hours=1))
    await rig.brake.expire_due()

    while await rig.brake.deliver_webhooks():
        pass

    kinds = [json.loads(body)["type"].rpartition(".")[2] for _, body in receiver.came]
    assert sorted(kinds) == ["approved", "denied", "expired", "opened", "opened", "opened"]


async def test_no_webhook_no_message(rig: Rig, receiver: Receiver) -> None:
    """
    Another organisation's review, and the agent's own webhook, are told nothing.
    """
    await subscribe(rig, receiver.url, rig.agent)
    await subscribe(rig, receiver.url, rig.shop)
    await held(rig)

    assert await rig.brake.deliver_webhooks() == 0


async def test_failed_delivery_comes_again_and_is_given_up(rig: Rig, receiver: Receiver) -> None:
    """
    The same message and id each time, later each time, so many times and no more.
    """
    secret = await subscribe(rig, receiver.url)
    receiver.status = 500
    await held(rig)

    for attempt in range(ATTEMPTS_MAX):
        assert await rig.brake.deliver_webhooks() == 1, attempt
        assert await rig.brake.deliver_webhooks() == 0, "not at once again"
        rig.clock.advance(timedelta(hours=7))

    assert await rig.brake.deliver_webhooks() == 0
    assert len({body for _, body in receiver.came}) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.came}) == ATTEMPTS_MAX
    _, [delivery] = await rig.brake.webhooks.get(rig.organisation)
    assert (delivery.state, delivery.attempts, delivery.next_attempt_at) == (
        "given_up",
        ATTEMPTS_MAX,
        None,
    )
    assert delivery.error == "it answered with status 500"
    assert secret not in repr(delivery)


async def test_receiver_that_recovers_gets_its_message(rig: Rig, receiver: Receiver) -> None:
    """
    A message that failed once is delivered after the pause.
    """
    await subscribe(rig, receiver.url)
    receiver.status = 503
    await held(rig)
    await rig.brake.deliver_webhooks()
    receiver.status = 200
    rig.clock.advance(timedelta(seconds=5))

    assert await rig.brake.deliver_webhooks() == 1
    _, [delivery] = await rig.brake.webhooks.get(rig.organisation)
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


async def test_redirect_is_not_followed(rig: Rig, receiver: Receiver) -> None:
    """
    A receiver cannot send the hub elsewhere.
    """
    await subscribe(rig, receiver.url)
    receiver.status, receiver.location = 307, receiver.url + "/elsewhere"
    await held(rig)

    await rig.brake.deliver_webhooks()

    assert len(receiver.came) == 1
    _, [delivery] = await rig.brake.webhooks.get(rig.organisation)
    assert (delivery.state, delivery.error) == ("waiting", "it redirects, which is not followed")


async def test_slow_receiver_is_left(
    rig: Rig, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An attempt ends by its time, whether or not the receiver ever answers.
    """
    monkeypatch.setattr(sender_module, "ATTEMPT_TIMEOUT_S", 0.2)
    await subscribe(rig, receiver.url)
    receiver.answers.clear()
    await held(rig)

    await rig.brake.deliver_webhooks()

    _, [delivery] = await rig.brake.webhooks.get(rig.organisation)
    assert (delivery.http_status, delivery.error) == (None, "no answer within 0.2 s")


async def test_two_workers_deliver_once(rig: Rig, receiver: Receiver) -> None:
    """
    Of two processes one sends; what a dead one took comes again after its lease.
    """
    await subscribe(rig, receiver.url)
    for _ in range(5):
        await held(rig)

    other = open_brake(rig)
    counts = await asyncio.gather(rig.brake.deliver_webhooks(), other.deliver_webhooks())

    assert sum(counts) == len(receiver.came) == 5


async def test_message_of_a_dead_worker_comes_again(rig: Rig, receiver: Receiver) -> None:
    """
    A message that was taken and never written down is tried after the lease.
    """
    await subscribe(rig, receiver.url)
    await held(rig)
    taken = await rig.brake.webhooks._claim()
    assert len(taken) == 1

    assert await rig.brake.deliver_webhooks() == 0
    rig.clock.advance(timedelta(seconds=60))
    assert await rig.brake.deliver_webhooks() == 1
    assert len(receiver.came) == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://93.184.216.34/hook", "needs https"),
        ("https://127.0.0.1/hook", "this machine itself"),
        ("https://10.0.0.7/hook", "a private or reserved network"),
        ("https://169.254.169.254/latest", "metadata service"),
        ("https://[::1]/hook", "this machine itself"),
        ("https://user:secret@93.184.216.34/", "no user name or password"),
        ("ftp://93.184.216.34/", "begins with https"),
        ("https://93.184.216.34/hook?token=1", "no query"),
        ("not a url", "printable ASCII"),
    ],
)
async def test_bad_addresses(rig: Rig, url: str, says: str) -> None:
    """
    A webhook leads to the open internet by https, unless the operator says otherwise.
    """
    with pytest.raises(InvalidWebhookError, match=says):
        await rig.brake.webhooks.put(rig.organisation, url, allow_private=False, actor="test")
    with pytest.raises(WebhookNotFoundError):
        await rig.brake.webhooks.get(rig.organisation)


async def test_address_is_judged_again_when_it_is_connected(rig: Rig, receiver: Receiver) -> None:
    """
    A name that leads elsewhere later (DNS rebinding) is not connected to.
    """
    await subscribe(rig, receiver.url)
    async with rig.pool.connection() as connection:
        await connection.execute("UPDATE agents.webhooks SET allow_private = false")
    await held(rig)

    await rig.brake.deliver_webhooks()

    assert receiver.came == []
    _, [delivery] = await rig.brake.webhooks.get(rig.organisation)
    assert delivery.error == "it leads to an address that is not allowed"


async def test_secret_is_encrypted_and_made_anew(rig: Rig, receiver: Receiver) -> None:
    """
    The secret is not in the database; setting the webhook again makes another one.
    """
    first, second = await subscribe(rig, receiver.url), await subscribe(rig, receiver.url)
    assert first != second
    async with rig.pool.connection() as connection:
        cursor = await connection.execute("SELECT secret_encrypted FROM agents.webhooks")
        [(sealed,)] = await cursor.fetchall()
    assert second.encode() not in bytes(sealed)


async def test_removed_webhook_gets_nothing(rig: Rig, receiver: Receiver) -> None:
    """
    What waits in the outbox is given up when the owner wants to be told no more.
    """
    await subscribe(rig, receiver.url)
    await held(rig)
    await rig.brake.webhooks.remove(rig.organisation)
    with pytest.raises(WebhookNotFoundError):
        await rig.brake.webhooks.remove(rig.organisation)

    assert await rig.brake.deliver_webhooks() == 1
    assert receiver.came == []
