"""
Limits of requests and of failures, with the time passed in.
"""

from __future__ import annotations

import pytest

from tokenworks.identity.rate import FailureLimiter, RequestLimiter, address_group


def test_idle_key_may_use_its_whole_minute_at_once() -> None:
    """
    The burst is one minute's worth; then requests come at the rate.
    """
    limiter = RequestLimiter()
    waits = [limiter.take("key", per_minute=3, now_s=0.0) for _ in range(4)]
    assert waits == [0.0, 0.0, 0.0, 20.0]
    assert limiter.take("key", per_minute=3, now_s=19.9) == pytest.approx(0.1)
    assert limiter.take("key", per_minute=3, now_s=20.0) == 0.0


def test_refused_request_is_not_counted() -> None:
    """
    Hammering does not push the next admission away.
    """
    limiter = RequestLimiter()
    limiter.take("key", per_minute=1, now_s=0.0)
    for _ in range(100):
        assert limiter.take("key", per_minute=1, now_s=1.0) == 59.0
    assert limiter.take("key", per_minute=1, now_s=60.0) == 0.0


def test_keys_do_not_share_a_rate() -> None:
    """
    One busy key leaves the others alone.
    """
    limiter = RequestLimiter()
    assert limiter.take("one", per_minute=1, now_s=0.0) == 0.0
    assert limiter.take("two", per_minute=1, now_s=0.0) == 0.0


def test_full_table_refuses_newcomers_rather_than_forget() -> None:
    """
    Forgetting a busy key would grant it more than its rate; idle keys make room.
    """
    limiter = RequestLimiter(keys_max=2)
    limiter.take("one", per_minute=1, now_s=0.0)
    limiter.take("two", per_minute=1, now_s=1.0)
    assert limiter.take("three", per_minute=1, now_s=2.0) > 0
    assert limiter.take("one", per_minute=1, now_s=3.0) > 0
    assert limiter.take("three", per_minute=1, now_s=60.0) == 0.0
    assert len(limiter) == 2


def test_clock_that_goes_back_grants_nothing() -> None:
    """
    A jump of the clock may refuse, never admit.
    """
    limiter = RequestLimiter()
    limiter.take("key", per_minute=1, now_s=100.0)
    assert limiter.take("key", per_minute=1, now_s=50.0) > 0


def test_address_may_fail_twenty_times_then_waits() -> None:
    """
    Twenty failures are answered, then one every three seconds.
    """
    limiter = FailureLimiter()
    for _ in range(20):
        assert limiter.wait_s("203.0.113.1", now_s=0.0) == 0.0
        limiter.note("203.0.113.1", now_s=0.0)
    assert limiter.wait_s("203.0.113.1", now_s=0.0) == 3.0
    assert limiter.wait_s("203.0.113.2", now_s=0.0) == 0.0
    assert limiter.wait_s("203.0.113.1", now_s=3.0) == 0.0


def test_no_number_of_failures_locks_an_address_for_long() -> None:
    """
    Failures noted while waiting do not add up beyond a full bucket.
    """
    limiter = FailureLimiter()
    for _ in range(10_000):
        limiter.note("203.0.113.1", now_s=0.0)
    assert limiter.wait_s("203.0.113.1", now_s=0.0) == 3.0


def test_memory_of_failures_is_bounded() -> None:
    """
    A flood from many addresses forgets the oldest and never grows.
    """
    limiter = FailureLimiter(addresses_max=10)
    for index in range(1_000):
        limiter.note(f"198.51.{index // 250}.{index % 250}", now_s=0.0)
    assert len(limiter) == 10


def test_address_that_is_not_known_is_not_limited() -> None:
    """
    Without an address there is nobody to slow down.
    """
    limiter = FailureLimiter(failures_per_minute=1)
    limiter.note(None, now_s=0.0)
    assert limiter.wait_s(None, now_s=0.0) == 0.0
    assert len(limiter) == 0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:" + "x" * 500, "unix:" + "x" * 59),
    ],
)
def test_address_stands_for_what_one_guest_controls(address: str, group: str) -> None:
    """
    A guest has a whole /64 of IPv6; its addresses count as one.
    """
    assert address_group(address) == group
