"""
Bounds that hold everywhere, each with its unit in its name.

Operators may lower some of them in the settings; nothing may be unbounded.
"""

from __future__ import annotations

from typing import Final

REQUEST_BODY_BYTES_MAX: Final = 8 * 1024 * 1024
REQUEST_MESSAGES_MAX: Final = 4_096
REQUEST_CHOICES_MAX: Final = 16
REQUEST_READ_TIMEOUT_S: Final = 30.0

BATCH_OPERATIONS_MAX: Final = 1_000
BATCH_UNDIVIDED_OPERATIONS: Final = 16
BATCH_QUEUE_OPERATIONS_MAX: Final = 50_000
LEDGER_ANSWER_TIMEOUT_S: Final = 5.0

X402_BODY_BYTES_MAX: Final = 64 * 1024
X402_READ_TIMEOUT_S: Final = 10.0
X402_REQUESTS_PER_MINUTE_MAX: Final = 120_000  # from one address; sellers ask for many payers
MCP_REQUESTS_PER_MINUTE_MAX: Final = 6_000  # from one address; each is some ms of a gateway

SUPPLIER_CONNECT_TIMEOUT_S: Final = 5.0
SUPPLIER_FIRST_BYTE_TIMEOUT_S: Final = 60.0
SUPPLIER_IDLE_TIMEOUT_S: Final = 60.0
SUPPLIER_ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
SUPPLIER_ATTEMPTS_MAX: Final = 4

GRANTED_OUTPUT_TOKENS_DEFAULT: Final = 4_096
HOLD_LIFETIME_S: Final = 300
DRAIN_AFTER_DISCONNECT_S: Final = 30.0

PAYABLE_HOLD_DAYS_DEFAULT: Final = 30
STATEMENT_BYTES_MAX: Final = 16 * 1024 * 1024
STATEMENT_LINES_MAX: Final = 100_000
STATEMENT_ATTEMPTS_MAX: Final = 500_000

REVIEW_LIFETIME_S: Final = 15 * 60
"""A payment that waits for a person is not made when nobody has decided by then."""
REVIEWS_PENDING_MAX: Final = 100
"""Payments of one agent that may wait for people at once: a loop must not fill an inbox."""

PAGE_ROWS_DEFAULT: Final = 50
PAGE_ROWS_MAX: Final = 500

FACTORY_FILE_BYTES_MAX: Final = 1024 * 1024 * 1024
FACTORY_LINE_CHARACTERS_MAX: Final = 4 * 1024 * 1024
FACTORY_NAME_CHARACTERS_MAX: Final = 200
FACTORY_CALL_TOKENS_MAX: Final = 1_000_000_000
FACTORY_VALUE_MAX: Final = 10**15  # watts, joules or seconds: above it a cell is no number
FACTORY_DEVICE_POWER_W_MAX: Final = 100_000  # of one device; above it a reading is no power
FACTORY_READINGS_MAX: Final = 200_000  # of a meter looked at together
FACTORY_READINGS_SENT_MAX: Final = 5_000  # in one request
FACTORY_STEPS_SENT_MAX: Final = 2_000  # in one request
FACTORY_STEPS_MAX: Final = 200_000  # of an interval
FACTORY_STEP_S_MAX: Final = 600  # of one step
FACTORY_FAULTS_KEPT_MAX: Final = 50  # of an interval
