"""
Limit requests by key and failures by address; both may only refuse.

Both are the generic cell rate algorithm, the form of a token bucket that keeps one number
for each key: the time at which the bucket is full again. All arithmetic is in whole
nanoseconds, so the law is exact: in any window of length T at most ``burst + T // interval``
requests are admitted, with ``interval = ceil(60 s / rate)``.

Known limits: the counters are this process's own, so with several gateway processes a key
gets its rate in each of them; a restart forgets them. Sums of money and tokens are never
limited here, only in the ledger.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

RATE_KEYS_MAX: Final = 65_536
FAILURE_ADDRESSES_MAX: Final = 16_384
FAILURES_PER_MINUTE_MAX: Final = 20
ADDRESS_TEXT_LENGTH_MAX: Final = 64

_NANOSECONDS: Final = 1_000_000_000
_MINUTE_NS: Final = 60 * _NANOSECONDS
_IDLE_SEARCH_MAX: Final = 8  # oldest entries looked at when a table is full
_IPV6_HOST_BITS: Final = 64


class RequestLimiter:
    """
    Admit at most so many requests a minute for each key.

    The burst is one minute's worth: a key that was idle may use its whole minute at once.

    Args:
        keys_max: Keys remembered at once. A full table refuses a new key for at most a
            minute rather than forget what a busy one has used.
    """

    def __init__(self, *, keys_max: int = RATE_KEYS_MAX) -> None:
        assert keys_max >= 1, "a limiter without room refuses everyone"
        self._keys_max = keys_max
        # Ordered by the last admission, so that idle keys are found at the front.
        self._full_at_ns: OrderedDict[Hashable, int] = OrderedDict()

    def take(self, key: Hashable, *, per_minute: int, now_s: float) -> float:
        """
        Admit one request, or say how long to wait.

        Args:
            key: Whose bucket it is.
            per_minute: The key's rate, at least 1.
            now_s: Monotonic seconds.

        Returns:
            0.0 when admitted; else seconds until one request would be, and nothing is
            counted.
        """
        assert per_minute >= 1, "a rate of zero is a closed key, not a rate"
        now_ns = _to_ns(now_s)
        interval_ns = -(-_MINUTE_NS // per_minute)
        full_at_ns = self._full_at_ns.get(key)
        if full_at_ns is None and not self._make_room(now_ns):
            return interval_ns / _NANOSECONDS
        start_ns = now_ns if full_at_ns is None else max(full_at_ns, now_ns)
        wait_ns = start_ns - now_ns - interval_ns * (per_minute - 1)
        if wait_ns > 0:
            return wait_ns / _NANOSECONDS
        self._full_at_ns[key] = start_ns + interval_ns
        self._full_at_ns.move_to_end(key)
        return 0.0

    def __len__(self) -> int:
        return len(self._full_at_ns)

    def _make_room(self, now_ns: int) -> bool:
        """
        Drop idle keys from the front; return whether one more fits.

        A bucket that is full again carries no memory, so dropping it grants nothing. Every
        bucket is full a minute after its last request, so the front soon is.
        """
        if len(self._full_at_ns) < self._keys_max:
            return True
        oldest = [key for key, _ in zip(self._full_at_ns, range(_IDLE_SEARCH_MAX), strict=False)]
        for key in oldest:
            if self._full_at_ns[key] <= now_ns:
                del self._full_at_ns[key]
        return len(self._full_at_ns) < self._keys_max


class FailureLimiter:
    """
    Slow down an address that keeps presenting unknown keys.

    Guessing a key is hopeless anyway; this keeps guesses from reaching the database. When
    the table is full the address that failed longest ago is forgotten: a newcomer with a
    typing error must not be locked out by a flood of others.
    """

    def __init__(
        self,
        *,
        failures_per_minute: int = FAILURES_PER_MINUTE_MAX,
        addresses_max: int = FAILURE_ADDRESSES_MAX,
    ) -> None:
        assert failures_per_minute >= 1, "the first failure must be answered"
        assert addresses_max >= 1, "a limiter needs room for one address"
        self._interval_ns = -(-_MINUTE_NS // failures_per_minute)
        self._burst = failures_per_minute
        self._addresses_max = addresses_max
        self._clear_at_ns: OrderedDict[str, int] = OrderedDict()

    def wait_s(self, address: str | None, *, now_s: float) -> float:
        """
        Return seconds until the address may fail again; 0.0 when it may now.

        ``None`` (an address that is not known) is never limited.
        """
        if address is None:
            return 0.0
        now_ns = _to_ns(now_s)
        clear_at_ns = self._clear_at_ns.get(address_group(address), now_ns)
        wait_ns = clear_at_ns - now_ns - self._interval_ns * (self._burst - 1)
        return max(wait_ns, 0) / _NANOSECONDS

    def note(self, address: str | None, *, now_s: float) -> None:
        """
        Count one failure of the address.
        """
        if address is None:
            return
        group = address_group(address)
        now_ns = _to_ns(now_s)
        start_ns = max(self._clear_at_ns.get(group, now_ns), now_ns)
        # Capped at a full bucket, so that no number of failures locks an address for long.
        capped_ns = min(start_ns + self._interval_ns, now_ns + self._interval_ns * self._burst)
        self._clear_at_ns[group] = capped_ns
        self._clear_at_ns.move_to_end(group)
        while len(self._clear_at_ns) > self._addresses_max:
            self._clear_at_ns.popitem(last=False)

    def __len__(self) -> int:
        return len(self._clear_at_ns)


def address_group(address: str) -> str:
    """
    Return what one guest controls: an IPv4 address, or the /64 of an IPv6 address.

    Text that is no address stands for itself, cut to ``ADDRESS_TEXT_LENGTH_MAX``.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:ADDRESS_TEXT_LENGTH_MAX]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = int(parsed) >> _IPV6_HOST_BITS << _IPV6_HOST_BITS
    return f"{ipaddress.IPv6Address(network)}/{_IPV6_HOST_BITS}"


def _to_ns(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
