"""
Give ids their names, for people.

A party is never renamed, so what is remembered stays true.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol
from uuid import UUID

from tokenworks.foundation.errors import NotFoundError
from tokenworks.identity.model import ApiKey, Party
from tokenworks.web.hub_api.shapes.parts import PartyRef

NAMES_MAX: Final = 50_000


class PartySource(Protocol):
    """
    Where parties and keys are known.
    """

    async def get_party(self, reference: UUID | str) -> Party:
        """
        Return a party by id or name, or raise a not-found error.
        """
        ...

    async def get_key(self, key_id: UUID) -> ApiKey:
        """
        Return a key by id, or raise a not-found error.
        """
        ...


class Directory:
    """
    Remember the names of parties.
    """

    def __init__(self, identity: PartySource) -> None:
        self._identity = identity
        self._names: dict[UUID, str] = {}

    async def load(self, party_ids: Iterable[UUID | None]) -> None:
        """
        Make sure the names of these parties are known; unknown ids keep their id as name.
        """
        for party_id in set(party_ids):
            if party_id is None or party_id in self._names:
                continue
            try:
                name = (await self._identity.get_party(party_id)).name
            except NotFoundError:
                continue
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            self._names[party_id] = name

    def name(self, party_id: UUID) -> str:
        """
        Return the name of a party that was loaded.
        """
        return self._names.get(party_id) or str(party_id)

    def party(self, party_id: UUID) -> PartyRef:
        """
        Return a party that was loaded, by id and name.
        """
        return PartyRef(party_id=party_id, name=self.name(party_id))

    def party_or_none(self, party_id: UUID | None) -> PartyRef | None:
        """
        Return a party that was loaded; ``None`` stays ``None``.
        """
        return None if party_id is None else self.party(party_id)

    async def resolve(self, party_id: UUID) -> PartyRef:
        """
        Load and return one party.
        """
        await self.load([party_id])
        return self.party(party_id)
