"""
Place a party in the tree, and read its chain back; pure.

The order of the checks: name, tier, kind, level, parent. The database repeats the rules
about levels, kinds and organisations as constraints (migration 0003).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from tokenworks.identity.errors import InvalidPartyError, PartyStateError
from tokenworks.identity.model import Level, Party, PartyKind, PartyState

PARENT_LEVELS: Final[dict[Level, frozenset[Level]]] = {
    Level.ORGANISATION: frozenset(),
    Level.TEAM: frozenset({Level.ORGANISATION}),
    Level.USER: frozenset({Level.ORGANISATION, Level.TEAM}),
    Level.AGENT: frozenset({Level.ORGANISATION, Level.TEAM, Level.USER}),
}
"""Levels on which the parent of a party may stand; an organisation has none."""

CHAIN_LENGTH_MAX: Final = len(Level)

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_TIER: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_UNIQUE_KINDS: Final = frozenset({PartyKind.PLATFORM, PartyKind.TAX_AUTHORITY})


def check_name(name: str) -> None:
    """
    Refuse a name that is not a short lower-case word.

    Text that reads as a UUID is refused too: a party is looked up by name or id, and one
    party must not pass for another.

    Raises:
        InvalidPartyError: With the rule that the name breaks.
    """
    if not _NAME.fullmatch(name):
        message = (
            "A party's name is 1 to 63 of a-z, 0-9, dot, underscore and hyphen, and begins"
            " with a letter or digit."
        )
        raise InvalidPartyError(message, param="name")
    if parse_party_id(name) is not None:
        message = "A party's name may not look like an id."
        raise InvalidPartyError(message, param="name")


def check_tier_name(tier: str | None) -> None:
    """
    Refuse text that cannot be a tier; whether the tier is sold is not known here.

    Raises:
        InvalidPartyError: Not a lower-case word of at most 32 characters.
    """
    if tier is not None and not _TIER.fullmatch(tier):
        message = "A tier is a lower-case word such as 'standard'."
        raise InvalidPartyError(message, param="default_tier")


def parse_party_id(text: str) -> UUID | None:
    """
    Return ``text`` as an id, or ``None`` when it is not one.
    """
    try:
        return UUID(text)
    except ValueError:
        return None


def default_level(parent: Party | None) -> Level:
    """
    Return the level meant when none is given: one below the parent.
    """
    if parent is None:
        return Level.ORGANISATION
    below = {Level.ORGANISATION: Level.TEAM, Level.TEAM: Level.USER}
    return below.get(parent.level, Level.AGENT)


def check_place(*, kind: PartyKind, level: Level, parent: Party | None) -> None:
    """
    Refuse a place in the tree that does not exist.

    Raises:
        InvalidPartyError: The kind is the hub's own, the level needs (or must not have) a
            parent, or the parent is of another kind or on the wrong level.
        PartyStateError: The parent is closed.
    """
    if kind in _UNIQUE_KINDS:
        message = f"The party of kind {kind} exists from the start and is the only one."
        raise InvalidPartyError(message, param="kind")
    if kind is not PartyKind.BUYER and (level is not Level.ORGANISATION or parent is not None):
        message = f"A {kind} is an organisation without a parent; only buyers have teams."
        raise InvalidPartyError(message, param="level")
    if parent is None:
        if level is not Level.ORGANISATION:
            message = f"A {level} needs a parent; only an organisation stands alone."
            raise InvalidPartyError(message, param="parent")
        return
    _check_parent(level=level, parent=parent)


def chain_of(parties: Mapping[UUID, Party], party_id: UUID) -> tuple[Party, ...]:
    """
    Return the parties from the organisation down to ``party_id``.

    Raises:
        KeyError: The party or one of its ancestors is not in ``parties``.
    """
    chain = [parties[party_id]]
    while (parent_id := chain[-1].parent_id) is not None:
        assert len(chain) < CHAIN_LENGTH_MAX, "levels descend, so a chain is short"
        chain.append(parties[parent_id])
    return tuple(reversed(chain))


def _check_parent(*, level: Level, parent: Party) -> None:
    if parent.kind is not PartyKind.BUYER:
        message = f"The parent {parent.name!r} is a {parent.kind}; only buyers have a tree."
        raise InvalidPartyError(message, param="parent")
    if parent.level not in PARENT_LEVELS[level]:
        allowed = ", ".join(sorted(PARENT_LEVELS[level])) or "none"
        message = (
            f"The parent {parent.name!r} is on the level {parent.level};"
            f" the parent of {level} may be: {allowed}."
        )
        raise InvalidPartyError(message, param="parent")
    if parent.state is PartyState.CLOSED:
        message = f"The parent {parent.name!r} is closed."
        raise PartyStateError(message, param="parent")
