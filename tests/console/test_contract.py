"""
The console against the hub's own description of itself: every path it asks, every field it
reads, every body it sends, and every answer of the fake hub that the other tests trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from tests.console.fake_agents import FakeAgents, identifier
from tests.console.fake_hub import ADMIN_KEY, FakeHub
from tests.console.fake_hub_door import make_app
from tokenworks.foundation.clock import SystemClock
from tokenworks.foundation.errors import NotFoundError
from tokenworks.web.console.agents import model
from tokenworks.web.console.agents.feed import AgentFeed
from tokenworks.web.console.factory import live_model as live
from tokenworks.web.console.factory import model as plant
from tokenworks.web.console.factory.call_energy import Addenda
from tokenworks.web.console.factory.feed import FactoryFeed
from tokenworks.web.console.hub import Hub
from tokenworks.web.console.model import PartyRef, Whoami
from tokenworks.web.console.sessions import Session
from tokenworks.web.hub_api.app import create_hub_api
from tokenworks.web.hub_api.services import HubServices

Document = dict[str, Any]

READS: Mapping[tuple[str, str], object] = {
    ("get", "/hub/v1/whoami"): Whoami,
    ("get", "/hub/v1/parties/{}"): PartyRef,
    ("get", "/hub/v1/agents/tree"): model.AgentTree,
    ("post", "/hub/v1/agents/{}/freeze"): None,
    ("post", "/hub/v1/agents/{}/thaw"): None,
    ("get", "/hub/v1/mandates/{}"): model.Mandate,
    ("post", "/hub/v1/mandates/{}/freeze"): None,
    ("post", "/hub/v1/mandates/{}/thaw"): None,
    ("post", "/hub/v1/mandates/{}/revoke"): None,
    ("get", "/hub/v1/payments"): model.PaymentPage,
    ("get", "/hub/v1/payments/{}"): model.Payment,
    ("get", "/hub/v1/payments/{}/receipt"): None,
    ("get", "/hub/v1/reviews"): model.ReviewPage,
    ("get", "/hub/v1/reviews/{}"): model.Review,
    ("post", "/hub/v1/reviews/{}/approve"): None,
    ("post", "/hub/v1/reviews/{}/deny"): None,
    ("get", "/hub/v1/escrows"): model.EscrowPage,
    ("get", "/hub/v1/escrows/{}"): model.Escrow,
    ("get", "/hub/v1/escrows/{}/result"): None,
    ("post", "/hub/v1/escrows/{}/arbitrate"): None,
    ("get", "/hub/v1/factory/fronts"): plant.FrontNames,
    ("get", "/hub/v1/factory/frontier"): plant.Frontier,
    ("get", "/hub/v1/factory/economics"): plant.Economics,
    ("get", "/hub/v1/factory/systems"): plant.Systems,
    ("get", "/hub/v1/factory/live"): live.Live,
    ("get", "/hub/v1/factory/models"): live.ModelEnergies,
    ("get", "/hub/v1/factory/chain"): live.ValueChain,
    ("get", "/hub/v1/receipts/{}/addenda"): Addenda,
}
"""What pages ask, and what they read of the answer; ``None``: nothing."""

DETAIL_ONLY = {
    "Review": {"decisions"},
    "Escrow": {"terms", "sides", "events"},
}
"""Fields of things in lists that only the answer for one alone has."""


@pytest.fixture(scope="module")
def description() -> Document:
    """
    The hub's OpenAPI document; nothing behind it runs.
    """
    agents = SimpleNamespace(mandates=None, network="hub:unused")
    unused = SimpleNamespace(identity=None, pool=None, clock=None, ids=None, agents=agents)
    return create_hub_api(cast("HubServices", unused)).openapi()


def operation(description: Document, method: str, path: str) -> Document:
    """
    Return what the hub says about one path; ``{}`` stands for any parameter.
    """
    for known, methods in description["paths"].items():
        if re.sub(r"\{[^}]*\}", "{}", known) == path and method in methods:
            return methods[method]
    pytest.fail(f"the hub has no {method} {path}")


def answer_schema(description: Document, method: str, path: str) -> Document:
    """
    Return the schema of a good answer.
    """
    answers = operation(description, method, path)["responses"]
    good = next(answers[code] for code in ("200", "201") if code in answers)
    return good["content"]["application/json"]["schema"]


def resolved(description: Document, schema: Document) -> Document:
    """
    Follow a reference, and what may be null to what it is otherwise.
    """
    while True:
        if "$ref" in schema:
            schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        elif "anyOf" in schema:
            some = [each for each in schema["anyOf"] if each.get("type") != "null"]
            if len(some) != 1:
                return schema
            schema = some[0]
        else:
            return schema


def missing(description: Document, schema: Document, kind: object, place: str) -> Iterator[str]:
    """
    Yield every field of ``kind`` that the schema does not have.
    """
    schema = resolved(description, schema)
    match kind:
        case msgspec.inspect.StructType():
            properties = schema.get("properties")
            if properties is None:
                return  # an object whose members the hub does not describe
            is_item = place.endswith("[]")
            left_out = DETAIL_ONLY.get(kind.cls.__name__, set()) if is_item else set()
            for each in kind.fields:
                here = f"{place}.{each.encode_name}"
                if each.encode_name not in properties:
                    if each.encode_name not in left_out:
                        yield here
                    continue
                yield from missing(description, properties[each.encode_name], each.type, here)
        case msgspec.inspect.VarTupleType(item_type=item):
            if "items" in schema:
                yield from missing(description, schema["items"], item, f"{place}[]")
        case msgspec.inspect.UnionType(types=types):
            for each in types:
                yield from missing(description, schema, each, place)
        case _:
            return


@pytest.mark.parametrize(("method", "path"), [key for key, kind in READS.items() if kind])
def test_every_field_the_console_reads_is_in_the_hubs_description(
    description: Document, method: str, path: str
) -> None:
    """
    A field that the hub renames or drops is found here, not by a reader who misses it.
    """
    schema = answer_schema(description, method, path)
    kind = msgspec.inspect.type_info(READS[method, path])

    assert list(missing(description, schema, kind, path)) == []


def test_missing_field_is_found(description: Document) -> None:
    """
    The comparison can fail: a mandate has no field of this name.
    """

    class Wrong(msgspec.Struct):
        mandate_id: str
        colour: str

    schema = answer_schema(description, "get", "/hub/v1/mandates/{}")

    assert list(missing(description, schema, msgspec.inspect.type_info(Wrong), "m")) == ["m.colour"]


def asked_by_the_console() -> list[httpx.Request]:
    """
    Return every request that the pages about agents can make.
    """
    asked: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path == "/hub/v1/payments":
            return httpx.Response(200, json={"items": []})
        return httpx.Response(404, json={"detail": "nothing is here"})

    reader = msgspec.convert(
        {"role": "admin", "prefix": "tw", "party": {}, "organisation": {}}, Whoami
    )
    session = Session(session_id="s", key=ADMIN_KEY, reader=reader, ends_at_s=1e9)
    fake = FakeAgents()
    fake.fill()
    fake.hold()
    (row,) = fake.reviews.values()
    review = msgspec.convert(row, model.Review)
    escrow = msgspec.convert(fake.escrows[identifier("escrow translate")], model.Escrow)
    this = identifier("anything")

    async def run() -> None:
        hub = Hub("http://hub", transport=httpx.MockTransport(take))
        feed = AgentFeed(hub, session, SystemClock())
        factory = FactoryFeed(hub, session, SystemClock())
        raised = {"note": "n", "per": "day", "amount": "5"}
        for each in (feed.tree, feed.newest, feed.pending, feed.decided, feed.escrows):
            await each.read()
        for one in (factory.live, factory.models, factory.chain):
            await one.read()
        await feed.payments(this)
        await feed.names_of([this])
        milestone = escrow.milestones[0]
        for call in (
            feed.mandate(this),
            feed.review(this),
            feed.escrow(this),
            feed.result(this, "draft"),
            *(act(kind, this) for act in (feed.freeze, feed.thaw) for kind in model.FREEZABLE),
            feed.revoke(this),
            feed.approve(review, scope="once", answers={"note": ""}),
            feed.approve(review, scope="raise", answers=raised),
            feed.deny(review, note="n"),
            feed.arbitrate(escrow, milestone, amount="0.5", reason="half"),
        ):
            with contextlib.suppress(NotFoundError):
                await call
        await hub.close()

    asyncio.run(run())
    return asked


def test_every_request_of_the_console_is_one_the_hub_describes(description: Document) -> None:
    """
    Paths, queries and bodies are what the hub says it takes, and every path is in the table.
    """
    for request in asked_by_the_console():
        path = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "{}", request.url.path)
        method = request.method.lower()
        said = operation(description, method, path)
        assert (method, path) in READS, "the table above says what is read of it"
        known = {each["name"] for each in said.get("parameters", ()) if each["in"] == "query"}
        assert set(request.url.params) <= known, path
        if "requestBody" in said:
            schema = said["requestBody"]["content"]["application/json"]["schema"]
            valid(description, schema, json.loads(request.content))


def valid(description: Document, schema: Document, content: Any) -> None:  # noqa: ANN401 - whatever JSON has
    """
    Fail where a document is not what a schema says.
    """
    rooted = schema | {"components": description["components"]}
    faults = Draft202012Validator(rooted).iter_errors(content)
    assert [f"{fault.json_path}: {fault.message}" for fault in faults] == []


FAKED: Mapping[str, Callable[[FakeAgents], str]] = {
    "/hub/v1/whoami": lambda _: "",
    "/hub/v1/agents/tree": lambda _: "",
    "/hub/v1/parties/{}": lambda _: identifier("acme"),
    "/hub/v1/mandates/{}": lambda fake: next(iter(fake.mandates)),
    "/hub/v1/payments": lambda _: "",
    "/hub/v1/payments/{}": lambda fake: next(iter(fake.payments)),
    "/hub/v1/reviews": lambda _: "",
    "/hub/v1/reviews/{}": lambda fake: next(iter(fake.reviews)),
    "/hub/v1/escrows": lambda _: "",
    "/hub/v1/escrows/{}": lambda _: identifier("escrow translate"),
    "/hub/v1/factory/live": lambda _: "",
    "/hub/v1/factory/models": lambda _: "",
    "/hub/v1/factory/chain": lambda _: "",
}


@pytest.mark.parametrize("path", FAKED)
def test_fake_hub_answers_as_the_real_one_says_it_does(description: Document, path: str) -> None:
    """
    What the fake answers is valid by the hub's schema, without a field more or less.
    """
    hub = FakeHub()
    hub.agents.fill()
    hub.agents.hold(needed=2)
    hub.plant.fill()
    client = TestClient(make_app(hub), headers={"authorization": f"Bearer {ADMIN_KEY}"})
    answer = client.get(path.replace("{}", FAKED[path](hub.agents)))

    assert answer.status_code == 200
    valid(description, answer_schema(description, "get", path), answer.json())
