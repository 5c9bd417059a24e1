"""
The sandbox: what overruns is killed and not met; what is the machine's fault is no verdict.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import pytest

from tests.patience import PATIENCE_S
from tokenworks.adapters.cel_sandbox.sandbox import SEATS, CelSandbox
from tokenworks.agents.escrow.errors import EvaluatorUnavailableError
from tokenworks.agents.escrow.model import Share


@pytest.fixture
async def sandbox() -> AsyncIterator[CelSandbox]:
    """
    A sandbox of the test's own.
    """
    sandbox = CelSandbox(patience_s=PATIENCE_S)
    yield sandbox
    await sandbox.close()


ALL, NOTHING = Share(part=1, whole=1), Share(part=0, whole=1)

OUTCOMES = (
    ("result.a == 1", ALL),
    ("result.a == 2", NOTHING),
    ("[result.a, 3]", Share(part=1, whole=3)),
    ("'0.25'", Share(part=25, whole=100)),
    ("1", ALL),
    ("result.f > 0.4 && result.t == 'x'", ALL),
    ("false && result.missing", NOTHING),
    ("result.l.all(x, x > 0)", ALL),
)

ERRORS = (
    ("result.missing == 1", "KeyError: 'missing'"),
    ("0.5", "share_is_float"),
    ("result.f", "share_is_float"),
    ("2", "share_outside"),
    ("[2, 1]", "share_outside"),
    ("[-1, 2]", "share_outside"),
    ("[1, 0]", "share_outside"),
    ("[0.5, 1]", "not_a_share"),
    ("[true, 1]", "not_a_share"),
    ("{'a': 1}", "not_a_share"),
    ("null", "not_a_share"),
    ("'abc'", "share_outside"),
    ("9223372036854775807 + 1 > 0", "OverflowError"),
    ("1 / 0 == 1", "ZeroDivisionError"),
    ("result.a > 'x'", "TypeError"),
    ("result.a ==", "ValueError"),
    ("undefined()", "RuntimeError"),
)

DOCUMENT = json.dumps({"a": 1, "f": 0.5, "t": "x", "l": [1, 2]}).encode()


async def test_condition_is_a_share_of_the_amount_or_an_error(sandbox: CelSandbox) -> None:
    """
    Yes, no, an exact part; everything else is an error that says why. No process ends of it.
    """
    for condition, share in OUTCOMES:
        evaluation = await sandbox.evaluate(condition, DOCUMENT)
        assert (evaluation.share, evaluation.error) == (share, None), condition
    for condition, says in ERRORS:
        evaluation = await sandbox.evaluate(condition, DOCUMENT)
        assert evaluation.share is None, condition
        assert says in (evaluation.error or ""), condition
    assert sandbox.children_started <= SEATS


RUNAWAYS = {
    "nested maps": "result.l.map(x, result.l.map(y, x * y)).size() > 0",
    "a list of lists": "result.l.map(x, result.l).size() > 0",
    "huge texts": "result.l.map(x, result.s + result.s + result.s).size() > 0",
    "growing text": "+".join(["result.s"] * 400) + " == ''",
    "a pattern on much text": "result.l.exists(x, result.s.matches('(a+)+b'))",
    "a large pattern": "result.l.exists(x, 'x'.matches('((a{1,60}){1,60}){1,9}'))",
}


@pytest.mark.parametrize("name", RUNAWAYS)
async def test_runaway_is_killed_and_not_met_and_the_next_one_is_served(
    sandbox: CelSandbox, name: str
) -> None:
    """
    Whatever explodes ends by the kernel's hand, with the reason; the next asker notices nothing.
    """
    document = json.dumps({"l": list(range(40_000)), "s": "a" * 60_000}).encode()
    evaluation = await sandbox.evaluate(RUNAWAYS[name], document)
    assert evaluation.share is None
    code = (evaluation.error or "").partition(":")[0]
    assert code in {"out_of_time", "out_of_memory", "crashed"}
    assert (await sandbox.evaluate("true", b"{}")).share == ALL


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 1_900 + "1" + ")" * 1_900,
        "[" * 1_900 + "]" * 1_900,
        "-" * 4_000 + "1",
        "!" * 4_000 + "true",
        "1+" * 2_000 + "1",
        "true?" * 800 + "1" + ":1" * 800,
        "result" + ".a" * 1_900,
    ],
)
async def test_deep_condition_breaks_nothing_but_itself(
    sandbox: CelSandbox, condition: str
) -> None:
    """
    Depth is answered or ends the child; either way there is a verdict and the next is served.
    """
    evaluation = await sandbox.evaluate(condition, b"{}")
    assert evaluation.share is not None or evaluation.error is not None
    assert (await sandbox.evaluate("true", b"{}")).share == ALL


async def test_syntax_is_checked_without_a_result(sandbox: CelSandbox) -> None:
    """
    A condition that cannot be read is found before anybody works for it.
    """
    assert await sandbox.check("result.a > 1") is None
    assert "ValueError" in (await sandbox.check("result.a >") or "")


async def test_child_can_open_nothing(sandbox: CelSandbox) -> None:
    """
    Limits of the kernel, not good manners: no descriptors, bounded memory, no environment.
    """
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    child = _last_used(sandbox)
    limits = _limits_of(child.pid)
    assert limits["Max open files"] == "0"
    assert limits["Max file size"] == "0"
    assert limits["Max address space"] == str(256 * 1024 * 1024)
    status = _read(f"/proc/{child.pid}/status")
    assert ("Seccomp:\t2" in status) == (sandbox.confinement == "seccomp")
    assert "NoNewPrivs:\t1" in status
    assert _read(f"/proc/{child.pid}/environ") == ""


async def test_lost_child_is_no_verdict(sandbox: CelSandbox) -> None:
    """
    A kill from outside says nothing about the condition: it is asked again, not judged.
    """
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    child = _last_used(sandbox)
    os.kill(child.pid, signal.SIGSTOP)
    asked = asyncio.create_task(sandbox.evaluate("true", b"{}"))
    await _until_asked(sandbox, child)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(EvaluatorUnavailableError):
        await asked
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    assert _last_used(sandbox) is not child


async def test_who_comes_while_a_condition_overruns_does_not_wait_for_it(
    sandbox: CelSandbox,
) -> None:
    """
    Two seats: the second caller has its verdict while the first condition still runs.
    """
    document = json.dumps({"l": list(range(9_000))}).encode()
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    child = _last_used(sandbox)
    os.kill(child.pid, signal.SIGSTOP)  # or it might be over before this process runs again
    overrunning = asyncio.create_task(sandbox.evaluate("result.l.map(x, x).size() > 0", document))
    await _until_asked(sandbox, child)
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    assert not overrunning.done()
    os.kill(child.pid, signal.SIGCONT)
    evaluation = await overrunning
    assert "map and filter copy" in (evaluation.error or ""), "the size that is too much is named"
    assert len(sandbox._idle) <= SEATS


async def test_half_of_the_documented_sizes_is_in_time(sandbox: CelSandbox) -> None:
    """
    What the error and docs/escrow.md say about map and filter, with room for a slow machine.
    """
    plain = json.dumps({"l": list(range(1_000))}).encode()
    rows = json.dumps({"l": [{"id": "x" * 20, "price": 1.5, "ok": True}] * 250}).encode()
    for condition, document in (
        ("result.l.map(x, x).size() == 1000", plain),
        ("result.l.filter(x, x >= 0).size() == 1000", plain),
        ("result.l.filter(x, x.ok).size() == 250", rows),
    ):
        assert (await sandbox.evaluate(condition, document)).share == ALL, condition


async def test_silent_child_is_no_verdict() -> None:
    """
    Patience ends; the child is replaced.
    """
    sandbox = CelSandbox(patience_s=0.2)
    try:
        while True:  # a busy machine may take longer than that to start it
            try:
                await sandbox.evaluate("true", b"{}")
                break
            except EvaluatorUnavailableError:
                continue
        child = _last_used(sandbox)
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(EvaluatorUnavailableError):
            await sandbox.evaluate("true", b"{}")
        assert child.returncode == -signal.SIGKILL
    finally:
        await sandbox.close()


async def test_queue_is_bounded() -> None:
    """
    Who comes when too many wait is told so at once.
    """
    sandbox = CelSandbox(waiting_max=3)
    try:
        asked = [sandbox.evaluate("true", b"{}") for _ in range(10)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await sandbox.close()
    refused = [item for item in answers if isinstance(item, EvaluatorUnavailableError)]
    assert len(refused) == 7


async def test_caller_that_leaves_takes_no_answer_of_another(sandbox: CelSandbox) -> None:
    """
    After a cancelled caller the next one gets its own verdict.
    """
    assert (await sandbox.evaluate("true", b"{}")).share == ALL
    document = json.dumps({"l": list(range(40_000))}).encode()
    child = _last_used(sandbox)
    leaving = asyncio.create_task(sandbox.evaluate("result.l.all(x, x >= 0)", document))
    await _until_asked(sandbox, child)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await sandbox.evaluate("false", b"{}")).share == NOTHING


def _last_used(sandbox: CelSandbox) -> asyncio.subprocess.Process:
    """
    Return the process that answered last: the next caller gets it.
    """
    return sandbox._idle[-1].process


async def _until_asked(sandbox: CelSandbox, process: asyncio.subprocess.Process) -> None:
    while any(child.process is process for child in sandbox._idle):  # noqa: ASYNC110 - a list tells nobody
        await asyncio.sleep(0)


def _limits_of(pid: int) -> dict[str, str]:
    lines = _read(f"/proc/{pid}/limits").splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[0] for line in lines}


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a file of the kernel
        return file.read()
