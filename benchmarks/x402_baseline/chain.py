"""
A local chain with a token: anvil, and ``Token.vy`` on it.

Invariants: the chain lives in memory of a process of its own and ends with the block; its keys
are anvil's published development keys; nothing of it is reachable from outside.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.x402_baseline.processes import BaselineError, free_port, running, wait_until

CHAIN_ID: Final = 31_337
NETWORK: Final = f"eip155:{CHAIN_ID}"
TOKEN_SOURCE: Final = Path(__file__).with_name("Token.vy")
TOKEN_EXTRA: Final = {"name": "Baseline USD", "version": "2"}
ROOT: Final = Path(__file__).resolve().parent.parent.parent
ANVIL: Final = ROOT / ".venv" / "anvil" / "node_modules" / "@foundry-rs"

_CALL_TIMEOUT_S: Final = 30.0
_MINT: Final = "40c10f19"  # mint(address,uint256)
_BALANCE: Final = "70a08231"  # balanceOf(address)
_DECIMALS_OF_GAS: Final = 10**20  # wei that the facilitator may burn


def find_anvil() -> Path | None:
    """
    Return the installed program; ``None`` before ``make x402-baseline`` ran.
    """
    found = sorted(ANVIL.glob("anvil-*/bin/anvil"))
    return found[0] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """
    A running chain and the token on it.
    """

    url: str
    token: str
    owner: str

    def call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - any JSON
        """
        Ask the chain by JSON-RPC.
        """
        return _call(self.url, method, *arguments)

    def mint(self, address: str, amount: int) -> None:
        """
        Give an address so many atomic units of the token.
        """
        content = f"0x{_MINT}{_word(address)}{amount:064x}"
        _transact(self.url, {"from": self.owner, "to": self.token, "data": content})

    def balance_of(self, address: str) -> int:
        """
        Return how many atomic units an address has.
        """
        content = f"0x{_BALANCE}{_word(address)}"
        answer = self.call("eth_call", {"to": self.token, "data": content}, "latest")
        return int(answer, 16)

    def give_gas(self, address: str) -> None:
        """
        Give an address what transactions cost.
        """
        self.call("anvil_setBalance", address, hex(_DECIMALS_OF_GAS))

    def version(self) -> str:
        """
        Return the chain's own name and version.
        """
        return str(self.call("web3_clientVersion"))


@contextmanager
def running_chain(folder: Path) -> Generator[Chain]:
    """
    Run a chain with the token until the block ends.
    """
    program = find_anvil()
    if program is None:
        message = "anvil is not installed: make x402-baseline"
        raise BaselineError(message)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = [str(program), "--host", "127.0.0.1", "--port", str(port)]
    words += ["--chain-id", str(CHAIN_ID), "--silent"]
    with running(words, folder / "anvil.log") as process:
        wait_until(lambda: _is_up(url), process, folder / "anvil.log")
        owner = str(_call(url, "eth_accounts")[0])
        receipt = _transact(url, {"from": owner, "data": compile_token()})
        yield Chain(url=url, token=str(receipt["contractAddress"]), owner=owner)


def compile_token() -> str:
    """
    Return the token's bytecode; the compiler is installed by ``make x402-baseline``.
    """
    import vyper

    outputs = vyper.compile_code(
        TOKEN_SOURCE.read_text(encoding="utf-8"), output_formats=["bytecode"]
    )
    return str(outputs["bytecode"])


def _transact(url: str, transaction: Mapping[str, str]) -> dict[str, Any]:
    sent = _call(url, "eth_sendTransaction", dict(transaction) | {"gas": hex(5_000_000)})
    for _ in range(200):
        receipt = _call(url, "eth_getTransactionReceipt", sent)
        if receipt is not None:
            if receipt["status"] != "0x1":
                message = f"transaction {sent} failed"
                raise BaselineError(message)
            return receipt
        time.sleep(0.02)
    message = f"transaction {sent} was not mined"
    raise BaselineError(message)


def _call(url: str, method: str, *arguments: object) -> Any:  # noqa: ANN401 - any JSON
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(arguments)}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_CALL_TIMEOUT_S) as response:
        answer = json.load(response)
    if "error" in answer:
        message = f"{method}: {answer['error']}"
        raise BaselineError(message)
    return answer["result"]


def _is_up(url: str) -> bool:
    try:
        return bool(_call(url, "eth_chainId"))
    except OSError:
        return False


def _word(address: str) -> str:
    return address.removeprefix("0x").lower().rjust(64, "0")
