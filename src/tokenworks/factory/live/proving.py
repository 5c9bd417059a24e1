"""
Sign what a call took, as an addendum of its receipt, and sign again when that changes.

An addendum is due once every interval that the call ran in is posted. It says the sum of the
call's shares over the last revisions; when that sum is another one later, the next number says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final
from uuid import UUID

from msgspec import UNSET

from tokenworks.factory.live.model import JOULES_PER_KWH, MICRO, EngineCall, SupplierMeter
from tokenworks.factory.live.service import to_us
from tokenworks.factory.live.store import CallTotal, FactoryStore
from tokenworks.factory.ports import EngineCalls
from tokenworks.foundation.clock import Clock
from tokenworks.foundation.money import quanta_to_text
from tokenworks.receipts.addenda import (
    AddendumPayload,
    EmissionStatement,
    EnergyStatement,
    present_addendum,
    sign_addendum,
)
from tokenworks.receipts.jws import ADDENDUM_TYPE, read_compact, to_base64url
from tokenworks.receipts.service import ReceiptKeys
from tokenworks.receipts.signing import LaneSigner

_UJ_PER_KWH: Final = JOULES_PER_KWH * MICRO
_UG_PER_MG: Final = 1_000
WAIT_FOR_INTERVAL: Final = timedelta(minutes=5)
"""So long after its end a call is signed, as not whole, when its last interval did not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """
    What was signed, and what cannot be yet.
    """

    signed: int
    waiting: Sequence[UUID]  # calls that go on in an interval that is not divided


class EnergyProofs:
    """
    Issue addenda, and show those that were issued.
    """

    def __init__(
        self, store: FactoryStore, calls: EngineCalls, keys: ReceiptKeys, clock: Clock
    ) -> None:
        self._store = store
        self._calls = calls
        self._keys = keys
        self._clock = clock
        self._certificates: dict[str, str] = {}

    async def documents(self, call_id: UUID) -> list[dict[str, object]]:
        """
        Return what was signed about a call, each with its key's certificate, in their order.
        """
        return [
            present_addendum(jws, certificate=await self._certificate(jws))
            for jws in await self._store.addenda(call_id)
        ]

    async def prove(
        self,
        meter: SupplierMeter,
        interval_ids: Sequence[UUID],
        *,
        call_ids: Sequence[UUID] = (),
        signer: LaneSigner,
    ) -> Proven:
        """
        Sign what some calls, and those of some intervals, took, where it is known and not said yet.

        A repeat finds nothing to sign; another process that signs the same number is first or
        second, and only the first counts.
        """
        totals = await self._store.call_totals(interval_ids, call_ids)
        until_us = await self._store.divided_until(meter.meter_id)
        if not totals or until_us is None:
            return Proven(signed=0, waiting=())
        # A meter that says no more will not have the intervals of the rest either.
        until_us = max(until_us, to_us(self._clock.now() - WAIT_FOR_INTERVAL))
        waiting: list[UUID] = []
        ids = [total.call_id for total in totals]
        attempts: dict[UUID, list[EngineCall]] = {}
        for one in await self._calls.by_id(meter.supplier_id, ids):
            attempts.setdefault(one.call_id, []).append(one)
        rows: list[Mapping[str, object]] = []
        for total in totals:
            made = attempts.get(total.call_id, [])
            if not made:
                continue
            if max(one.end_us for one in made) > until_us:
                waiting.append(total.call_id)  # Its last interval is not divided yet.
                continue
            is_whole = _is_whole(total, made)
            said = (total.signed_uj, total.signed_whole, total.signed_method)
            if (total.energy_uj, is_whole, total.method) == said:
                continue
            root = await self._calls.receipt_root(total.call_id)
            if root is not None:
                whole = replace(total, is_whole=is_whole)
                rows.append(self._sign(meter, whole, made[-1], root, signer))
        await self._store.add_addenda(rows)
        return Proven(signed=len(rows), waiting=waiting)

    def _sign(
        self,
        meter: SupplierMeter,
        total: CallTotal,
        call: EngineCall,
        root: bytes,
        signer: LaneSigner,
    ) -> Mapping[str, object]:
        """
        Return the columns of the next addendum of a call.
        """
        now = self._clock.now()
        terms = meter.terms
        emitted_ug: int | None = None
        emissions: EmissionStatement | None = None
        if terms.co2e_mg_per_kwh is not None:
            assert terms.co2e_source is not None, "a factor has its source"
            assert terms.co2e_method is not None, "a factor has its method"
            # Rounded down, as all energy is; the factor is the operator's, word by word.
            emitted_ug = total.energy_uj * terms.co2e_mg_per_kwh * _UG_PER_MG // _UJ_PER_KWH
            emissions = EmissionStatement(
                co2e_ug=str(emitted_ug),
                g_per_kwh=quanta_to_text(terms.co2e_mg_per_kwh, scale=3),
                source=terms.co2e_source,
                method=terms.co2e_method.value,
            )
        number = total.addenda + 1
        has_steps = "step_phase" in total.method
        jws = sign_addendum(
            AddendumPayload(
                issuer=signer.issuer,
                issued_at_s=int(now.timestamp()),
                call_id=total.call_id,
                lane=signer.lane,
                receipt=to_base64url(root),
                number=number,
                supersedes=total.addenda or None,
                energy=EnergyStatement(
                    energy_uj=str(total.energy_uj),
                    prefill_uj=str(total.prefill_uj),
                    decode_uj=str(total.decode_uj),
                    context_uj=str(total.context_uj) if has_steps else UNSET,
                    residency_uj=str(total.residency_uj) if has_steps else UNSET,
                    method=total.method,
                    source="measured" if total.is_measured else "model",
                    boundary=terms.boundary,
                    is_whole=total.is_whole,
                ),
                emissions=emissions,
            ),
            signer,
        )
        price = terms.price_nano_per_kwh
        return {
            "call_id": total.call_id,
            "number": number,
            "supplier_id": meter.supplier_id,
            "organisation_id": call.organisation_id,
            "model": call.model,
            "tier": call.tier,
            "energy_uj": total.energy_uj,
            "prefill_uj": total.prefill_uj,
            "decode_uj": total.decode_uj,
            "context_uj": total.context_uj,
            "residency_uj": total.residency_uj,
            "method": total.method,
            "is_measured": total.is_measured,
            "is_whole": total.is_whole,
            "co2e_ug": emitted_ug,
            "electricity_quanta": None if price is None else total.energy_uj * price // _UJ_PER_KWH,
            "input_tokens": call.input_tokens + call.cached_tokens,
            "output_tokens": call.output_tokens,
            "charge_quanta": call.charge_quanta,
            "payable_quanta": call.payable_quanta,
            "ended_at": call.ended_at,
            "issued_at": now,
            "jws": jws,
        }

    async def _certificate(self, jws: str) -> str:
        kid = read_compact(jws, ADDENDUM_TYPE).header.kid
        if kid not in self._certificates:
            self._certificates[kid] = (await self._keys.signer(kid)).certificate
        return self._certificates[kid]


def _is_whole(total: CallTotal, made: Sequence[EngineCall]) -> bool:
    """
    Tell whether every moment of a call was validly metered, those between intervals too.
    """
    return (
        total.is_whole
        and total.metered_us == total.end_us - total.start_us
        and total.start_us <= min(one.start_us for one in made)
        and total.end_us >= max(one.end_us for one in made)
    )
