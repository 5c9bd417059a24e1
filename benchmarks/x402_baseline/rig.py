"""
The official facilitator on a local chain, ready to be attacked or measured.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.x402_baseline.chain import NETWORK, ROOT, TOKEN_EXTRA, Chain, running_chain
from benchmarks.x402_baseline.processes import free_port, running, wait_until
from tokenworks.conformance.evm_rail import EvmRail
from tokenworks.conformance.rails import Sale, Wallet

PRICE: Final = 500
PURSE: Final = 10**12
_IS_UP_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """
    A running official facilitator.
    """

    url: str
    chain: Chain
    rail: EvmRail
    payee: Wallet

    def wallet(self, amount: int = PURSE) -> Wallet:
        """
        Return a new wallet with so many atomic units.
        """
        wallet = self.rail.wallet(os.urandom(32))
        if amount:
            self.chain.mint(wallet.address, amount)
        return wallet

    def sale(self) -> Sale:
        """
        Return what its seller asks.
        """
        return Sale(
            scheme="exact",
            network=NETWORK,
            asset=self.chain.token,
            amount=str(PRICE),
            pay_to=self.payee.address,
            method="GET",
            url="http://seller.invalid",
            extra=dict(TOKEN_EXTRA),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPurse:
    """
    Wallets that are filled on the chain; a new one for each attack.
    """

    official: Official

    async def funded(self) -> Wallet:
        """
        Return a new wallet with enough for everything.
        """
        return self.official.wallet()

    async def for_one(self, amount: str) -> Wallet | None:
        """
        Return a new wallet with the money of one payment.
        """
        return self.official.wallet(int(amount))


@contextmanager
def running_official(folder: Path) -> Generator[Official]:
    """
    Run chain and facilitator until the block ends.
    """
    rail = EvmRail()
    with running_chain(folder) as chain:
        signer = rail.wallet(os.urandom(32))
        chain.give_gas(signer.address)
        environment = {
            "BASELINE_KEY": f"0x{signer.secret.hex()}",
            "BASELINE_RPC": chain.url,
            "BASELINE_NETWORK": NETWORK,
        }
        with _served("facilitator", "/supported", environment, folder) as url:
            payee = rail.wallet(os.urandom(32))
            yield Official(url=url, chain=chain, rail=rail, payee=payee)


@contextmanager
def running_seller(official: Official, folder: Path) -> Generator[str]:
    """
    Run the official seller in front of an official facilitator; yield its address.
    """
    environment = {
        "BASELINE_URL": official.url,
        "BASELINE_NETWORK": NETWORK,
        "BASELINE_TOKEN": official.chain.token,
        "BASELINE_PAYEE": official.payee.address,
        "BASELINE_PRICE": str(PRICE),
    }
    with _served("seller", "/runs", environment, folder) as url:
        yield url


@contextmanager
def _served(name: str, path: str, environment: dict[str, str], folder: Path) -> Generator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "uvicorn", f"benchmarks.x402_baseline.{name}:app"]
    words += ["--port", str(port), "--log-level", "warning"]
    log_path = folder / f"{name}.log"
    with running(words, log_path, environment=environment, folder=ROOT) as process:
        wait_until(lambda: _is_up(f"{url}{path}"), process, log_path)
        yield url


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_IS_UP_TIMEOUT_S) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False
