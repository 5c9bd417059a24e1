"""
Tables of measured points: what is read, and what is refused with row and column.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.catalogue import CatalogueError
from tokenworks.factory.economics.model import Boundary, curves
from tokenworks.factory.economics.reading import (
    read_hardware,
    read_phase_energy,
    read_points,
    read_systems,
)

HEADER = (
    "gpu,gpu_count,model,precision,engine,layout,workload,batch,output_tokens_per_s,"
    "tokens_per_s_per_user,ttft_ms,itl_ms,power_w,joules_per_output_token,boundary,as_of,source"
)
GOOD = {
    "gpu": "b200",
    "gpu_count": "1",
    "model": "m",
    "precision": "fp8",
    "engine": "vllm",
    "layout": "tp1",
    "workload": "chat",
    "batch": "8",
    "output_tokens_per_s": "1000",
    "tokens_per_s_per_user": "125",
    "ttft_ms": "200",
    "itl_ms": "8",
    "power_w": "500",
    "joules_per_output_token": "0.5",
    "boundary": "gpu",
    "as_of": "2026-09-05",
    "source": "here",
}


def table(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    """
    Write a table below a comment line, so that its first row is line 3.
    """
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["# Measured here.", header, *rows]) + "\n")
    return path


def line(**changes: str) -> str:
    """
    Return a good row with changes.
    """
    return ",".join({**GOOD, **changes}.values())


def test_shipped_tables_are_read_whole() -> None:
    """
    Every row that stands in a shipped table is a point of it.
    """
    points = read_points()
    assert len(points) == 639
    assert {point.source for point in points} == {"mlenergy-v3", "inferencex-powerx"}
    assert sum(len(curve) for curve in curves(points)) == 639
    assert len(read_systems()) == 23
    assert len(read_phase_energy()) == 14
    assert len(read_hardware()) == 10


def test_own_table_is_read(tmp_path: Path) -> None:
    """
    An operator's own point, with what its source does not say left empty.
    """
    [point] = read_points(table(tmp_path, line(ttft_ms="", as_of="", itl_ms="")))
    assert (point.row, point.ttft_ms, point.itl_ms, point.as_of) == (3, None, None, None)
    assert point.boundary is Boundary.GPU
    assert point.joules_per_token == 0.5


@pytest.mark.parametrize(
    ("changes", "column", "reason"),
    [
        ({"power_w": "NaN"}, "power_w", "'NaN' is not a decimal number above 0"),
        ({"power_w": "-5"}, "power_w", "'-5' is not a decimal number above 0"),
        ({"power_w": "1e3"}, "power_w", "'1e3' is not a decimal number above 0"),
        ({"output_tokens_per_s": "0.0"}, "output_tokens_per_s", "above 0"),
        ({"batch": ""}, "batch", "'' is not a decimal number above 0"),
        ({"gpu_count": "1.5"}, "gpu_count", "a whole number above 0"),
        ({"boundary": ""}, "boundary", "'' is not a boundary: gpu"),
        ({"boundary": "rack"}, "boundary", "'rack' is not a boundary: gpu"),
        ({"as_of": "last week"}, "as_of", "is not a date"),
        ({"model": ""}, "model", "'' is not a name"),
        ({"joules_per_output_token": "0.6"}, "joules_per_output_token", "power_w says 0.5"),
        ({"itl_ms": "9"}, "itl_ms", "tokens_per_s_per_user says 8"),
    ],
)
def test_bad_cell_is_named_by_row_and_column(
    tmp_path: Path, changes: dict[str, str], column: str, reason: str
) -> None:
    """
    The message says where and why; the good row above it is not returned alone.
    """
    with pytest.raises(CatalogueError) as caught:
        read_points(table(tmp_path, line(batch="4"), line(**changes)))
    assert f"row 4, column {column}: " in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("changes", "column", "reason"),
    [
        ({}, "batch", "row 3 is the same point"),
        (
            {"power_w": "600", "joules_per_output_token": ""},
            "power_w",
            "600.0 contradicts row 3, the same point with 500.0",
        ),
        ({"ttft_ms": ""}, "ttft_ms", "None contradicts row 3"),
    ],
)
def test_contradicting_points_are_refused(
    tmp_path: Path, changes: dict[str, str], column: str, reason: str
) -> None:
    """
    The same point twice is one too many, whether or not the figures are the same.
    """
    with pytest.raises(CatalogueError) as caught:
        read_points(table(tmp_path, line(), line(**changes)))
    assert f"row 4, column {column}: {reason}" in caught.value.message


@pytest.mark.parametrize(
    ("content", "place", "reason"),
    [
        ("", "row 1", "the column 'gpu' is missing"),
        (HEADER, "the end", "the table has no row"),
        (HEADER.replace(",boundary", ""), "row 1", "the column 'boundary' is missing"),
        (HEADER.replace("gpu_count", "gpus"), "row 1", "there is no column 'gpus'"),
        (HEADER + ",gpu", "row 1", "the column 'gpu' stands twice"),
        (HEADER + "\n" + line() + ",more", "row 2, column source", "18 cells"),
        (HEADER + "\nb200,1", "row 2, column model", "2 cells where the header has 17"),
        (HEADER + "\n" + line() + "\n\n" + line(batch="9"), "row 3, column gpu", "0 cells"),
        (HEADER + '\n"b200', "row 2", "no CSV"),
    ],
)
def test_bad_table_is_refused(tmp_path: Path, content: str, place: str, reason: str) -> None:
    """
    A table that is not whole says what is missing.
    """
    path = tmp_path / "points.csv"
    path.write_text(content)
    with pytest.raises(CatalogueError) as caught:
        read_points(path)
    assert f"points.csv, at {place}: " in caught.value.message
    assert reason in caught.value.message


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """
    Absent, or no text.
    """
    with pytest.raises(CatalogueError, match="No such file"):
        read_points(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"# ok\n\xff\xfe")
    with pytest.raises(CatalogueError, match=r"at byte 5: it is no UTF-8"):
        read_points(tmp_path / "binary.csv")
