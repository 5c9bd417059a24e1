"""
Receipts in files, in every form the hub hands them out.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.unit.receipt_samples import (
    ROOT_KEY,
    sample_draft,
    sample_lane,
    to_document,
    trusted_keys,
)
from tokenworks.receipts import files
from tokenworks.receipts.errors import KeyFileInvalidError
from tokenworks.receipts.files import COMMENT_PREFIX, read_keys, verify_paths
from tokenworks.receipts.jws import to_jwk


def write(path: Path, text: str) -> Path:
    """
    Write a file and return its path.
    """
    path.write_text(text, encoding="utf-8")
    return path


def test_document_list_and_jsonl_are_read(tmp_path: Path) -> None:
    """
    One document, indented or not; a list; one document a line, blank lines ignored.
    """
    documents = sample_lane(3)
    paths = [
        write(tmp_path / "one.json", json.dumps(documents[0], indent=2)),
        write(tmp_path / "list.json", json.dumps(documents)),
        write(tmp_path / "many.jsonl", "\n\n".join(map(json.dumps, documents)) + "\n"),
    ]
    found = verify_paths(paths, trusted_keys())
    assert all(receipt.ok for receipt in found)
    assert [receipt.source.removeprefix(str(tmp_path)) for receipt in found] == [
        "/one.json",
        "/list.json[0]",
        "/list.json[1]",
        "/list.json[2]",
        "/many.jsonl:1",
        "/many.jsonl:3",
        "/many.jsonl:5",
    ]


def test_saved_stream_is_read(tmp_path: Path) -> None:
    """
    The receipt's comment line is found among the stream's other lines.
    """
    line = COMMENT_PREFIX + json.dumps(to_document(sample_draft(), "buyer"))
    stream = f': keep-alive\r\n\r\ndata: {{"choices":[]}}\r\n\r\n{line}\r\n\r\ndata: [DONE]\r\n\r\n'
    found = verify_paths([write(tmp_path / "stream.txt", stream)], trusted_keys())
    assert [receipt.ok for receipt in found] == [True]
    assert found[0].source.endswith("stream.txt:5")


def test_links_are_checked_across_files(tmp_path: Path) -> None:
    """
    Receipts of one lane that were saved one by one still form a chain.
    """
    documents = sample_lane(2)
    paths = [
        write(tmp_path / f"{index}.json", json.dumps(document))
        for index, document in enumerate([documents[0], documents[1], documents[0]])
    ]
    assert all(receipt.ok for receipt in verify_paths(paths, trusted_keys()))
    other = write(tmp_path / "fork.json", json.dumps(to_document(sample_draft())))
    found = verify_paths([*paths, other], trusted_keys())
    assert any(p.code.value == "chain_forked" for receipt in found for p in receipt.problems)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("", 1),
        ("[]", 1),
        ("\n\n", 1),
        ("not json", 1),
        ("{}\n{", 2),
        ('{"jws": "a", "jws": "b"}', 1),
        ('{"receipt": NaN}', 1),
        ("[" * 100_000, 1),
    ],
)
def test_file_that_holds_no_receipt_is_never_ok(tmp_path: Path, content: str, count: int) -> None:
    """
    Nothing to verify is a finding, not a success; a repeated member is ambiguous.
    """
    found = verify_paths([write(tmp_path / "x", content)], trusted_keys())
    assert len(found) == count
    assert not any(receipt.ok for receipt in found)


def test_unreadable_files_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A missing, binary or oversized file is reported under its name.
    """
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    paths = [tmp_path / "missing", tmp_path / "binary", tmp_path]
    found = verify_paths(paths, trusted_keys())
    assert [receipt.problems[0].code.value for receipt in found] == ["unreadable"] * 3
    assert [receipt.source for receipt in found] == [str(path) for path in paths]
    monkeypatch.setattr(files, "RECEIPT_FILE_BYTES_MAX", 10)
    large = write(tmp_path / "large.json", json.dumps(to_document(sample_draft())))
    (problem,) = verify_paths([large], trusted_keys())[0].problems
    assert "10 bytes" in problem.message


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    """
    The root's public key in a file is all a reader needs.
    """
    jwk = msgspec.to_builtins(to_jwk(ROOT_KEY.public_key()))
    keys = read_keys(write(tmp_path / "key.json", json.dumps(jwk)))
    receipt = write(tmp_path / "receipt.json", json.dumps(to_document(sample_draft())))
    assert verify_paths([receipt], keys)[0].ok
    with pytest.raises(KeyFileInvalidError):
        read_keys(tmp_path / "missing.json")
