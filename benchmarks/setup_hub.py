"""
Open a business on a running hub for the benchmarks, through its public API.

The call that is measured afterwards pays for everything a real one does: a spend path of
four levels with a limit on each, and all six legs of a sale and its purchase.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Final

MODEL: Final = "stub-model"
TIER: Final = "standard"
LIMIT_USD: Final = "900000"
DEPOSIT_USD: Final = "1000000"
_TIMEOUT_S: Final = 30.0


class SetupError(Exception):
    """
    The hub refused a step; the message is its answer.
    """


@dataclass(slots=True)
class _HubClient:
    """
    The few calls that are needed, on the standard library alone.
    """

    url: str
    admin_key: str
    suffix: str
    _steps: int = field(default=0)

    def post(self, path: str, body: dict[str, object]) -> dict[str, Any]:
        """
        Post to the hub API and return its answer.

        Raises:
            SetupError: Any status but 200 and 201.
        """
        self._steps += 1
        request = urllib.request.Request(
            f"{self.url}/hub/v1/{path}",
            data=json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.admin_key}",
                "content-type": "application/json",
                "idempotency-key": f"benchmark{self.suffix}-{self._steps}",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise SetupError(f"POST {path}: {error.code} {text}") from error


def prepare(
    url: str, admin_key: str, stub_url: str, *, model: str = MODEL, suffix: str = ""
) -> str:
    """
    Make supplier, offer, prices, parties, limits, money and a key; return the buyer's key.

    Args:
        url: The hub's address without a path.
        admin_key: A key of role admin.
        stub_url: The stub supplier's base URL, with ``/v1``.
        model: The model's public name; the stub answers any.
        suffix: Set apart the names of several runs on one hub, e.g. ``-3f2a``.
    """
    hub = _HubClient(url.rstrip("/"), admin_key, suffix)
    _open_supply(hub, stub_url, model, suffix)
    return _open_buyer(hub, suffix)


def _open_supply(hub: _HubClient, stub_url: str, model: str, suffix: str) -> None:
    hub.post(
        "suppliers",
        {
            "name": f"stub{suffix}",
            "kind": "openai",
            "base_url": stub_url,
            "api_key": "sk-simulation",
            "allow_private": True,
        },
    )
    legs = {"reseller": "reseller", "rights": "rights_holder", "power": "power_producer"}
    for name, kind in legs.items():
        hub.post("parties", {"name": f"{name}{suffix}", "kind": kind})
    prices = {"input": "0.75", "output": "3", "cache_read": "0.075"}
    hub.post("prices", {"model": model, "tier": TIER, "prices": prices})
    split: dict[str, object] = {name: f"{name}{suffix}" for name in legs}
    split |= {"tax_ppm": 80_000, "reseller_ppm": 50_000, "rights_ppm": 30_000}
    split |= {"power_ppm": 200_000}
    hub.post(
        "offers",
        {
            "supplier": f"stub{suffix}",
            "model": model,
            "tier": TIER,
            "upstream_model": MODEL,
            "supplier_share_ppm": 600_000,
            "split": split,
        },
    )


def _open_buyer(hub: _HubClient, suffix: str) -> str:
    organisation, team, user = (f"{name}{suffix}" for name in ("bench-org", "bench-team", "bench"))
    hub.post("parties", {"name": organisation, "kind": "buyer"})
    hub.post("parties", {"name": team, "kind": "buyer", "parent": organisation})
    hub.post("parties", {"name": user, "kind": "buyer", "parent": team})
    key = hub.post("keys", {"party": user, "role": "buyer", "label": "benchmark"})
    scopes: list[tuple[dict[str, object], str]] = [
        ({"party": organisation}, "ever"),
        ({"party": team}, "year"),
        ({"party": user}, "month"),
        ({"key": key["key_id"]}, "day"),
    ]
    for scope, per in scopes:
        hub.post("limits", {**scope, "amount": LIMIT_USD, "unit": "USD", "per": per})
    reference = f"benchmark{suffix}"
    hub.post("deposits", {"party": organisation, "amount": DEPOSIT_USD, "reference": reference})
    return str(key["secret"])
