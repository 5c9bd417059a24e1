"""
The command of the crash tests says what it does not understand, before any hub is started.
"""

from __future__ import annotations

import pytest

from tests.crash.run import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kills", "floods"], "no scenario floods; there are kills, freeze, disk, cuts"),
        (["--kills", "0"], "0 is not at least 1"),
        (["--seed", "tomorrow"], "invalid int value: 'tomorrow'"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    With what would have been right.
    """
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
