"""
What a chain of mandates adds to a hold: ``python -m benchmarks.agents.mandate_chain``.

In one run, round by round in turn, on the same server and writer: holds along plain paths of
four levels with a limit on each (organisation, team, user, key), and holds along paths with
eight mandates below the same three parties, each asked of ``Mandates.authorise`` first (all
predicates of all eight). Three kinds of chains: with one budget, at the leaf, so that as many
limits stand on both paths and the difference is the chain itself; with a budget and a count on
the root and a budget on the leaf; and with a budget on every one of the eight. Each limit more is
an account more to lock and to change, in a plain path too. All along one path, which a batch looks
at once; along many that share no mandate; and along many whose last mandate alone is their own, as
agents have that one owner's tree delegates to.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Any, Final, TypeAlias
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from benchmarks.ledger.business import settings_of
from benchmarks.ledger.server import EMPTY, Database, Server, running_server
from tokenworks.agents.mandates.merging import merge_chain
from tokenworks.agents.mandates.model import (
    MANDATE_DEPTH_MAX,
    CountLimit,
    MoneyLimit,
    Purchase,
    Terms,
    Window,
)
from tokenworks.agents.mandates.signing import address_of
from tokenworks.bootstrap.hub import Hub, open_hub
from tokenworks.foundation.money import LIMIT_USD, USD, Amount
from tokenworks.identity.model import Level, PartyKind, Role
from tokenworks.ledger.model import ASSET_IDS, Placement, Reservation

Prepare: TypeAlias = "Callable[[], Awaitable[Placement]]"

TARGET_ADDED: Final = 0.20
_DOLLAR: Final = 10**9
_QUANTA: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """
    How much is placed.
    """

    rounds: int
    holds: int  # in each round, of each kind
    in_flight: int
    paths: tuple[int, ...]  # how many different ones, for each measurement


QUICK: Final = Effort(rounds=7, holds=512, in_flight=32, paths=(1, 32))
FULL: Final = Effort(rounds=21, holds=768, in_flight=32, paths=(1, 32))
KINDS: Final = {
    "plain": "plain: four scopes, a limit on each",
    "chain_of_8_leaf_limited": "eight mandates, as many limits as plain",
    "chain_of_8_root_and_leaf_limited": "eight mandates, limits on root and leaf",
    "chain_of_8_all_limited": "eight mandates, a budget on every one",
    "tree_of_8_all_limited": "the same, seven of the eight shared: one tree",
}


async def measure(hub: Hub, effort: Effort, cpu_s: Callable[[], float]) -> dict[str, Any]:
    """
    Return microseconds a hold for each kind, and what a chain adds to a plain one.

    Args:
        hub: Open on a fresh database; parties, mandates and holds are added to it.
        effort: How much.
        cpu_s: Processor time used so far by this process and the server: on a machine with
            neighbours it says more than the time that passed.
    """
    await _open_parties(hub)
    return {
        "holds_per_round": effort.holds,
        "rounds": effort.rounds,
        "in_flight": effort.in_flight,
        "by_paths": {
            str(paths): await _compare(hub, effort, paths, cpu_s) for paths in effort.paths
        },
        "target_added": TARGET_ADDED,
        "predicates_us": round(await _predicates_us(hub), 2),
    }


async def _compare(
    hub: Hub, effort: Effort, paths: int, cpu_s: Callable[[], float]
) -> dict[str, Any]:
    kinds = await _open_kinds(hub, paths)
    figures: dict[str, list[float]] = {name: [] for name in kinds}
    used_s = dict.fromkeys(kinds, 0.0)
    for prepare in kinds.values():
        # Opens windows and paths; not counted.
        await _round(hub, prepare, max(64, 2 * paths), effort.in_flight, cpu_s)
    for number in range(effort.rounds):
        # The order turns, so that no kind always comes first after a checkpoint.
        names = list(kinds) if number % 2 == 0 else list(reversed(kinds))
        for name in names:
            seconds, cpu = await _round(hub, kinds[name], effort.holds, effort.in_flight, cpu_s)
            figures[name].append(seconds / effort.holds * 1e6)
            used_s[name] += cpu
    plain = figures["plain"]
    return {
        "microseconds_per_hold": {name: round(median(f), 1) for name, f in figures.items()},
        "added_to_plain": {
            name: round(median(f / p for f, p in zip(found, plain, strict=True)) - 1, 3)
            for name, found in figures.items()
            if name != "plain"
        },
        "cpu_microseconds_per_hold": {
            name: round(used / effort.rounds / effort.holds * 1e6, 1)
            for name, used in used_s.items()
        },
        "cpu_added_to_plain": {
            name: round(used / used_s["plain"] - 1, 3)
            for name, used in used_s.items()
            if name != "plain"
        },
    }


async def _round(
    hub: Hub, prepare: Prepare, holds: int, in_flight: int, cpu_s: Callable[[], float]
) -> tuple[float, float]:
    placed: list[UUID] = []
    left = iter(range(holds))

    async def one_after_another() -> None:
        for _ in left:
            placement = await prepare()
            outcome = await hub.ledger.place(placement)
            assert outcome.is_done, outcome
            placed.append(placement.hold_id)

    began, used = time.perf_counter(), cpu_s()
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    seconds, cpu = time.perf_counter() - began, cpu_s() - used
    # Not timed: the next round finds the accounts as this one did.
    await asyncio.gather(*(hub.ledger.void(hold_id, reason="benchmark") for hold_id in placed))
    return seconds, cpu


async def _open_parties(hub: Hub) -> None:
    organisation = await hub.opening.add_party("chain-org", kind=PartyKind.BUYER)
    team = await hub.opening.add_party("chain-team", kind=PartyKind.BUYER, parent="chain-org")
    user = await hub.opening.add_party(
        "chain-user", kind=PartyKind.BUYER, level=Level.USER, parent="chain-team"
    )
    await hub.ledger.deposit(
        party_id=organisation.party_id,
        amount=Amount(quanta=1_000_000 * _DOLLAR, asset=USD),
        rail="bank",
        reference="chain",
        actor="benchmark",
    )
    for party, window in ((organisation, "ever"), (team, "year"), (user, "month")):
        await _limit(hub, party.party_id, window)


async def _open_kinds(hub: Hub, paths: int) -> dict[str, Prepare]:
    leaf = MANDATE_DEPTH_MAX - 1
    limited = {
        "chain_of_8_leaf_limited": frozenset({leaf}),
        "chain_of_8_root_and_leaf_limited": frozenset({0, leaf}),
        "chain_of_8_all_limited": frozenset(range(MANDATE_DEPTH_MAX)),
    }
    kinds = {"plain": [await _open_key(hub) for _ in range(paths)]}
    for name, levels in limited.items():
        kinds[name] = [await _open_chain(hub, levels) for _ in range(paths)]
    if paths > 1:
        kinds["tree_of_8_all_limited"] = await _open_tree(hub, paths)
    return {name: _in_turn(prepares) for name, prepares in kinds.items()}


def _in_turn(prepares: list[Prepare]) -> Prepare:
    turns = itertools.cycle(prepares)

    async def prepare() -> Placement:
        return await next(turns)()

    return prepare


async def _open_key(hub: Hub) -> Prepare:
    key, _ = await hub.opening.add_key("chain-user", role=Role.BUYER)
    await _limit(hub, key.key_id, "day")

    async def along_plain_path() -> Placement:
        return _placement(hub, key.key_id, key.spend_path_version)

    return along_plain_path


async def _limit(hub: Hub, scope_id: UUID, window: str) -> None:
    await hub.ledger.set_limit(
        scope_id=scope_id,
        asset=LIMIT_USD,
        quanta=900_000 * _DOLLAR,
        window=window,
        actor="benchmark",
    )


async def _open_chain(hub: Hub, limited: frozenset[int]) -> Prepare:
    agent_id, payee = await _open_agent(hub), hub.ids.mint()
    leaf_id = await _issue(hub, agent_id, payee, range(MANDATE_DEPTH_MAX), limited)
    return await _along(hub, agent_id, leaf_id, payee)


async def _open_tree(hub: Hub, leaves: int) -> list[Prepare]:
    payee, everywhere = hub.ids.mint(), frozenset(range(MANDATE_DEPTH_MAX))
    leaf = MANDATE_DEPTH_MAX - 1
    trunk_id = await _issue(hub, await _open_agent(hub), payee, range(leaf), everywhere)
    prepares: list[Prepare] = []
    for _ in range(leaves):
        agent_id = await _open_agent(hub)
        levels = range(leaf, MANDATE_DEPTH_MAX)
        leaf_id = await _issue(hub, agent_id, payee, levels, everywhere, parent_id=trunk_id)
        prepares.append(await _along(hub, agent_id, leaf_id, payee))
    return prepares


async def _open_agent(hub: Hub) -> UUID:
    agent = await hub.opening.add_party(
        f"chain-{hub.ids.mint().hex}x",
        kind=PartyKind.BUYER,
        level=Level.AGENT,
        parent="chain-user",
    )
    return agent.party_id


async def _issue(
    hub: Hub,
    agent_id: UUID,
    payee: UUID,
    levels: range,
    limited: frozenset[int],
    *,
    parent_id: UUID | None = None,
) -> UUID:
    for level in levels:
        mandate = await hub.agents.mandates.issue(
            agent_id,
            _terms(hub, level, payee, is_limited=level in limited),
            parent=parent_id,
            actor="benchmark",
        )
        parent_id = mandate.mandate_id
    assert parent_id is not None, "there are levels"
    return parent_id


async def _along(hub: Hub, agent_id: UUID, leaf_id: UUID, payee: UUID) -> Prepare:
    mandates = hub.agents.mandates
    address = address_of(Ed25519PrivateKey.generate())
    await mandates.add_wallet(agent_id, address)
    purchase = _purchase(hub, payee)

    async def along_chain() -> Placement:
        authority = await mandates.authorise(address, leaf_id, purchase, now=hub.clock.now())
        return _placement(hub, authority.path_id, authority.path_version, payments=1)

    return along_chain


def _terms(hub: Hub, level: int, payee: UUID, *, is_limited: bool) -> Terms:
    window = Window.EVER if level == 0 else Window.DAY
    budget = MoneyLimit(window=window, quanta=(800_000 - level) * _DOLLAR)
    return Terms(
        amount_max=(100 - level) * _DOLLAR,
        budgets=(budget,) if is_limited else (),
        counts=(CountLimit(window=Window.EVER, payments=10**9),)
        if is_limited and not level
        else (),
        payees=frozenset({payee}),
        instruments=frozenset({hub.agents.network}),
        models=frozenset({"m", "n@standard"}),
        delegations_max=MANDATE_DEPTH_MAX - 1 - level,
    )


def _purchase(hub: Hub, payee: UUID) -> Purchase:
    return Purchase(
        payee_id=payee,
        quanta=_QUANTA,
        currency="USD",
        instrument=hub.agents.network,
        model="m@standard",
    )


def _placement(hub: Hub, path_id: UUID, version: int, *, payments: int = 0) -> Placement:
    now = hub.clock.now()
    counted = (Reservation(asset_id=ASSET_IDS["LIMIT.PAYMENTS"], quanta=payments),)
    return Placement(
        hold_id=hub.ids.mint(),
        path_id=path_id,
        path_version=version,
        reservations=(
            Reservation(asset_id=ASSET_IDS["USD"], quanta=_QUANTA),
            Reservation(asset_id=ASSET_IDS["LIMIT.USD"], quanta=_QUANTA),
            *(counted if payments else ()),
        ),
        expires_at=now + timedelta(minutes=5),
        deadline=now + timedelta(seconds=30),
    )


async def _predicates_us(hub: Hub, times: int = 2_000) -> float:
    rows = await hub.agents.mandates.list_mandates(count=4 * MANDATE_DEPTH_MAX)
    deepest = max(rows, key=lambda mandate: mandate.depth)
    chain = await hub.agents.mandates.chain(deepest.mandate_id)
    assert len(chain) == MANDATE_DEPTH_MAX, "a whole chain is among them"
    payees = chain[-1].terms.payees
    assert payees, "the chain names its payee"
    purchase = _purchase(hub, next(iter(payees)))
    now = hub.clock.now()
    merged = merge_chain(chain)
    began = time.perf_counter()
    for _ in range(times):
        merged.judge(purchase, now=now)
    return (time.perf_counter() - began) / times * 1e6


async def measure_on(server: Server, database: Database, effort: Effort) -> dict[str, Any]:
    """
    Open a hub on a fresh database and measure.
    """
    settings = settings_of(server.data_dir)
    async with open_hub(settings, database.dsn_posting, name="mandate chain") as hub:
        return await measure(hub, effort, lambda: server.cpu_s() + time.process_time())


def table(figures: dict[str, Any]) -> Table:
    """
    Return the target's figures, a line for each kind of path.
    """
    target = figures["target_added"]
    title = f"what a chain of eight mandates adds to a hold (wanted: at most {target:.0%})"
    found = Table(title=title)
    found.add_column("path")
    headings = ("paths", "us a hold", "added", "CPU us a hold", "CPU added", "wanted")
    for heading in headings:
        found.add_column(heading, justify="right")
    for paths, row in figures["by_paths"].items():
        for kind, text in KINDS.items():
            if kind not in row["microseconds_per_hold"]:
                continue
            added = row["added_to_plain"].get(kind)
            cpu_added = row["cpu_added_to_plain"].get(kind)
            found.add_row(
                text,
                paths,
                f"{row['microseconds_per_hold'][kind]:g}",
                "" if added is None else f"{added:+.0%}",
                f"{row['cpu_microseconds_per_hold'][kind]:g}",
                "" if cpu_added is None else f"{cpu_added:+.0%}",
                "" if added is None else "met" if added <= target else "missed",
            )
    return found


def main() -> None:
    """
    Measure on a server of its own and print the figures; ``--quick`` for a short look.
    """
    effort = QUICK if "--quick" in sys.argv[1:] else FULL
    with running_server() as server, server.copy(EMPTY) as database:
        figures = asyncio.run(measure_on(server, database, effort))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print_json(data=figures)
    console.print(table(figures))


if __name__ == "__main__":
    main()
