"""
The suite finds what a facilitator leaves out, and finds nothing with a careful one.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from tests.unit.simulated_facilitator import NETWORK, PAYEE
from tests.unit.simulated_hub import SimulatedHub
from tokenworks.cli import x402 as cli_x402
from tokenworks.cli.main import app
from tokenworks.conformance import facilitator as facilitator_module
from tokenworks.conformance.errors import AuditImpossibleError
from tokenworks.conformance.facilitator import Facilitator
from tokenworks.conformance.ground import GivenPurse, Ground
from tokenworks.conformance.hub_business import HubBusiness
from tokenworks.conformance.hub_rail import HubRail, hub_wallet
from tokenworks.conformance.model import SUITE_VERSION, Report, Verdict
from tokenworks.conformance.official import read_official_defaults
from tokenworks.conformance.rails import Sale, Wallet, to_base64url
from tokenworks.conformance.suite import CHECKS, STILL_SELLS, audit, choose
from tokenworks.foundation.clock import FakeClock, SystemClock
from tokenworks.foundation.identifiers import IdentifierSource

URL = "http://facilitator.invalid"
PRICE = 1_000
PLENTY = 10**9

# What is left out -> the checks that must fail, and no other.
FLAWS = {
    "no_claim": {"duplicate-at-once", "overdraft-at-once", "siblings-at-once"},
    "no_hold": {"overdraft-at-once"},
    "settle_race": {"settle-at-once"},
    "pays_again": {"settle-at-once", "replay-first-receipt", "handler-fails"},
    "forgets_receipts": {"replay-first-receipt", "settle-after-timeout"},
    "no_resource": {"other-resource"},
    "no_body": {"other-body"},
    "no_payee": {"other-payee"},
    "no_asset": {"other-asset"},
    "no_network": {"other-network"},
    "no_scheme": {"other-scheme"},
    "no_amount": {"smaller-amount", "own-terms"},
    "echo_counts": {"own-terms", "other-scheme", "handler-fails", "settled-for-less"},
    "no_signature": {"forged-signature", "altered-payload"},
    "alg_none": {"unsigned"},
    "no_expiry": {"expired"},
    "no_start": {"not-yet-valid"},
    "rounds_dust": {"dust"},
    "negative": {"negative-amount", "amount-not-a-number"},
    "wraps_around": {"overflowing-amount"},
    "loose_numbers": {"amount-not-a-number", "negative-amount", "overflowing-amount"},
    "any_version": {"wrong-version"},
    "faults_on_malformed": {"malformed-request", "nested-request"},
    "reads_anything": {"oversized-request"},
    "nested_is_fatal": {"nested-request", "still-sells"},
    "never_revokes": {"mandate-revoked-in-flight"},
    "budgets_are_private": {"siblings-at-once"},
    "endless": {"delegation-too-deep", "delegation-too-wide"},
    "widens": {"delegation-too-wide"},
    "keeps_what_failed": {"handler-fails"},
    "payer_ends_cheaply": {"settled-for-less"},
    "any_digest": {"approval-replayed"},
    "approves_all": {"approval-replayed"},
    "believes_anyone": {"forged-verifier"},
    "evaluates_anything": {"exploding-condition"},
}


@dataclass
class Stage:
    """
    A simulated facilitator with two wallets.
    """

    simulated: SimulatedHub
    rich: Wallet
    poor: Wallet
    clock: FakeClock

    async def audit(self, *only: str) -> Report:
        """
        Run the suite.
        """
        transport = httpx.MockTransport(self.simulated)
        mint = IdentifierSource(self.clock).mint
        hub_business = HubBusiness(
            URL, "admin", price=PRICE, mint=mint, random_bytes=os.urandom, transport=transport
        )
        async with (
            Facilitator(URL, connections=8, transport=transport) as facilitator,
            hub_business as hub,
        ):
            ground = Ground(
                facilitator=facilitator,
                rail=HubRail(mint),
                sale=sale(),
                purse=GivenPurse(rich=self.rich, poor=self.poor),
                clock=self.clock,
                in_parallel=8,
                hub=hub,
            )
            return await audit(ground, choose(CHECKS, only))


def stage(*flaws: str) -> Stage:
    """
    Return a facilitator with these flaws.
    """
    clock = FakeClock(SystemClock().now())
    simulated = SimulatedHub(int(clock.now().timestamp()), flaws=frozenset(flaws))
    rich, poor = new_wallet(), new_wallet()
    simulated.balances |= {rich.address: PLENTY, poor.address: PRICE}
    return Stage(simulated=simulated, rich=rich, poor=poor, clock=clock)


def new_wallet() -> Wallet:
    """
    Return a wallet that nobody has filled.
    """
    return hub_wallet(Ed25519PrivateKey.generate().private_bytes_raw())


def sale() -> Sale:
    """
    Return what the seller asks.
    """
    return Sale(
        scheme="exact",
        network=NETWORK,
        asset="USD",
        amount=str(PRICE),
        pay_to=PAYEE,
        method="GET",
        url="http://seller.invalid/audit",
    )


async def test_careful_facilitator_survives_everything() -> None:
    """
    Without a flaw no check fails, and none is left out.
    """
    report = await stage().audit()
    verdicts = {f.check_id: (f.outcome.verdict, f.outcome.because) for f in report.findings}
    assert {verdict for verdict, _ in verdicts.values()} == {Verdict.SURVIVED}, verdicts
    assert [*verdicts] == [*(check.check_id for check in CHECKS), STILL_SELLS.check_id]


@pytest.mark.parametrize("flaw", FLAWS)
async def test_each_flaw_is_found_by_its_check(flaw: str) -> None:
    """
    A rule that is left out fails the checks that are about it, and those alone.
    """
    report = await stage(flaw).audit()
    assert {finding.check_id for finding in report.failures} == FLAWS[flaw]


def test_every_check_is_known_to_fail() -> None:
    """
    There is no check that cannot fail.
    """
    found = set[str]().union(*FLAWS.values())
    # Ends before it begins: found by the expiry as well, so no single flaw lets it through.
    assert {check.check_id for check in (*CHECKS, STILL_SELLS)} - found == {"backwards-in-time"}


async def test_ending_before_beginning_is_found_when_nothing_else_looks() -> None:
    """
    The one check that takes more than one flaw to fail.
    """
    report = await stage("no_start", "no_order", "no_expiry").audit("backwards-in-time")
    assert [finding.check_id for finding in report.failures] == ["backwards-in-time"]


async def test_facilitator_that_refuses_everything_is_no_survivor() -> None:
    """
    Without one honest payment there is no verdict.
    """
    standing = stage()
    standing.simulated.balances.clear()
    with pytest.raises(AuditImpossibleError, match="insufficient_funds"):
        await standing.audit()


async def test_overdraft_needs_a_wallet_with_money_for_one() -> None:
    """
    What cannot be tried is not called survived.
    """
    standing = stage()
    transport = httpx.MockTransport(standing.simulated)
    async with Facilitator(URL, connections=8, transport=transport) as facilitator:
        ground = Ground(
            facilitator=facilitator,
            rail=HubRail(IdentifierSource(standing.clock).mint),
            sale=sale(),
            purse=GivenPurse(rich=standing.rich),
            clock=standing.clock,
            in_parallel=8,
        )
        report = await audit(ground, choose(CHECKS, ["overdraft-at-once"]))
    assert report.findings[0].outcome.verdict is Verdict.NOT_APPLICABLE


def test_official_defaults_cover_this_suite() -> None:
    """
    The shipped table was made by the checks that are shipped with it.
    """
    defaults = read_official_defaults()
    assert defaults.suite_version == SUITE_VERSION
    assert set(defaults.verdicts) == {check.check_id for check in (*CHECKS, STILL_SELLS)}


# The command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """
    The command against a simulated facilitator.
    """
    return Command(monkeypatch, tmp_path)


class Command:
    """
    Run ``tokenworks x402 audit`` without a network.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.stage = stage()
        self._patch = monkeypatch
        self._folder = folder

    def use(self, standing: Stage) -> None:
        """
        Put another facilitator at the address.
        """
        self.stage = standing

    def run(self, *arguments: str) -> Result:
        """
        Run the command.
        """
        transport = httpx.MockTransport(self.stage.simulated)

        def connect(url: str, **options: Any) -> Facilitator:  # noqa: ANN401 - passed on
            return Facilitator(url, **options, transport=transport)

        self._patch.setattr(cli_x402, "Facilitator", connect)
        words = ["x402", "audit", URL, "--in-parallel", "4", "--pay-to", PAYEE]
        words += ["--wallet", self.file("rich", self.stage.rich)]
        words += ["--poor-wallet", self.file("poor", self.stage.poor)]
        return CliRunner().invoke(app, [*words, *arguments])

    def file(self, name: str, wallet: Wallet) -> str:
        """
        Write a wallet's file.
        """
        path = self._folder / name
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": wallet.address}
        path.write_text(json.dumps(jwk | {"d": to_base64url(wallet.secret)}), encoding="utf-8")
        return str(path)


def test_command_prints_verdicts_beside_the_official_ones(command: Command) -> None:
    """
    Exit code 0, a line for each check, and where the official column comes from.
    """
    done = command.run("--only", "duplicate-at-once", "--only", "other-resource")
    assert done.exit_code == 0, done.output
    assert "3 survived, 0 failed, 0 not applicable" in done.output
    assert "50 handlers ran for 1 payment(s)." in done.output
    assert "make x402-baseline" in done.output


def test_command_exits_with_one_when_something_failed(command: Command) -> None:
    """
    Programs learn it from the exit code, and what it was from the JSON.
    """
    command.use(stage("no_body"))
    done = command.run("--only", "other-body", "--json")
    assert done.exit_code == 1, done.output
    document = json.loads(done.output)
    assert document["failed"] == 1
    finding = document["findings"][0]
    assert finding["verdict"] == "failed"
    assert finding["evidence"]["verify"] == "valid"
    assert finding["official_defaults"]["verdict"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "nothing"], "There is no check nothing"),
        (["--network", "solana:abc"], "cannot pay on solana:abc"),
        (["--wallet", "/nowhere"], "cannot be read"),
        (["--wallet", __file__], "no private Ed25519 key"),
        (["--extra", "{"], "no JSON"),
        (["--extra", "[]"], "no JSON object"),
        (["--header", "x"], "'name: value'"),
    ],
)
def test_command_says_what_it_cannot_use(
    command: Command, arguments: list[str], sentence: str
) -> None:
    """
    Exit code 2 and a sentence, before anything is sent.
    """
    done = command.run(*arguments)
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.output.split())


def test_address_that_is_no_facilitator_is_named() -> None:
    """
    A closed port is no verdict.
    """
    done = CliRunner().invoke(app, ["x402", "audit", "http://127.0.0.1:9"])
    assert done.exit_code == 2, done.output
    assert "/supported cannot be reached: " in done.output
    done = CliRunner().invoke(app, ["x402", "audit", "127.0.0.1:9"])
    assert done.exit_code == 2, done.output
    assert "begins with http:// or https://" in done.output


@pytest.mark.parametrize(
    ("status", "headers", "content", "says"),
    [
        (404, {}, b"", "status 404, nothing"),
        (200, {"content-type": "text/html; charset=utf-8"}, b"<p>", "status 200, text/html"),
        (200, {"content-type": "application/json"}, b"[1]", "JSON with 'kinds'"),
        (302, {"location": "https://other/"}, b"", "sends on to https://other/"),
    ],
)
async def test_what_is_no_facilitator_is_told_what_it_answered(
    status: int, headers: dict[str, str], content: bytes, says: str
) -> None:
    """
    Whoever mistypes the address learns what stands there.
    """

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, content=content)

    transport = httpx.MockTransport(answer)
    async with Facilitator("http://x", connections=1, transport=transport) as facilitator:
        with pytest.raises(AuditImpossibleError) as told:
            await facilitator.read_kinds()
    assert says in told.value.message


async def test_facilitator_that_answers_in_drops_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A time for the whole answer, not for each of its pieces.
    """
    monkeypatch.setattr(facilitator_module, "SUPPORTED_TIMEOUT_S", 0.01)

    async def drip(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody waits so long")

    transport = httpx.MockTransport(drip)
    async with Facilitator("http://x", connections=1, transport=transport) as facilitator:
        with pytest.raises(AuditImpossibleError, match="does not answer within"):
            await facilitator.read_kinds()
