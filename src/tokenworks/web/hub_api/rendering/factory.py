"""
Turn what the factory says into the shapes of this API; pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from tokenworks.factory.live.model import JOULES_PER_KWH, MICRO, Interval, SourceKind, SupplierMeter
from tokenworks.factory.live.service import LiveMeter, Tail, from_us
from tokenworks.factory.live.store import EnergyGroup, UnattributedEnergy, UnmeteredCalls
from tokenworks.foundation.money import USD, quanta_to_text
from tokenworks.web.hub_api.shapes import factory as shapes

_MILLION: Final = 1_000_000
_UNATTRIBUTED: Final = "unattributed"
Stage = Literal["electricity", "compute", "model", "tokens", "applications"]


def to_meter(
    meter: SupplierMeter, *, supplier: str, currency: str, live: LiveMeter | None = None
) -> shapes.MeterShape:
    """
    Return a meter with its supplier's name.
    """
    terms = meter.terms
    settings = terms.settings
    last_us = None if live is None else live.last_reading_us
    until_us = None if live is None else live.divided_until_us
    return shapes.MeterShape(
        meter_id=meter.meter_id,
        name=terms.name,
        supplier=supplier,
        supplier_id=meter.supplier_id,
        source=terms.source.value,
        is_measured=terms.source is not SourceKind.MODEL,
        boundary=terms.boundary,
        interval_s=terms.interval_us / MICRO,
        gap_max_s=terms.gap_max_us / MICRO,
        power_max_w=terms.power_max_uw / MICRO,
        devices=list(terms.devices),
        url=settings.url,
        port=settings.port,
        pid=settings.pid,
        tdp_w=settings.tdp_w,
        engine_url=settings.engine_url,
        host=settings.host or (meter.reader and meter.reader.host) or None,
        read_by=None if meter.reader is None else meter.reader.holder,
        read_until=None if meter.reader is None else meter.reader.leased_until,
        price_per_kwh=_money(terms.price_nano_per_kwh),
        currency=currency,
        grid=_grid(meter),
        created_at=meter.created_at,
        retired_at=meter.retired_at,
        last_reading_at=None if last_us is None else from_us(last_us),
        posted_until=None if until_us is None else from_us(until_us),
    )


def _grid(meter: SupplierMeter) -> shapes.GridFactorShape | None:
    terms = meter.terms
    if terms.co2e_mg_per_kwh is None or terms.co2e_source is None or terms.co2e_method is None:
        return None
    return shapes.GridFactorShape(
        co2e_g_per_kwh=quanta_to_text(terms.co2e_mg_per_kwh, scale=3),
        source=terms.co2e_source,
        method=terms.co2e_method.value,
    )


def to_live(
    meters: Sequence[LiveMeter], names: Mapping[UUID, str], *, minutes: int, as_of: datetime
) -> shapes.LiveShape:
    """
    Return the last minutes of some meters, intervals of the same time together.
    """
    by_time: dict[tuple[int, int], list[tuple[SupplierMeter, Interval | Tail]]] = {}
    for live in meters:
        for part in (*live.intervals, *live.tail):
            by_time.setdefault((part.start_us, part.end_us), []).append((live.meter, part))
    faults = [
        shapes.FaultShape(
            meter=live.meter.terms.name,
            device=fault.device,
            kind=fault.kind.value,
            start=from_us(fault.start_us),
            end=from_us(fault.end_us),
            text=fault.text,
        )
        for live in meters
        for fault in live.faults
    ]
    faults += [
        shapes.FaultShape(
            meter=live.meter.terms.name,
            device=str(fault["device"]),
            kind=str(fault["kind"]),
            start=from_us(int(str(fault["start_us"]))),
            end=from_us(int(str(fault["end_us"]))),
            text=str(fault["text"]),
        )
        for live in meters
        for interval in live.intervals
        for fault in interval.faults
    ]
    return shapes.LiveShape(
        as_of=as_of,
        minutes=minutes,
        meters=[
            to_meter(
                live.meter, supplier=names[live.meter.supplier_id], currency=USD.code, live=live
            )
            for live in meters
        ],
        points=[
            _point(start_us, end_us, parts)
            for (start_us, end_us), parts in sorted(by_time.items(), key=lambda item: item[0])
        ],
        faults=sorted(faults, key=lambda fault: fault.start, reverse=True),
    )


def _point(
    start_us: int, end_us: int, parts: Sequence[tuple[SupplierMeter, Interval | Tail]]
) -> shapes.PowerPointShape:
    intervals = [part for _, part in parts if isinstance(part, Interval)]
    is_known = len(intervals) == len(parts)
    energy_uj = sum(part.metered_uj for _, part in parts)
    covered_us = sum(part.covered_us for _, part in parts)
    output = sum(interval.output_tokens for interval in intervals)
    duration_us = end_us - start_us
    return shapes.PowerPointShape(
        start=from_us(start_us),
        end=from_us(end_us),
        # Of the time that was metered: what was not is no zero.
        watts=_ratio(energy_uj * len(parts), covered_us) or 0.0,
        energy_uj=str(energy_uj),
        unattributed_uj=str(sum(one.unattributed_uj for one in intervals)) if is_known else None,
        coverage=_ratio(covered_us, duration_us * len(parts)) or 0.0,
        calls=sum(one.calls for one in intervals) if is_known else None,
        input_tokens=sum(one.input_tokens for one in intervals) if is_known else None,
        output_tokens=output if is_known else None,
        output_tokens_per_s=_ratio(output * MICRO, duration_us) if is_known else None,
        joules_per_output_token=_ratio(energy_uj, output * MICRO) if is_known else None,
        methods=sorted({method for one in intervals for method in one.methods}),
        is_measured=all(meter.terms.source is not SourceKind.MODEL for meter, _ in parts),
        is_complete=all(duration_us >= meter.terms.interval_us for meter, _ in parts),
        is_posted=is_known and all(one.posted_at is not None for one in intervals),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """
    Groups of calls, added up; ``None`` where one of them does not know.
    """

    calls: int
    calls_not_whole: int
    input_tokens: int
    output_tokens: int
    energy_uj: int
    prefill_uj: int
    decode_uj: int
    co2e_ug: int | None
    electricity_quanta: int | None
    charge_quanta: int
    payable_quanta: int

    @property
    def tokens(self) -> int:
        """
        Return tokens read and written.
        """
        return self.input_tokens + self.output_tokens


def add_up(groups: Sequence[EnergyGroup]) -> Sums:
    """
    Return the sums of some groups.
    """
    return Sums(
        calls=sum(group.calls for group in groups),
        calls_not_whole=sum(group.calls_not_whole for group in groups),
        input_tokens=sum(group.input_tokens for group in groups),
        output_tokens=sum(group.output_tokens for group in groups),
        energy_uj=sum(group.energy_uj for group in groups),
        prefill_uj=sum(group.prefill_uj for group in groups),
        decode_uj=sum(group.decode_uj for group in groups),
        co2e_ug=_sum_known(group.co2e_ug for group in groups),
        electricity_quanta=_sum_known(group.electricity_quanta for group in groups),
        charge_quanta=sum(group.charge_quanta for group in groups),
        payable_quanta=sum(group.payable_quanta for group in groups),
    )


def to_models(
    groups: Sequence[EnergyGroup],
    *,
    unmetered: Sequence[UnmeteredCalls] = (),
    suppliers: Mapping[UUID, str] | None = None,
    currency: str,
    hours: int,
    as_of: datetime,
) -> shapes.ModelEnergyList:
    """
    Return what each model's calls took.
    """
    by_model = _gather(groups, lambda group: group.model)
    items = [_model(model, some, currency) for model, some in by_model.items()]
    items.sort(key=lambda item: -int(item.energy_uj))
    names = suppliers or {}
    without = [
        shapes.WithoutEnergyShape(
            supplier=names.get(one.supplier_id, str(one.supplier_id)),
            reason=one.reason.value,
            calls=one.calls,
        )
        for one in unmetered
    ]
    return shapes.ModelEnergyList(as_of=as_of, hours=hours, items=items, without_energy=without)


def _model(model: str, groups: Sequence[EnergyGroup], currency: str) -> shapes.ModelEnergyShape:
    sums = add_up(groups)
    return shapes.ModelEnergyShape(
        model=model,
        calls=sums.calls,
        calls_not_whole=sums.calls_not_whole,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        energy_uj=str(sums.energy_uj),
        prefill_uj=str(sums.prefill_uj),
        decode_uj=str(sums.decode_uj),
        joules_per_token=_ratio(sums.energy_uj, sums.tokens * MICRO),
        joules_per_output_token=_ratio(sums.energy_uj, sums.output_tokens * MICRO),
        kwh_per_million_tokens=_ratio(sums.energy_uj, sums.tokens * JOULES_PER_KWH),
        electricity_cost=_money(sums.electricity_quanta),
        electricity_cost_per_million=_per_million(sums.electricity_quanta, sums.tokens),
        charge=quanta_to_text(sums.charge_quanta, scale=USD.scale),
        charge_per_million=_per_million(sums.charge_quanta, sums.tokens),
        currency=currency,
        co2e_g=_grams(sums.co2e_ug),
        methods=_methods(groups),
        is_measured=all(group.is_measured for group in groups),
    )


def to_chain(
    groups: Sequence[EnergyGroup],
    unattributed: Sequence[UnattributedEnergy],
    *,
    suppliers: Mapping[UUID, str],
    buyers: Mapping[UUID, str],
    currency: str,
    hours: int,
    as_of: datetime,
) -> shapes.ValueChainShape:
    """
    Return energy and money from the meter to the applications.
    """
    sums = add_up(groups)
    unattributed_uj = sum(one.energy_uj for one in unattributed)
    picture = _Chain()
    for group in groups:
        supplier = suppliers.get(group.supplier_id, str(group.supplier_id))
        buyer = buyers.get(group.organisation_id, str(group.organisation_id))
        told_uj = group.prefill_uj + group.decode_uj
        tokens = group.input_tokens + group.output_tokens
        picture.add("electricity", supplier, group.energy_uj, group.electricity_quanta)
        picture.add("compute", supplier, group.energy_uj, group.payable_quanta, tokens)
        picture.add("model", group.model, group.energy_uj, None, tokens)
        for phase, energy_uj, count in (
            ("read", group.prefill_uj, group.input_tokens),
            ("written", group.decode_uj, group.output_tokens),
            ("not told apart", group.energy_uj - told_uj, 0),
        ):
            picture.add("tokens", phase, energy_uj, None, count)
            picture.link("model", group.model, "tokens", phase, energy_uj)
            picture.link("tokens", phase, "applications", buyer, energy_uj)
        picture.add("applications", buyer, group.energy_uj, group.charge_quanta, tokens)
        picture.link("electricity", supplier, "compute", supplier, group.energy_uj)
        picture.link("compute", supplier, "model", group.model, group.energy_uj)
    for one in unattributed:
        supplier = suppliers.get(one.supplier_id, str(one.supplier_id))
        picture.add("electricity", supplier, one.energy_uj, None)
        picture.add("compute", _UNATTRIBUTED, one.energy_uj, None)
        picture.link("electricity", supplier, "compute", _UNATTRIBUTED, one.energy_uj)
    money: dict[Stage, tuple[int | None, str]] = {
        "electricity": (sums.electricity_quanta, "electricity of the calls"),
        "compute": (sums.payable_quanta, "owed to suppliers"),
        "model": (None, ""),
        "tokens": (sums.charge_quanta, "charged for tokens"),
        "applications": (sums.charge_quanta, "paid by buyers"),
    }
    whole_uj = sums.energy_uj + unattributed_uj
    return shapes.ValueChainShape(
        as_of=as_of,
        hours=hours,
        currency=currency,
        energy_uj=str(whole_uj),
        co2e_g=_grams(sums.co2e_ug),
        calls=sums.calls,
        is_measured=all(group.is_measured for group in groups)
        and all(one.is_measured for one in unattributed),
        methods=_methods(groups),
        stages=[
            shapes.ChainStageShape(
                stage=stage,
                energy_uj=str(whole_uj if stage in {"electricity", "compute"} else sums.energy_uj),
                money=_money(quanta),
                money_label=label,
                tokens=None if stage == "electricity" else sums.tokens,
                boxes=picture.boxes(stage),
            )
            for stage, (quanta, label) in money.items()
        ],
        links=picture.links(),
    )


class _Chain:
    """
    Boxes and links, added up.
    """

    def __init__(self) -> None:
        self._boxes: dict[tuple[Stage, str], list[int | None]] = {}
        self._links: dict[tuple[str, str], int] = {}

    def add(
        self, stage: Stage, label: str, energy_uj: int, quanta: int | None, tokens: int = 0
    ) -> None:
        if energy_uj == 0 and not quanta and not tokens:
            return
        box = self._boxes.setdefault((stage, label), [0, None, 0])
        box[0] = (box[0] or 0) + energy_uj
        box[1] = box[1] if quanta is None else (box[1] or 0) + quanta
        box[2] = (box[2] or 0) + tokens

    def link(
        self, source: Stage, source_label: str, target: Stage, target_label: str, energy_uj: int
    ) -> None:
        if energy_uj > 0:
            key = (f"{source}:{source_label}", f"{target}:{target_label}")
            self._links[key] = self._links.get(key, 0) + energy_uj

    def boxes(self, stage: Stage) -> list[shapes.ChainBoxShape]:
        return [
            shapes.ChainBoxShape(
                box=f"{stage}:{label}",
                label=label,
                energy_uj=str(energy_uj),
                money=_money(quanta),
                tokens=tokens or None,
            )
            for (one, label), (energy_uj, quanta, tokens) in self._boxes.items()
            if one == stage
        ]

    def links(self) -> list[shapes.ChainLinkShape]:
        return [
            shapes.ChainLinkShape(source=source, target=target, energy_uj=str(energy_uj))
            for (source, target), energy_uj in self._links.items()
        ]


def _gather(
    groups: Iterable[EnergyGroup], name: Callable[[EnergyGroup], str]
) -> dict[str, list[EnergyGroup]]:
    gathered: dict[str, list[EnergyGroup]] = {}
    for group in groups:
        gathered.setdefault(name(group), []).append(group)
    return gathered


def _methods(groups: Iterable[EnergyGroup]) -> list[str]:
    return sorted({method for group in groups for method in group.method.split("+")})


def _sum_known(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known or not known else sum(value or 0 for value in known)


def _ratio(dividend: int, divisor: int) -> float | None:
    return dividend / divisor if divisor else None


def _money(quanta: int | None) -> str | None:
    return None if quanta is None else quanta_to_text(quanta, scale=USD.scale)


def _grams(micrograms: int | None) -> str | None:
    return None if micrograms is None else quanta_to_text(micrograms, scale=6)


def _per_million(quanta: int | None, tokens: int) -> str | None:
    # A rate for people: the rest of the division is below a quantum.
    if quanta is None or not tokens:
        return None
    return quanta_to_text(quanta * _MILLION // tokens, scale=USD.scale)
