"""
How a server stands: who follows it and how far behind, or whom it follows and how far.
"""

from __future__ import annotations

from typing import Any, Final

from tokenworks.adapters.embedded_postgres.errors import StandbyError
from tokenworks.adapters.embedded_postgres.session import Session
from tokenworks.adapters.embedded_postgres.standby import waited_for

_PRIMARY: Final = b"""
SELECT
    ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int,
    coalesce((
        SELECT json_agg(json_build_object(
            'name', application_name,
            'state', state,
            'sync_state', sync_state,
            'flush_lag_bytes', pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn),
            'flush_lag_s', coalesce(extract(epoch FROM flush_lag), 0),
            'replay_lag_bytes', pg_wal_lsn_diff(pg_current_wal_flush_lsn(), replay_lsn),
            'address', client_addr
        ) ORDER BY application_name)
        FROM pg_stat_replication
        WHERE state <> 'backup'
    ), '[]'),
    coalesce((
        SELECT json_agg(json_build_object(
            'name', slot_name,
            'is_active', active,
            'kept_bytes', pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn),
            'log_state', wal_status
        ) ORDER BY slot_name)
        FROM pg_replication_slots
    ), '[]')
"""
_STANDBY: Final = b"""
SELECT
    (SELECT timeline_id FROM pg_control_checkpoint()),
    pg_last_wal_receive_lsn()::text,
    pg_last_wal_replay_lsn()::text,
    (
        SELECT concat_ws(':', sender_host, sender_port)
        FROM pg_stat_wal_receiver
        WHERE status = 'streaming'
    )
"""
_PROMOTION: Final = b"SELECT coalesce(max(number), 0) FROM ledger.promotions"


def read_status(session: Session) -> dict[str, Any]:
    """
    Return how the server stands, ready for JSON.

    ``can_acknowledge`` tells whether a commit can be confirmed now: with a list of standbys
    to wait for and none of them connected, sales stand still.
    """
    row = session.execute("SELECT pg_is_in_recovery()").fetchone()
    status = _standby(session) if row and row[0] else _primary(session)
    return {**status, "promotion": _promotion(session)}


def _primary(session: Session) -> dict[str, Any]:
    row = session.execute(_PRIMARY).fetchone()
    assert row is not None, "an aggregate has a row"
    timeline, standbys, slots = row
    names = _waited_for(session)
    confirming = [row for row in standbys if row["sync_state"] in {"sync", "quorum"}]
    can_acknowledge = not names or bool(confirming)
    return {
        "role": "primary",
        "timeline": timeline,
        "waits_for": names,
        "can_acknowledge": can_acknowledge,
        "standbys": standbys,
        "slots": slots,
        "upstream": None,
        "received_lsn": None,
        "replayed_lsn": None,
        "is_healthy": can_acknowledge,
    }


def _waited_for(session: Session) -> list[str]:
    try:
        return waited_for(session)
    except StandbyError:
        # Written by hand: shown as it is.
        row = session.execute("SHOW synchronous_standby_names").fetchone()
        return [str(row[0])] if row else []


def _standby(session: Session) -> dict[str, Any]:
    row = session.execute(_STANDBY).fetchone()
    assert row is not None, "functions answer"
    timeline, received_lsn, replayed_lsn, upstream = row
    return {
        "role": "standby",
        "timeline": timeline,
        "waits_for": [],
        "can_acknowledge": False,
        "standbys": [],
        "slots": [],
        "upstream": upstream,
        "received_lsn": received_lsn,
        "replayed_lsn": replayed_lsn,
        "is_healthy": upstream is not None,
    }


def _promotion(session: Session) -> int:
    row = session.execute("SELECT to_regclass('ledger.promotions') IS NOT NULL").fetchone()
    if not row or not row[0]:
        return 0
    counted = session.execute(_PROMOTION).fetchone()
    return int(counted[0]) if counted else 0
