"""
Undecided payments outlive their process, as secret as the wallet beside them.
"""

from __future__ import annotations

import stat
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tokenworks.sdk import MalformedOfferError, SpendCap, Wallet
from tokenworks.sdk.model import Binding, PaymentRequired, from_requirements, to_payment_signature
from tokenworks.sdk.paying import PaymentDesk
from tokenworks.web.mcp import undecided as module
from tokenworks.web.mcp.undecided import UndecidedPayments

FIRST, SECOND, THIRD = (str(UUID(int=number)) for number in (1, 2, 3))
OFFER = {
    "scheme": "upto",
    "network": "hub:x",
    "amount": "7",
    "asset": "USD",
    "payTo": "p",
    "maxTimeoutSeconds": 60,
}


def request(body: bytes = b"\x00{}") -> httpx.Request:
    """
    Return any request.
    """
    return httpx.Request(
        "POST", "http://hub/x?y=1", headers={"payment-signature": "s"}, content=body
    )


def test_what_is_kept_is_read_again_by_another_process(tmp_path: Path) -> None:
    """
    Byte for byte, until it is forgotten; nobody else may read it.
    """
    folder = tmp_path / "wallet.json.undecided"
    UndecidedPayments(folder).keep(SECOND, request())
    UndecidedPayments(folder).keep(FIRST, request())
    later = UndecidedPayments(folder)
    assert later.ids() == [FIRST, SECOND]
    kept = later.request(SECOND)
    assert kept is not None
    assert (kept.method, str(kept.url), kept.content) == ("POST", "http://hub/x?y=1", b"\x00{}")
    assert kept.headers["payment-signature"] == "s"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {0o700, 0o600}
    later.forget(SECOND)
    later.forget(SECOND)
    assert later.ids() == [FIRST]


def test_too_many_and_unreadable_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The oldest is forgotten; a file that was cut off is nothing; a path is no id.
    """
    monkeypatch.setattr(module, "UNDECIDED_MAX", 2)
    kept = UndecidedPayments(tmp_path)
    for payment_id in (FIRST, SECOND, THIRD):
        kept.keep(payment_id, request())
    assert kept.ids() == [SECOND, THIRD]
    (tmp_path / f"{SECOND}.json").write_bytes(b'{"method":')
    assert kept.request(SECOND) is None
    with pytest.raises(ValueError, match="UUID"):
        kept.request("../wallet")


def test_desk_takes_up_what_its_wallet_signed_and_nothing_else() -> None:
    """
    The same payment with another desk; its cap does not count it a second time.
    """
    wallet = Wallet.generate()
    asked = from_requirements(OFFER)
    required = PaymentRequired(accepts=(asked,), resource=None, error=None, extensions=None)
    jws = wallet.authorise(asked, Binding(method="POST", url="http://hub/x", body_sha256="b"))
    sent = httpx.Request(
        "POST",
        "http://hub/x",
        headers={"payment-signature": to_payment_signature(required, asked, jws)},
    )
    desk = PaymentDesk(wallet, network="hub:x", cap=SpendCap(per_payment="0.000000001"))
    signed = desk.adopt(sent)
    assert desk.resumed(sent) is signed
    assert desk.cap.reserved == 0
    other = PaymentDesk(Wallet.generate(), network="hub:x", cap=SpendCap(per_payment=1))
    for bad in (sent, request(), httpx.Request("POST", "http://hub/x")):
        with pytest.raises(MalformedOfferError):
            other.adopt(bad)
