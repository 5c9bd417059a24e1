"""
What the hub metered in a payee's calls decides what it is paid: real calls, real doors, run again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from tests.databases import OpenDatabase
from tests.patience import PATIENCE_S
from tests.postgres.gateway_rig import DOLLAR, HELLO, Plant, open_plant
from tests.postgres.selling_rig import SellingRig, listening, open_selling_business
from tokenworks.agents.escrow.attestation import sign_attestation
from tokenworks.agents.escrow.result import canonical, sha256_hex
from tokenworks.agents.mandates.model import Terms
from tokenworks.cli.main import app
from tokenworks.foundation.money import USD, Amount
from tokenworks.identity.model import Level, PartyKind, Role
from tokenworks.receipts.jws import to_base64url
from tokenworks.sdk import AsyncHubClient, HubError, PaymentRefusedError, SpendCap, Wallet
from tokenworks.testing.supplier_stub import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESULT = {"ok": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(
    open_database: OpenDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[tuple[Plant, str]]:
    """
    A hub and its suppliers, listening.
    """
    with open_database() as dsn:
        async with (
            open_plant(dsn, tmp_path_factory.mktemp("hub")) as plant,
            listening(plant.hub) as url,
        ):
            yield plant, url


@dataclass(kw_only=True)
class Team:
    """
    An agent that pays, and one of another organisation that works.
    """

    selling: SellingRig
    boss: AsyncHubClient
    worker: AsyncHubClient
    verifier: Ed25519PrivateKey = field(repr=False)

    async def open(self, *conditions: str, payee: UUID | None = None) -> str:
        """
        Open an escrow with a cent for each condition, milestones m0, m1, ...; return its id.
        """
        terms = {
            "milestones": [
                {"name": f"m{place}", "amount": "0.01", "condition": condition}
                for place, condition in enumerate(conditions)
            ],
            "result_schema": {"type": "object"},
            "submit_by": (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds"),
            "review_window_s": 0,
            "decide_by_s": 600,
            "verifiers": {"ci": to_base64url(self.verifier.public_key().public_bytes_raw())},
        }
        opened = await self.boss.open_escrow(str(payee or self.selling.agent.party_id), terms)
        assert opened["state"] == "funded"
        return str(opened["escrow_id"])

    async def work(self, *, max_tokens: int = 40) -> str:
        """
        Let the worker buy an answer with its own money; return the call's id.
        """
        model = self.selling.gateway.model
        answer = await self.worker.call_model(model, list(HELLO), max_tokens=max_tokens)
        return answer.settlement.transaction

    async def work_of_user(self) -> str:
        """
        Let a user of the worker's organisation make a call with a key; return its id.
        """
        answer = await self.selling.gateway.ask()
        assert answer.status_code == 200
        return answer.headers["x-tokenworks-call-id"]

    async def submit(
        self, escrow: str, calls: object, milestone: str = "m0", **members: object
    ) -> Mapping[str, Any]:
        """
        Submit as the worker.
        """
        body = {"milestone": milestone, "result": RESULT, "calls": calls} | members
        return await self.worker.act_on_escrow(escrow, "submit", body)

    async def refusal(self, escrow: str, calls: object, milestone: str = "m0") -> tuple[int, str]:
        """
        Submit what is refused; return the status and the name of the refusal.
        """
        with pytest.raises(HubError) as refused:
            await self.submit(escrow, calls, milestone)
        return refused.value.status, refused.value.reason

    async def facts(self, escrow: str) -> list[str]:
        """
        Return what happened to an escrow.
        """
        shown = await self.boss.escrow(escrow)
        return [event["kind"] for event in shown["events"]]

    async def claims(self, escrow: str) -> set[tuple[str, int]]:
        """
        Return which calls serve which milestone of an escrow.
        """
        async with self.selling.gateway.hub.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT call_id, milestone FROM agents.escrow_calls WHERE escrow_id = %s",
                (escrow,),
            )
            return {(str(row[0]), row[1]) for row in await cursor.fetchall()}

    def attest(self, escrow: str, milestone: str, **claims: bool) -> str:
        """
        Sign what the verifier found in the result.
        """
        return sign_attestation(
            self.verifier,
            escrow_id=UUID(escrow),
            milestone=milestone,
            result_sha256=sha256_hex(canonical(RESULT)),
            claims=claims,
            now=datetime.now(UTC),
        )

    async def verify(self, folder: Path, receipt: object, *statements: str) -> dict[str, Any]:
        """
        Run ``tokenworks escrow verify`` on files alone; return what it prints, and its exit code.
        """
        async with httpx.AsyncClient(timeout=PATIENCE_S) as anybody:
            published = await anybody.get(f"{self.selling.url}/.well-known/jwks.json")
        files = {
            "receipt.json": json.dumps(receipt),
            "result.json": json.dumps(RESULT),
            "jwks.json": published.text,
        }
        files |= {f"{place}.jws": text for place, text in enumerate(statements)}
        for name, content in files.items():
            (folder / name).write_text(content)
        command = ["escrow", "verify", str(folder / "receipt.json"), "--json"]
        command += ["--result", str(folder / "result.json"), "--keys", str(folder / "jwks.json")]
        for place in range(len(statements)):
            command += ["--attestation", str(folder / f"{place}.jws")]
        # The command has an event loop of its own.
        done = await asyncio.to_thread(CliRunner().invoke, app, command)
        return json.loads(done.stdout) | {"exit_code": done.exit_code}


@pytest_asyncio.fixture(loop_scope="module")
async def team(plant: tuple[Plant, str]) -> AsyncGenerator[Team]:
    """
    Both with money and a mandate.
    """
    async with open_selling_business(*plant) as selling:
        hub, number = selling.gateway.hub, plant[0].businesses
        studio = await hub.opening.add_party(f"studio-{number}", kind=PartyKind.BUYER)
        await hub.ledger.deposit(
            party_id=studio.party_id,
            amount=Amount(quanta=DOLLAR, asset=USD),
            rail="bank",
            reference=studio.name,
            actor="test",
        )
        boss = await hub.opening.add_party(
            f"boss-{number}", kind=PartyKind.BUYER, level=Level.AGENT, parent=studio.party_id
        )
        wallet = Wallet.generate()
        await hub.agents.mandates.add_wallet(boss.party_id, wallet.address)
        await hub.agents.mandates.issue(boss.party_id, Terms(), actor="test")
        payer, worker = [
            await AsyncHubClient.connect(selling.url, key, cap=SpendCap(per_payment="1"))
            for key in (wallet, selling.wallet)
        ]
        async with payer, worker:
            yield Team(
                selling=selling,
                boss=payer,
                worker=worker,
                verifier=Ed25519PrivateKey.generate(),
            )


async def test_metered_tokens_are_paid_and_the_receipt_is_run_again_offline(
    team: Team, tmp_path: Path
) -> None:
    """
    Totals are those of the calls' records; author and verifier hash the result without them.
    """
    escrow = await team.open(
        "[result.metered.output, 1000]",
        'result.attested.ci.good && result.metered.calls == 1 && result.metered.charge != "0"',
    )
    calls = [await team.work(max_tokens=40), await team.work(max_tokens=24)]
    submitted = await team.submit(escrow, calls)
    said = submitted["milestones"][0]["submission"]
    rows = [row for row in await team.selling.calls() if str(row.call_id) in calls]
    assert len(rows) == 2
    assert said["calls"] == sorted(calls)
    metered = said["metered"]
    output = sum(row.output_tokens for row in rows)
    assert 0 < output < 1_000
    assert (metered["calls"], metered["output"]) == (2, output)
    assert metered["input"] == sum(row.input_tokens for row in rows)
    assert metered["usage"]["output"] == sum(row.usage["output"] for row in rows)
    assert metered["charge_quanta"] == sum(row.charge_quanta for row in rows) > 0
    assert Decimal(metered["charge"]) * DOLLAR == metered["charge_quanta"]
    assert (metered["currency"], metered["http_status"]) == ("USD", 200)
    assert metered["models"] == [team.selling.gateway.model]
    assert metered["is_estimate"] is False
    assert metered["latency_ms_max"] >= max(row.duration_ms for row in rows)
    assert said["metered_sha256"] == sha256_hex(canonical(metered))
    assert said["result_sha256"] == sha256_hex(canonical(RESULT)), "its author can compute it"
    assert Decimal(submitted["captured"]) == Decimal(output) / 1_000 * Decimal("0.01")
    statement = team.attest(escrow, "m1", good=True)
    done = await team.submit(escrow, [await team.work()], "m1", attestations=[statement])
    assert done["state"] == "settled", done
    part, whole = [
        dict(await team.boss.ask("GET", f"payments/{escrow}/receipt", query={"ordinal": ordinal}))
        for ordinal in (0, 1)
    ]
    found = await team.verify(tmp_path, part)
    assert (found["exit_code"], found["problems"], found["share"]) == (0, [], f"{output}/1000")
    found = await team.verify(tmp_path, whole, statement)
    assert (found["exit_code"], found["problems"], found["share"]) == (0, [], "1/1")
    part["receipt"]["escrow"]["submission"]["metered"]["output"] = 999
    found = await team.verify(tmp_path, part)
    assert found["exit_code"] == 1
    assert "what was metered is not what its hash names" in found["problems"]
    assert any("the condition comes to 999/1000" in problem for problem in found["problems"])


async def test_calls_that_do_not_count_are_refused_by_name_and_nothing_is_stored(
    team: Team,
) -> None:
    """
    No list, no id, too many, twice, unknown, somebody else's, failed, older than the escrow.
    """
    gateway = team.selling.gateway
    old = await team.work()
    escrow = await team.open("result.metered.calls > 0")
    good, foreign, unknown = await team.work(), await team.work_of_user(), str(uuid.uuid4())
    for stub in (gateway.first, gateway.second):
        stub.set_behaviour(Behaviour(status=500))
    with pytest.raises(PaymentRefusedError):
        await team.work()
    for stub in (gateway.first, gateway.second):
        stub.reset()
    (failed,) = [str(row.call_id) for row in await team.selling.calls() if row.status == "failed"]
    table: list[tuple[object, int, str]] = [
        ("x", 400, "calls_invalid"),
        ({}, 400, "calls_invalid"),
        ([1], 400, "calls_invalid"),
        (["x"], 400, "calls_invalid"),
        ([good, good], 400, "calls_invalid"),
        ([str(uuid.uuid4()) for _ in range(101)], 400, "calls_invalid"),
        ([good, unknown], 400, "call_unknown"),
        ([good, foreign], 403, "call_foreign"),
        ([good, failed], 400, "call_failed"),
        ([good, old], 400, "call_too_old"),
    ]
    for calls, status, code in table:
        assert await team.refusal(escrow, calls) == (status, code), calls
    with pytest.raises(HubError) as refused:
        await team.submit(escrow, [good], result={"metered": {"calls": 9}})
    assert refused.value.reason == "result_invalid"
    assert (await team.facts(escrow), await team.claims(escrow)) == (["opened"], set())
    assert (await team.submit(escrow, [good]))["state"] == "settled"


async def test_call_serves_one_milestone_of_one_escrow(team: Team) -> None:
    """
    Not met, it may be named again for the same one; for another it is refused, and nothing is lost.
    """
    escrow = await team.open("result.metered.calls == 2", "result.metered.calls == 1")
    other = await team.open("result.metered.calls == 1")
    first, second = await team.work(), await team.work()
    once = await team.submit(escrow, [first])
    assert once["milestones"][0]["state"] == "not_met"
    facts = await team.facts(escrow)
    assert await team.submit(escrow, [first]) == once, "a repeat is answered by what is recorded"
    for target, milestone in ((escrow, "m1"), (other, "m0")):
        assert await team.refusal(target, [first, second], milestone) == (409, "call_used")
    assert await team.facts(escrow) == facts
    assert (await team.facts(other), await team.claims(other)) == (["opened"], set())
    # The second was named beside one that is used: it is free all the same.
    twice = await team.submit(escrow, [second, first])
    assert twice["milestones"][0]["decision"]["ground"] == "condition_met"
    assert await team.claims(escrow) == {(first, 0), (second, 0)}
    nothing = await team.submit(other, [])
    verdict = nothing["milestones"][0]["submission"]["verdict"]
    assert (verdict["is_met"], verdict["error"]) == (False, "KeyError: 'metered'")


async def test_one_of_many_that_name_a_call_at_once_has_it(team: Team) -> None:
    """
    Eight milestones of four escrows want the same call: one is paid.
    """
    escrows = [await team.open(*["result.metered.calls == 1"] * 2) for _ in range(4)]
    call = await team.work()
    answers = await asyncio.gather(
        *(team.submit(escrow, [call], name) for escrow in escrows for name in ("m0", "m1")),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, HubError)]
    assert [(one.status, one.reason) for one in refused] == [(409, "call_used")] * 7
    captured = [(await team.boss.escrow(escrow))["captured"] for escrow in escrows]
    assert sorted(captured) == ["0", "0", "0", "0.01"]
    claims = [claim for escrow in escrows for claim in await team.claims(escrow)]
    assert [claimed for claimed, _ in claims] == [call]


async def test_calls_of_everybody_below_the_payee_are_its_own(team: Team) -> None:
    """
    A payee that is an organisation names what its agents and users bought.
    """
    gateway = team.selling.gateway
    organisation_id = gateway.organisation.party_id
    escrow = await team.open("result.metered.calls == 2", payee=organisation_id)
    calls = [await team.work(), await team.work_of_user()]
    _, secret = await gateway.hub.opening.add_key(organisation_id, role=Role.BUYER, label="books")
    body = {"milestone": "m0", "result": RESULT, "calls": calls}
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(
        base_url=team.selling.url, headers=headers, timeout=PATIENCE_S
    ) as owner:
        answer = await owner.post(f"/hub/v1/escrows/{escrow}/submit", json=body)
    assert answer.json()["state"] == "settled", answer.text


async def test_other_calls_for_the_same_result_lose_no_statement_about_it(team: Team) -> None:
    """
    What speaks against a result cannot be shed by naming other calls for it.
    """
    escrow = await team.open("result.attested.ci.good && result.metered.calls == 2")
    calls = [await team.work(), await team.work()]
    bad = team.attest(escrow, "m0", good=False)
    await team.submit(escrow, calls[:1], attestations=[bad])
    again = (await team.submit(escrow, calls))["milestones"][0]["submission"]
    assert (again["number"], again["verdict"]["is_met"]) == (2, False)
    assert [item["claims"] for item in again["attestations"]] == [{"good": False}]
    good = team.attest(escrow, "m0", good=True)
    assert (await team.submit(escrow, calls, attestations=[good]))["state"] == "settled"


async def test_claims_never_change(team: Team) -> None:
    """
    Not even by whoever owns the table.
    """
    escrow = await team.open("result.metered.calls == 1")
    await team.submit(escrow, [await team.work()])
    async with await psycopg.AsyncConnection.connect(team.selling.gateway.dsn) as owner:
        for change in (
            "UPDATE agents.escrow_calls SET milestone = 3",
            "DELETE FROM agents.escrow_calls",
            "TRUNCATE agents.escrow_calls",
        ):
            with pytest.raises(psycopg.Error):
                await owner.execute(change)
            await owner.rollback()
