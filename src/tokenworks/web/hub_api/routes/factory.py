"""
The token factory: meters, power and tokens live, energy of models, the value chain.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from tokenworks.factory.live.model import SupplierMeter
from tokenworks.foundation.money import MICROJOULE, USD, quanta_from_text
from tokenworks.web.hub_api.access import (
    ADMIN_ONLY,
    Admin,
    Caller,
    Services,
    actor_of,
    reader_of,
    visible_call,
)
from tokenworks.web.hub_api.bodies import NameOrId
from tokenworks.web.hub_api.factory_bodies import (
    Hours,
    MeterIn,
    Minutes,
    ReadingsIn,
    ReleaseIn,
    StepsIn,
)
from tokenworks.web.hub_api.rendering.factory import to_chain, to_live, to_meter, to_models
from tokenworks.web.hub_api.services import HubServices
from tokenworks.web.hub_api.shapes.factory import (
    AddendumShape,
    LiveShape,
    MeterShape,
    ModelEnergyList,
    ReadingsAccepted,
    StepRemark,
    StepsAccepted,
    ValueChainShape,
)
from tokenworks.web.hub_api.shapes.parts import Items

router: Final = APIRouter(tags=["factory"])

MINUTES_DEFAULT: Final = 15
HOURS_DEFAULT: Final = 24


@router.post("/factory/meters", status_code=201)
async def add_meter(body: MeterIn, services: Services, caller: Admin) -> MeterShape:
    """
    Add a supplier's power meter; the worker reads it from now on, unless readings are pushed.
    """
    supplier = await services.supply.get_supplier(body.supplier)
    for url in (body.url, body.engine_url):
        if url is not None:
            await services.supply.check_url(url, allow_private=body.allow_private)
    meter = await services.factory.add_meter(
        supplier.supplier_id, body.to_terms(), actor=actor_of(caller, None)
    )
    return to_meter(meter, supplier=supplier.name, currency=USD.code)


@router.get("/factory/meters", dependencies=ADMIN_ONLY)
async def list_meters(
    services: Services,
    retired: Annotated[bool, Query()] = False,  # noqa: FBT002 - in the URL
) -> Items[MeterShape]:
    """
    List the meters in use, and those that were retired where they are asked for.
    """
    names = await _suppliers(services)
    meters = await services.factory.store.meters(with_retired=retired)
    return Items(
        items=[
            to_meter(meter, supplier=names[meter.supplier_id], currency=USD.code)
            for meter in meters
        ]
    )


@router.get("/factory/meters/{meter_id}", dependencies=ADMIN_ONLY)
async def get_meter(meter_id: UUID, services: Services) -> MeterShape:
    """
    Show one meter, and until when it was read and posted.
    """
    meter = await services.factory.get_meter(meter_id)
    live = await services.factory.look(meter, 1)
    names = await _suppliers(services)
    return to_meter(meter, supplier=names[meter.supplier_id], currency=USD.code, live=live)


@router.post("/factory/meters/{meter_id}/retire", dependencies=ADMIN_ONLY)
async def retire_meter(meter_id: UUID, services: Services) -> MeterShape:
    """
    Read a meter no more; what it said is still divided and posted.
    """
    meter = await services.factory.retire_meter(meter_id)
    names = await _suppliers(services)
    return to_meter(meter, supplier=names[meter.supplier_id], currency=USD.code)


@router.post("/factory/meters/{meter_id}/release", dependencies=ADMIN_ONLY)
async def release_meter(meter_id: UUID, body: ReleaseIn, services: Services) -> MeterShape:
    """
    Let another process, or another machine, read a meter from now on.
    """
    meter = await services.factory.release_meter(meter_id, holder=body.reader)
    names = await _suppliers(services)
    return to_meter(meter, supplier=names[meter.supplier_id], currency=USD.code)


@router.post("/factory/meters/{meter_id}/readings", status_code=201)
async def add_readings(
    meter_id: UUID, body: ReadingsIn, services: Services, caller: Admin
) -> ReadingsAccepted:
    """
    Take readings of a meter of the source push, right or wrong, in their order.

    One sender at a time: another one's are refused until the first one's lease has run out.
    """
    readings = [reading.to_reading() for reading in body.readings]
    ranges = {
        one.device: quanta_from_text(one.counter_range_joules, scale=MICROJOULE.scale)
        for one in body.readings
        if one.counter_range_joules is not None
    }
    taken = await services.factory.take_readings(
        meter_id,
        readings,
        counter_ranges_uj=ranges,
        reader=body.reader or actor_of(caller, None),
        lease_s=body.lease_s,
    )
    return ReadingsAccepted(readings=taken)


@router.post("/factory/meters/{meter_id}/steps", status_code=201, dependencies=ADMIN_ONLY)
async def add_steps(meter_id: UUID, body: StepsIn, services: Services) -> StepsAccepted:
    """
    Take steps of the engine behind a meter: its intervals are divided by them, phase by phase.

    A row that cannot be kept keeps no other one out; all refused is an error.
    """
    steps, refused = body.to_steps()
    taken = await services.factory.take_steps(meter_id, steps, refused=refused)
    return StepsAccepted(
        steps=len(taken.steps),
        repeated=taken.repeated,
        remarks=[
            StepRemark(row=one.row, column=one.column, text=one.text) for one in taken.remarks
        ],
        refused=[
            StepRemark(row=one.row, column=one.column, text=one.text) for one in taken.refused
        ],
    )


@router.get("/factory/live", dependencies=ADMIN_ONLY)
async def live(
    services: Services, minutes: Minutes = MINUTES_DEFAULT, supplier: NameOrId | None = None
) -> LiveShape:
    """
    Show power and tokens by interval over the last minutes, oldest first.
    """
    meters = await _meters(services, supplier)
    looked = [await services.factory.look(meter, minutes) for meter in meters]
    names = await _suppliers(services)
    return to_live(looked, names, minutes=minutes, as_of=services.clock.now())


@router.get("/factory/models", dependencies=ADMIN_ONLY)
async def models(services: Services, hours: Hours = HOURS_DEFAULT) -> ModelEnergyList:
    """
    Show what each model's calls took, with cost and price per million tokens.
    """
    return to_models(
        await services.factory.energy_groups(hours),
        unmetered=await services.factory.unmetered(hours),
        suppliers=await _suppliers(services),
        currency=USD.code,
        hours=hours,
        as_of=services.clock.now(),
    )


@router.get("/factory/chain", dependencies=ADMIN_ONLY)
async def value_chain(services: Services, hours: Hours = HOURS_DEFAULT) -> ValueChainShape:
    """
    Show energy and money along electricity -> compute -> model -> tokens -> applications.
    """
    groups = await services.factory.energy_groups(hours)
    unattributed = await services.factory.unattributed(hours)
    await services.directory.load({group.organisation_id for group in groups})
    return to_chain(
        groups,
        unattributed,
        suppliers=await _suppliers(services),
        buyers={
            group.organisation_id: services.directory.name(group.organisation_id)
            for group in groups
        },
        currency=USD.code,
        hours=hours,
        as_of=services.clock.now(),
    )


@router.get("/receipts/{call_id}/addenda")
async def addenda(call_id: UUID, services: Services, caller: Caller) -> Items[AddendumShape]:
    """
    Give the signed addenda of a call's receipt, the first one first; the last one counts.
    """
    await visible_call(services, await reader_of(services, caller), call_id)
    documents = await services.energy_proofs.documents(call_id)
    return Items(items=[AddendumShape.model_validate(document) for document in documents])


async def _meters(services: HubServices, supplier: str | None) -> list[SupplierMeter]:
    if supplier is None:
        return await services.factory.store.meters()
    found = await services.supply.get_supplier(supplier)
    return await services.factory.store.meters(supplier_id=found.supplier_id)


async def _suppliers(services: HubServices) -> dict[UUID, str]:
    return {one.supplier_id: one.name for one in await services.supply.list_suppliers()}
