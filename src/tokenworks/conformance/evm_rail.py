"""
Sign on ``eip155`` networks: EIP-3009 ``transferWithAuthorization``, as x402's ``exact`` does.

Needs ``eth-account`` (the extra ``tokenworks[x402-audit]``), which is imported when it is used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final, cast

from tokenworks.conformance.errors import AuditImpossibleError
from tokenworks.conformance.model import JsonObject
from tokenworks.conformance.rails import Sale, Secret, Times, Wallet

UINT256_MAX: Final = 2**256 - 1
DOMAIN: Final = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
)
TRANSFER: Final = (
    ("from", "address"),
    ("to", "address"),
    ("value", "uint256"),
    ("validAfter", "uint256"),
    ("validBefore", "uint256"),
    ("nonce", "bytes32"),
)


class EvmRail:
    """
    The rail of networks ``eip155:..``.

    Args:
        random_bytes: Gives each authorisation's nonce.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._account = _eth_account()

    @property
    def family(self) -> str:
        """
        The first part of its networks' names.
        """
        return "eip155"

    def requirements(self, sale: Sale) -> JsonObject:
        """
        Return what the seller sends; nothing in it binds the request.
        """
        return {
            "scheme": sale.scheme,
            "network": sale.network,
            "asset": sale.asset,
            "amount": sale.amount,
            "payTo": sale.pay_to,
            "maxTimeoutSeconds": sale.timeout_s,
            "extra": dict(sale.extra),
        }

    def wallet(self, secret: Secret) -> Wallet:
        """
        Return the wallet of 32 secret bytes.
        """
        return Wallet(address=str(self._account.from_key(secret).address), secret=secret)

    def sign(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return a new authorisation.
        """
        return self._signed(wallet, wallet.secret, sale, times)

    def forge(self, wallet: Wallet, sale: Sale, times: Times) -> JsonObject:
        """
        Return an authorisation in a wallet's name, signed by another key.
        """
        return self._signed(wallet, self._random_bytes(32), sale, times)

    def alter(self, signed: JsonObject, *, amount: str) -> JsonObject:
        """
        Return an authorisation whose amount was changed after it was signed.
        """
        authorization = cast("JsonObject", signed["authorization"])
        return {**signed, "authorization": {**authorization, "value": amount}}

    def strip(self, signed: JsonObject) -> JsonObject:
        """
        Return an authorisation with an empty signature.
        """
        return {**signed, "signature": "0x" + "00" * 65}

    def _signed(self, wallet: Wallet, secret: Secret, sale: Sale, times: Times) -> JsonObject:
        nonce = self._random_bytes(32)
        message: dict[str, Any] = {
            "from": wallet.address,
            "to": sale.pay_to,
            "value": _signable(sale.amount),
            "validAfter": times.since_s,
            "validBefore": times.until_s,
            "nonce": nonce,
        }
        typed = {
            "types": {
                "EIP712Domain": _fields(DOMAIN),
                "TransferWithAuthorization": _fields(TRANSFER),
            },
            "primaryType": "TransferWithAuthorization",
            "domain": {
                "name": sale.extra.get("name", ""),
                "version": sale.extra.get("version", ""),
                "chainId": int(sale.network.partition(":")[2]),
                "verifyingContract": sale.asset,
            },
            "message": message,
        }
        signature = self._account.sign_typed_data(secret, full_message=typed).signature
        # On the wire the amount stands as the seller asked for it, also where no 256 bits hold it.
        authorization = {
            **message,
            "value": sale.amount,
            "validAfter": str(times.since_s),
            "validBefore": str(times.until_s),
            "nonce": f"0x{nonce.hex()}",
        }
        return {"signature": f"0x{bytes(signature).hex()}", "authorization": authorization}


def _fields(names: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in names]


def _signable(amount: str) -> int:
    """
    Return what 256 bits make of an amount: what a contract that wraps around would read.
    """
    try:
        return int(amount) & UINT256_MAX
    except ValueError:
        return 0


def _eth_account() -> Any:  # noqa: ANN401 - an optional package, so not known to the checker
    try:
        return importlib.import_module("eth_account").Account
    except ImportError as error:
        message = "eip155 networks need eth-account: pip install 'tokenworks[x402-audit]'."
        raise AuditImpossibleError(message) from error
