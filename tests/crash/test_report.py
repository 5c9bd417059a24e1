"""
The report of a crash test: complete for programs, short for people.
"""

from __future__ import annotations

import json
from collections import Counter

from tests.crash.auditor import Audit
from tests.crash.report import Report

AUDIT = Audit(
    findings=["money: gone"],
    answers=9,
    streams=4,
    keys=10,
    keys_retried=3,
    keys_told_settled=1,
    calls_settled=10,
    calls_unpaid=0,
    holds_given_back=1,
    holds_ended_unpaid=2,
    holds_open=0,
    late_s_max=12.3,
    charged="0.001",
)


def test_findings_are_told_to_people_and_programs() -> None:
    """
    A broken law is in both, and JSON has every figure.
    """
    report = Report(scenario="kills", seed=7, harm=Counter(worker=2), recovery_s=[1.0, 3.0])
    report.audit = AUDIT
    report.findings += AUDIT.findings
    text = report.to_text()
    assert "1 FINDINGS" in text
    assert "FINDING money: gone" in text
    assert "median 2.00 s, longest 3.00 s" in text
    document = json.loads(json.dumps(report.to_document()))
    assert document["is_clean"] is False
    assert document["harm"] == {"worker": 2}
    assert document["audit"]["late_s_max"] == 12.3


def test_skipped_scenario_says_why() -> None:
    """
    What could not be tried is not passed over in silence.
    """
    report = Report(scenario="disk", seed=7, skipped="no tmpfs")
    assert report.to_text() == "disk: SKIPPED: no tmpfs"
    assert report.is_clean
