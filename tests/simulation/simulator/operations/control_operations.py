"""
Limits are set and removed, parties and keys are stopped: what an owner does beside the calls.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random

from tests.simulation.simulator.auditor import PLATFORM
from tests.simulation.simulator.laws import BrokenLawError, Law
from tests.simulation.simulator.naive_windows import NaiveLimit, NaiveWindow
from tests.simulation.simulator.simulation import Simulation
from tests.simulation.simulator.world import DOLLAR, USD_ID, add_key
from tokenworks.foundation.money import LIMIT_TOKENS, LIMIT_USD
from tokenworks.identity.model import PartyState
from tokenworks.metering.model import Axis

ASSETS = {11: LIMIT_USD, 13: LIMIT_TOKENS}
ZONES = ("UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York")
LIMITS_MAX = 12


async def set_limit(simulation: Simulation, random: Random) -> str:
    """
    Set a limit, raise it or lower it.
    """
    limits, now = simulation.auditor.limits, simulation.clock.now()
    key = random.choice(simulation.world.keys)
    scope = random.choice(key.scopes)
    asset = random.choice(sorted(ASSETS))
    kind = random.choice(("ever", "day", "day", "month", "year"))
    sizes = (0, DOLLAR // 200, DOLLAR // 20, 5 * DOLLAR) if asset == 11 else (0, 700, 5_000, 10**6)
    quanta = random.choice(sizes)
    known = limits.find(scope, asset, kind)
    open_count = sum(limit.is_open for limit in limits.limits.values())
    if known is None and open_count >= LIMITS_MAX:
        return "enough limits"
    zone = known.zone if known else random.choice(ZONES)
    if known is not None:
        expect_change(simulation, known, quanta)
    view = await simulation.hub.ledger.set_limit(
        scope_id=scope,
        asset=ASSETS[asset],
        quanta=quanta,
        window=kind,
        time_zone=zone,
        actor="simulation",
    )
    if known is None:
        known = NaiveLimit(view.limit_id, scope, asset, quanta, kind, zone, now)
        limits.limits[view.limit_id] = known
    known.quanta = quanta
    window = limits.current(known, now)
    remaining = quanta
    if window is not None:
        remaining = simulation.auditor.naive.accounts[window.account].available
    if (view.quanta, view.remaining) != (quanta, remaining):
        message = f"limit {view.limit_id} of {quanta}: {view.remaining} left, naively {remaining}"
        raise BrokenLawError(Law.WINDOW, message)
    title = f"{simulation.world.label(scope)} {ASSETS[asset].code} per {kind}"
    return f"limit {title} {quanta}, {remaining} left"


def expect_change(simulation: Simulation, limit: NaiveLimit, quanta: int) -> None:
    """
    Expect the open window of a limit to get what is more, or to give back what is less.
    """
    window = simulation.auditor.limits.current(limit, simulation.clock.now())
    is_lowered = quanta < limit.quanta
    if window is None:
        return
    window.target = quanta
    if is_lowered:
        expect_collection(simulation)
    elif quanta > window.granted:
        _expect_flow(simulation, window, quanta - window.granted)


def expect_collection(simulation: Simulation) -> int:
    """
    Expect every window that has more than its limit says to give back what it has.
    """
    count = 0
    for window in simulation.auditor.limits.windows.values():
        account = simulation.auditor.naive.accounts[window.account]
        back = min(window.granted - window.target, account.available)
        if back > 0:
            _expect_flow(simulation, window, -back)
            count += 1
    return count


def _expect_flow(simulation: Simulation, window: NaiveWindow, quanta: int) -> None:
    name = simulation.auditor.names[window.account]
    source = (PLATFORM, "limit_source", name[2])
    debit, credit = (source, name) if quanta > 0 else (name, source)
    simulation.expect(debit, credit, abs(quanta))
    window.granted += quanta


async def remove_limit(simulation: Simulation, random: Random) -> str:
    """
    Remove a limit of a party or a key; those of mandates end with them.
    """
    own = {scope for key in simulation.world.keys for scope in key.scopes}
    known = simulation.auditor.limits.limits.values()
    limits = [limit for limit in known if limit.is_open and limit.scope in own]
    if not limits:
        return "no limits"
    limit = random.choice(limits)
    await simulation.hub.ledger.remove_limit(limit.limit_id, actor="simulation")
    limit.is_open = False
    return f"removed a limit of {simulation.world.label(limit.scope)}"


async def stop_party(simulation: Simulation, random: Random) -> str:
    """
    Freeze a party, or thaw one.
    """
    states = simulation.auditor.scope_states
    frozen = [p for p in simulation.world.parties if states[p.party_id] != "active"]
    is_thaw = len(frozen) > random.randint(0, 1)
    # Most telling where something is going on: an open stream has to grow below it.
    busy = [scope for call in simulation.calls if call.is_running for scope in call.scopes]
    wanted = [p for p in simulation.world.parties if p.party_id in busy]
    party = random.choice(frozen if is_thaw else wanted or simulation.world.parties)
    state = PartyState.ACTIVE if party in frozen else PartyState.FROZEN
    await simulation.hub.opening.set_party_state(party, state)
    simulation.auditor.scope_states[party.party_id] = state.value
    history = simulation.world.states.setdefault(party.party_id, [])
    history.append((simulation.clock.now(), state.value))
    return f"{party.name} is {state.value}"


async def revoke_key(simulation: Simulation, random: Random) -> str:
    """
    Revoke a key and add another one to the same party.
    """
    working = [key for key in simulation.world.keys if key.revoked_at is None]
    key = random.choice(working)
    await simulation.hub.opening.revoke_key(key.key_id)
    key.revoked_at = simulation.clock.now()
    simulation.auditor.scope_states[key.key_id] = "closed"
    simulation.world.states[key.key_id] = [(key.revoked_at, "revoked")]
    owner = next(p for p in simulation.world.parties if p.party_id == key.key.party_id)
    lives = timedelta(days=random.choice((1, 30))) if random.random() < 0.3 else None
    expires_at = None if lives is None else simulation.clock.now() + lives
    fresh = await add_key(
        simulation.hub, simulation.auditor, simulation.world, owner, expires_at=expires_at
    )
    funding = await simulation.auditor.number((fresh.scopes[0], "cash", USD_ID))
    simulation.auditor.publish(fresh.key_id, 1, fresh.scopes, funding)
    return f"{key.label} is revoked, {fresh.label} is new"


async def publish_path(simulation: Simulation, random: Random) -> str:
    """
    Publish a key's spend path anew, with one more limit-carrying scope or one less.
    """
    key = random.choice(simulation.world.keys)
    is_short = len(key.path_scopes) < len(key.scopes)
    scopes = key.scopes if is_short else [key.scopes[0], key.key_id]
    version = await simulation.hub.ledger.publish_path(
        path_id=key.key_id, scope_ids=scopes, funding_party_id=key.scopes[0]
    )
    expected = key.version + (scopes != key.path_scopes)
    if version != expected:
        raise BrokenLawError(Law.SPEND_PATH, f"{key.label}: version {version}, not {expected}")
    key.version, key.path_scopes = version, list(scopes)
    funding = await simulation.auditor.number((key.scopes[0], "cash", USD_ID))
    simulation.auditor.publish(key.key_id, version, list(scopes), funding)
    return f"{key.label} spends by version {version}"


async def change_prices(simulation: Simulation, random: Random) -> str:
    """
    Set new prices of a model at a tier; calls that are open keep theirs.
    """
    model, tier = random.choice(sorted(simulation.world.prices))
    if tier == "free":
        return "free stays free"
    # Prices are dated to the moment: two versions of one moment must be the same.
    await simulation.advance(timedelta(seconds=1))
    if any(begins == simulation.clock.now() for begins, _ in simulation.world.prices[model, tier]):
        return "the clock was set back to this very moment"
    names = ("input", "cache_read", "output")
    given = {Axis(name): random.randrange(1, 10**10) for name in names}
    card = await simulation.hub.prices.set_prices(model, tier, given)
    prices = {axis.value: price.nano_per_million for axis, price in card.prices.items()}
    simulation.world.prices[model, tier].append((simulation.clock.now(), prices))
    return f"{model}@{tier} costs {prices['output']}"


async def pause_offer(simulation: Simulation, random: Random) -> str:
    """
    Pause an offer, or resume one.
    """
    offers, paused = simulation.world.offers, simulation.world.paused
    offer = random.choice(list(offers.values()))
    if offer.offer_id in paused or (paused and random.random() < 0.5):
        offer_id = min(paused) if offer.offer_id not in paused else offer.offer_id
        await simulation.hub.supply.resume_offer(offer_id)
        paused.discard(offer_id)
        return f"{offers[offer_id].supplier_name} sells {offers[offer_id].model} again"
    await simulation.hub.supply.pause_offer(offer.offer_id)
    paused.add(offer.offer_id)
    return f"{offer.supplier_name} pauses {offer.model}@{offer.tier}"


OPERATIONS = {
    "set_limit": (8, set_limit),
    "remove_limit": (2, remove_limit),
    "stop_party": (4, stop_party),
    "revoke_key": (1, revoke_key),
    "publish_path": (2, publish_path),
    "change_prices": (2, change_prices),
    "pause_offer": (2, pause_offer),
}
