"""
Wallets buy calls without an account: paid by a signature, at the door that sells them.

The door is asked as a client asks it. What its payment may be is told by the model of payments,
what the call costs by that of calls.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from tests.simulation.simulator.auditor import PLATFORM
from tests.simulation.simulator.calls import Call, draw_call
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.naive_prices import most
from tests.simulation.simulator.operations.call_operations import finish
from tests.simulation.simulator.operations.mandate_operations import choose, publish
from tests.simulation.simulator.operations.naive_payments import (
    NaivePayment,
    NaivePayments,
    Signed,
    know_payee,
    require,
)
from tests.simulation.simulator.operations.payment_operations import (
    Wish,
    known_code,
    learn,
    placements_of,
    show,
    show_new,
)
from tests.simulation.simulator.operations.payment_signing import (
    empty_requirements,
    sign_payment,
)
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import USD_ID, Payee
from tokenworks.agents.payments.held import HeldPayment
from tokenworks.foundation.errors import TokenworksError
from tokenworks.gateway.open_call import OpenCall, Quoted
from tokenworks.gateway.service import Gateway
from tokenworks.identity.model import Principal
from tokenworks.ledger.model import Placement
from tokenworks.sdk.signing import payment_id_of
from tokenworks.web.x402_api.selling import CHAT_PATH, STREAM_COMMENT, SellingDoor

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = "hub.example"
URL = f"http://{HOST}{CHAT_PATH}"
SELLER = Payee(PLATFORM, PLATFORM, (PLATFORM, "platform_revenue", USD_ID))
CHOICES = 4
"""So often a payer is looked for whom nothing keeps from buying here."""
DOOR_CODES = {
    "payment_already_claimed": "call_in_flight",
    "payment_already_settled": "call_already_settled",
}
"""What the door says instead of a payment's own refusals."""
Message = MutableMapping[str, Any]


class WatchedGateway:
    """
    The gateway, which tells of the call that is opened for a payment.
    """

    def __init__(self, gateway: Gateway, call: WalletCall) -> None:
        self._gateway = gateway
        self._call = call

    def __getattr__(self, name: str) -> object:
        """
        Do everything else as the gateway does.
        """
        return getattr(self._gateway, name)

    def open_held(self, quoted: Quoted, principal: Principal, held: HeldPayment) -> OpenCall:
        """
        Open a call and tell.
        """
        self._call.open = self._gateway.open_held(quoted, principal, held)
        return self._call.open


@dataclass
class WalletCall(Call):
    """
    A call that a wallet signed for.
    """

    signed: Signed | None = None
    """``None``: nothing was signed, the price is asked."""
    payment: NaivePayment | None = None
    status: int = 0
    headers: Mapping[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    door: SellingDoor | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def scopes(self) -> list[UUID]:
        """
        Return who is above the agent.
        """
        return self._paid.agent.scopes

    @property
    def payer_id(self) -> UUID:
        """
        Return the mandate that it is paid under.
        """
        return self._paid.mandate.mandate_id

    @property
    def _paid(self) -> Signed:
        assert self.signed is not None, "it was signed for"
        return self.signed

    def tasks(self) -> set[asyncio.Task[Any]]:
        """
        Return the request and the stream that goes on without it.
        """
        relays = set() if self.door is None else set(self.door._relays._relays)
        return super().tasks() | relays

    def is_its_hold(self, wish: Placement) -> bool:
        """
        Tell whether a hold is that of its payment.
        """
        return self.payment is not None and wish.hold_id == self.payment.payment_id

    def hang_up(self) -> None:
        """
        Leave.
        """
        super().hang_up()
        self.gone.set()

    async def start(self, simulation: Simulation) -> str | None:
        """
        Ask the door; return the code of a refusal once it waits or is over.
        """
        simulation.calls.append(self)
        self.task = asyncio.create_task(self.run(simulation))
        await simulation.quiet()
        return self.error.code if self.open is None and self.error is not None else None

    async def run(self, simulation: Simulation) -> None:
        """
        Send the request and take the answer.
        """
        hub = simulation.hub
        self.door = SellingDoor(
            gateway=cast("Gateway", WatchedGateway(hub.gateway, self)),
            streamer=hub.streamer,
            payments=hub.agents.payments,
            calls=hub.calls,
            metrics=hub.metrics,
            clock=hub.clock,
        )
        headers = [(b"host", HOST.encode())]
        if self.signed is not None:
            payload = {"x402Version": 2, "payload": {"authorization": self.signed.jws}}
            signature = base64.b64encode(json.dumps(payload).encode())
            headers.append((b"payment-signature", signature))
        scope: Message = {
            "type": "http",
            "scheme": "http",
            "method": "POST",
            "path": CHAT_PATH,
            "raw_path": CHAT_PATH.encode(),
            "query_string": b"",
            "headers": headers,
            "client": None,
        }
        is_read = False

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": self.body, "more_body": False}
            task = asyncio.current_task()
            assert task is not None, "the door listens in a task"
            simulation.idle.add(task)
            try:
                await self.gone.wait()
            finally:
                simulation.idle.discard(task)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status, self.headers = message["status"], dict(message["headers"])
            else:
                self.heard += message["body"]

        await self.door(scope, receive, send)
        if self.status != 200:
            self.error = TokenworksError("The door refused.", code=self._refusal())

    def _refusal(self) -> str:
        error = json.loads(self.heard)["error"]
        return str(error["code"]) if isinstance(error, dict) else "payment_required"

    def told_payment(self) -> dict[str, Any] | None:
        """
        Return what the door said of the payment: in a header, or before the end of a stream.
        """
        header = self.headers.get(b"payment-response")
        if header is None:
            lines = [line for line in self.heard.split(b"\n\n") if line.startswith(STREAM_COMMENT)]
            header = lines[-1].removeprefix(STREAM_COMMENT) if lines else None
        return None if header is None else json.loads(base64.b64decode(header))

    async def judged(self, simulation: Simulation) -> None:
        """
        Note what its payment came to, and require that the payer was told.
        """
        payment = self.payment
        if self.open is None or payment is None:
            return
        state = simulation.auditor.naive.holds[payment.payment_id].state
        if self.sale is not None:
            payment.captures[0] = (self.sale.paid, True)
            if self.sale.paid:
                know_payee(simulation, self._paid)
            self._judge_told(payment, self.sale.paid)
        await learn(simulation)
        stored = await simulation.hub.agents.payments.get(payment.payment_id)
        expected = {"voided": "released"}.get(state, state)
        if state == "captured" and not payment.captured:
            expected = "released"  # what cost nothing gave all back
        require(
            (stored.state.value, stored.captured_quanta) == (expected, payment.captured),
            payment,
            f"it is {stored.state} with {stored.captured_quanta}, naively {expected} with"
            f" {payment.captured}",
        )

    def _judge_told(self, payment: NaivePayment, paid: int) -> None:
        told = self.told_payment()
        is_told = not self.is_stream or b"data: [DONE]" in self.heard
        require(not is_told or told is not None, payment, "the payer was not told what it paid")
        if is_told and told is not None:
            found = (told["success"], told.get("amount"), told["transaction"])
            meant = (True, str(paid), str(payment.payment_id))
            require(found == meant, payment, f"told {found}, naively {meant}")


async def buy(simulation: Simulation, random: Random) -> str:
    """
    Sign for a call and ask for it; now and then with too little, or after asking the price.
    """
    chosen = choose(simulation, random)
    for _ in range(CHOICES):
        if chosen is None:
            return "no mandates"
        if not chosen[0].refused(PLATFORM, 0) and chosen[1].revoked_at is None:
            break
        chosen = choose(simulation, random)
    assert chosen is not None, "mandates stay"
    mandate, wallet, _ = chosen
    call = _draw(simulation, random)
    asked = _asked(call)
    if asked is not None and random.random() < 0.1:
        return await _ask_price(simulation, call, asked)
    signed = sign_payment(
        simulation,
        Signed(
            agent=mandate.agent,
            wallet=wallet,
            mandate=mandate,
            payee=SELLER,
            quanta=max(1, (asked or 1_000) + random.choice((0, 0, 0, 0, 1, 1_000_000, -1))),
            scheme="upto",
            url=URL,
            nonce=simulation.hub.ids.mint(),
            jws="",
            requirements=empty_requirements(),
            issued_at=simulation.clock.now(),
            expires_at=simulation.clock.now(),
            method="POST",
            body=call.body,
        ),
        lifetime_s=random.choice((5, 60, 900)),
    )
    if random.random() < 0.08:
        # Held at the facilitator, where nobody looks at what is sold; the door is asked later.
        verb = random.choice(("authorise", "attest"))
        call.signed, call.is_judged = signed, True
        simulation.calls.append(call)
        return await show(simulation, signed, Wish(verb=verb, quanta=signed.quanta, is_payee=False))
    return await _show(simulation, call, signed)


async def buy_again(simulation: Simulation, random: Random) -> str:
    """
    Send a paid call again: its answer was lost, people have decided, or it is tried for more.
    """
    earlier = [c for c in simulation.calls if isinstance(c, WalletCall) and c.signed is not None]
    if not earlier:
        return "no wallet has bought"
    waiting = [
        call
        for call in earlier
        if call.payment is not None
        and call.payment.review is not None
        and call.payment.review.state == "approved"
        and not call.payment.is_claimed
    ]
    first = random.choice(waiting if waiting and random.random() < 0.6 else earlier[-15:])
    call = _draw(simulation, random)
    call.model, call.tier, call.body = first.model, first.tier, first.body
    call.is_stream, call.max_tokens = first.is_stream, first.max_tokens
    now = simulation.clock.now()
    call.prices = simulation.world.prices_at(call.model, call.tier, now)
    call.offers = sum(
        (offer.model, offer.tier) == (call.model, call.tier)
        and offer.offer_id not in simulation.world.paused
        for offer in simulation.world.offers.values()
    )
    signed = first.signed
    assert signed is not None, "only what was signed"
    way = random.choice(("as it was", "as it was", "signed anew", "for more"))
    if way == "for more":
        signed = replace(signed, quanta=signed.quanta + 1)
    if way != "as it was":
        signed = sign_payment(simulation, signed, lifetime_s=60)
    return f"{first.number} again, {way}: {await _show(simulation, call, signed)}"


def _draw(simulation: Simulation, random: Random) -> WalletCall:
    drawn = draw_call(simulation, random, simulation.world.keys[0])
    return WalletCall(
        number=drawn.number,
        key=drawn.key,
        model=drawn.model,
        tier=drawn.tier,
        body=drawn.body,
        is_stream=drawn.is_stream,
        max_tokens=drawn.max_tokens,
        performances=drawn.performances,
        prices=drawn.prices,
        offers=drawn.offers,
    )


def _asked(call: WalletCall) -> int | None:
    """
    Return what the door has to ask for; ``None``: nobody sells it.
    """
    if not call.prices or not call.offers:
        return None
    tokens = {"input_tokens": call.input_tokens, "output_tokens": call.output_cap}
    return max(1, most(call.prices, **tokens))


async def _ask_price(simulation: Simulation, call: WalletCall, asked: int) -> str:
    await call.start(simulation)
    call.is_judged = True
    required = json.loads(base64.b64decode(call.headers[b"payment-required"]))
    found = [(way["scheme"], way["amount"]) for way in required["accepts"]]
    if (call.status, found) != (402, [("upto", str(asked))]):
        message = f"call {call.number}: offered {found} with {call.status}, naively {asked}"
        raise BrokenLawError(Law.HELD, message)
    return f"{call.model}@{call.tier} costs at most {asked}"


async def _show(simulation: Simulation, call: WalletCall, signed: Signed) -> str:
    """
    Send a signed call and require the answer that the models give.
    """
    simulation.law = Law.PAYMENT
    payments = simulation.model(NaivePayments)
    payment_id = payment_id_of(signed.wallet.address, signed.nonce)
    payment = payments.by_id.setdefault(
        payment_id, NaivePayment(payment_id, len(payments.by_id) + 1)
    )
    payment.signed.append(signed)
    call.signed, call.payment, call.authorised = signed, payment, signed.quanta
    await publish(simulation, signed.mandate, signed.wallet, signed.payee)
    code = await _ask(simulation, call, signed, payment)
    said = await finish(simulation, call)
    return f"payment {payment.number} of {signed.quanta}: {code or 'taken'}; {said}"


async def _ask(
    simulation: Simulation, call: WalletCall, signed: Signed, payment: NaivePayment
) -> str | None:
    asked = _asked(call)
    if asked is None or signed.quanta < asked:
        code = await call.start(simulation)
        expected = {"requirements_mismatch"}
        if asked is None:
            expected = {"no_supplier_available", "model_not_found", "price_missing"}
        require(code in expected, payment, f"answered {code}, naively one of {sorted(expected)}")
        require(not placements_of(simulation, payment.payment_id), payment, "held all the same")
        return code
    tokens = call.input_tokens + call.output_cap
    wish = Wish(
        verb="claim",
        quanta=signed.quanta,
        is_payee=False,
        tokens=tokens,
        ask=lambda: call.start(simulation),
    )
    if payment.held is None:
        return await show_new(simulation, payment, signed, wish)
    expected_code = known_code(simulation, payment, signed, wish)
    if expected_code is None:
        payment.is_claimed = True
        if not payment.is_call:
            expected_code = "payment_conflict"  # held for something else: it is given back
    expected_code = DOOR_CODES.get(expected_code or "", expected_code)
    code = await call.start(simulation)
    require(code == expected_code, payment, f"answered {code}, naively {expected_code}")
    return code


OPERATIONS = {
    "buy_call": (14, buy),
    "buy_call_again": (5, buy_again),
}
