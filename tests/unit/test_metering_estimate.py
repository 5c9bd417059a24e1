"""
Token estimates, and the ceiling of a prompt.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.metering import ceiling as ceiling_module
from tokenworks.metering import estimate
from tokenworks.metering.ceiling import (
    MEDIA_PART_CEILING_TOKENS,
    MESSAGE_CEILING_TOKENS,
    PROMPT_TEMPLATE_TOKENS,
    TOOLS_PREAMBLE_TOKENS,
    prompt_ceiling_tokens,
)
from tokenworks.metering.estimate import TokenCounter, message_texts, vocabulary_of
from tokenworks.metering.model import Axis
from tokenworks.metering.rule_of_thumb import count_by_rule


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("   \n", 0),
        ("word", 2),
        ("ten words " * 5, 13),
        ("x" * 17, 5),
        ("电" * 3, 2),
        ("电力", 2),
        ("买 10 tokens", 4),
    ],
)
def test_rule_of_thumb(text: str, tokens: int) -> None:
    """
    1.3 tokens a word, a token for four characters of a long one, two for three ideographs.
    """
    assert count_by_rule(text) == tokens


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("DeepSeek-V4-Pro", "deepseek_v3"),
        ("deepseek-r1-distill-llama-70b", "llama3"),
        ("Qwen3-235B-A22B", "qwen3"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3"),
        ("smollm2", None),
    ],
)
def test_vocabulary_follows_the_family(model: str, vocabulary: str | None) -> None:
    """
    The name of a model says its family; an unknown family has no vocabulary.
    """
    assert vocabulary_of(model) == vocabulary


def test_every_vocabulary_ships() -> None:
    """
    Each name in the table loads offline, and only the last one stays in memory.
    """
    counter = TokenCounter()
    names = dict.fromkeys(name for _, name in estimate._VOCABULARIES)
    parts = {name: part for part, name in reversed(estimate._VOCABULARIES)}
    for name in names:
        assert counter.count("A watt becomes tokens.", model=parts[name]) in range(4, 9)
        assert counter.resident == name


def test_special_marks_in_a_text_are_plain_text() -> None:
    """
    A text that spells a control mark is not counted as one token.
    """
    assert TokenCounter().count("<|endoftext|>", model="gpt-4o") > 1


def test_estimated_usage_is_marked() -> None:
    """
    Whatever the hub counts itself is an estimate and says by what it was counted.
    """
    messages = [{"role": "user", "content": "two words"}]
    by_rule = TokenCounter().estimate_usage(
        model="smollm2", prompt_texts=message_texts(messages), answer_texts=["one", "two"]
    )
    assert dict(by_rule.counts) == {Axis.INPUT: 3 + estimate.MESSAGE_TOKENS, Axis.OUTPUT: 4}
    assert by_rule.is_estimate
    assert by_rule.notes == ("counted_by_rule_of_thumb",)
    counted = TokenCounter().estimate_usage(
        model="gpt-4o", prompt_texts=["two words"], answer_texts=["one"]
    )
    assert counted.notes == ("counted_by_o200k_base",)


def test_a_text_beyond_the_limit_is_counted_by_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A huge text does not hold a vocabulary for seconds.
    """
    monkeypatch.setattr(estimate, "ESTIMATE_TEXT_CHARACTERS_MAX", 3)
    counter = TokenCounter()
    assert counter.count("four", model="gpt-4o") == count_by_rule("four")
    assert counter.resident is None


def test_message_texts_are_found_in_parts_and_tool_calls() -> None:
    """
    Text parts and the arguments of calls count, media do not, depth is bounded.
    """
    deep: object = "bottom"
    for _ in range(5000):
        deep = {"content": deep}
    messages = [
        "not an object",
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"image_url": "x"}]},
        {"tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]},
        {"content": None},
        deep,
    ]
    assert message_texts(messages) == ["not an object", "see", "find\n{}", "", ""]
    assert message_texts({"not": "a list"}) == []


def test_ceiling_counts_messages_media_and_tools() -> None:
    """
    Each part of the bound is its documented constant.
    """
    messages = json.dumps(
        [
            {"role": "system", "content": 'say "role" and "image_url":'},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this?"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                    {"type": "file", "file": {"file_id": "f"}},
                ],
            },
        ]
    ).encode()
    expected = PROMPT_TEMPLATE_TOKENS + len(messages) + 2 * MESSAGE_CEILING_TOKENS
    expected += 2 * MEDIA_PART_CEILING_TOKENS
    assert prompt_ceiling_tokens(messages) == expected
    tools = b'[{"type":"function"}]'
    with_tools = expected + TOOLS_PREAMBLE_TOKENS + len(tools)
    assert prompt_ceiling_tokens(messages, tools_json=tools) == with_tools


def test_a_media_name_written_in_escapes_is_counted() -> None:
    """
    A client cannot hide a picture from the quote by spelling its name with escapes.
    """
    plain = b'[{"role":"user","content":[{"image_url":{"url":"u"}}]}]'
    hidden = plain.replace(b"image", rb"\u0069mag\u0065").replace(b"role", rb"rol\u0065")
    difference = prompt_ceiling_tokens(hidden) - prompt_ceiling_tokens(plain)
    assert difference == len(hidden) - len(plain)


@given(text=st.text(max_size=200), ascii_only=st.booleans())
def test_json_is_never_shorter_than_its_text(text: str, ascii_only: bool) -> None:
    """
    The bytes of the JSON bound the UTF-8 bytes of the text, escaped or not.
    """
    text = text.encode("utf-8", "ignore").decode()
    raw = json.dumps([{"role": "user", "content": text}], ensure_ascii=ascii_only).encode()
    assert prompt_ceiling_tokens(raw) >= len(text.encode()) + ceiling_module.PROMPT_TEMPLATE_TOKENS


@pytest.mark.parametrize("model", ["gpt-4o", "llama-2-7b", "gemma-3", "qwen3"])
def test_no_vocabulary_exceeds_the_ceiling(model: str) -> None:
    """
    Real vocabularies never make more tokens than bytes, whatever the script.
    """
    counter = TokenCounter()
    for text in ("plain words", "电力变成词元", "🙂🙃" * 20, "\u0000\u0001", "a" * 300, "ﷺ"):
        raw = json.dumps([{"role": "user", "content": text}], ensure_ascii=False).encode()
        assert counter.count(text, model=model) <= prompt_ceiling_tokens(raw)
