"""
A supplier's plain answer: what is read of it, and what is changed in it.
"""

from __future__ import annotations

import pytest

from tokenworks.gateway.answer import SupplierMessage, read_answer, read_error, rename_model
from tokenworks.gateway.ports import BadAnswerError, ErrorAnswerError

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"up/x",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3,"cost":1.50}}\n'
)


def answer_with(message: str, *, finish_reason: str = "stop", output_tokens: int = 0) -> bytes:
    """
    Return an answer of one choice.
    """
    return (
        f'{{"choices":[{{"message":{message},"finish_reason":"{finish_reason}"}}],'
        f'"usage":{{"completion_tokens":{output_tokens}}}}}'
    ).encode()


def test_an_answer_is_read_and_renamed() -> None:
    """
    What the books need is read; only the model's value changes.
    """
    answer = read_answer(ANSWER, public_model="smollm2")
    assert answer.body == ANSWER.replace(b'"up/x"', b'"smollm2"')
    assert (answer.answer_id, answer.upstream_model) == ("chatcmpl-1", "up/x")
    assert (answer.finish_reasons, answer.texts) == (("stop",), ("Hello.",))
    assert answer.usage == {"prompt_tokens": 9, "completion_tokens": 3, "cost": 1.5}
    assert not answer.is_empty


def test_an_answer_without_a_model_or_usage_is_passed_on() -> None:
    """
    Nothing is invented.
    """
    body = b'{"choices":[{"message":{"content":"x"}}]}'
    answer = read_answer(body, public_model="smollm2")
    assert (answer.body, answer.usage, answer.upstream_model) == (body, None, None)
    assert answer.finish_reasons == (None,)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"P"}'),
        (
            b' { "x" : 1 , "model" : "a" , "y":[2 ] } \n',
            b' { "x" : 1 , "model" : "P" , "y":[2 ] } \n',
        ),
        # A member of a nested object, and text that looks like a member, stay.
        (b'{"a":{"model":"a"},"model":"a"}', b'{"a":{"model":"a"},"model":"P"}'),
        (b'{"model":"a","a":[{"model":"a"}]}', b'{"model":"P","a":[{"model":"a"}]}'),
        (b'{"t":"\\"model\\":\\"a\\"","model":"a"}', b'{"t":"\\"model\\":\\"a\\"","model":"P"}'),
        (b'{"t\\"model":"a","model":"a"}', b'{"t\\"model":"a","model":"P"}'),
        # The name in other spellings.
        (b'{"mod\\u0065l":"a","b":{"model":"a"}}', b'{"mod\\u0065l":"P","b":{"model":"a"}}'),
        (b'{"b":"\\u4e2d","model":"\\u4e2d"}', b'{"b":"\\u4e2d","model":"P"}'),
        (b'{"b":"\\u4e2d","model":"a\\"b"}', b'{"b":"\\u4e2d","model":"P"}'),
        # A name that stands twice is written once.
        (b'{"model":"a","x":1, "model":"a"}', b'{"model":"P","x":1}'),
        (b'{"x":12,"x":1,"model":"a","m":"\\u0041"}', b'{"x":1,"model":"P","m":"\\u0041"}'),
    ],
)
def test_only_the_top_level_model_is_renamed(document: bytes, expected: bytes) -> None:
    """
    The value is found by its place in the document, not by its looks.
    """
    assert rename_model(document, b'"P"') == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"choices":',
        b"{}",
        b'{"choices":{}}',
        b'{"choices":null}',
        b'{"choices":[1]}',
        b'{"choices":[{"message":"x"}]}',
        b"\xff",
        b'{"choices":' + b"[" * 100_000,
    ],
)
def test_what_is_no_completion_is_a_bad_answer(body: bytes) -> None:
    """
    Nothing of it reaches the buyer or the bill.
    """
    with pytest.raises(BadAnswerError) as caught:
        read_answer(body, public_model="smollm2")
    assert caught.value.code == "supplier_bad_answer"


def test_an_error_with_status_200_is_an_error() -> None:
    """
    The supplier's words are kept for the operator and not repeated.
    """
    with pytest.raises(ErrorAnswerError) as caught:
        read_answer(b'{"error":{"message":"bad key sk-123"}}', public_model="smollm2")
    assert caught.value.supplier_error == {"message": "bad key sk-123"}
    assert "sk-123" not in str(caught.value)


def test_a_null_error_is_none() -> None:
    """
    Some suppliers send the member always.
    """
    body = b'{"error":null,"choices":[]}'
    assert read_answer(body, public_model="smollm2").body == body


@pytest.mark.parametrize(
    ("body", "is_empty"),
    [
        (b'{"choices":[]}', True),
        (answer_with('{"content":""}'), True),
        (answer_with('{"content":null}'), True),
        (answer_with("null"), True),
        (answer_with('{"content":"","tool_calls":[]}'), True),
        (answer_with('{"content":""}', output_tokens=5), False),
        (answer_with('{"content":"x"}'), False),
        (answer_with('{"reasoning_content":"x"}'), False),
        (answer_with('{"refusal":"x"}'), False),
        (answer_with('{"audio":{"transcript":"x"}}'), False),
        (answer_with('{"tool_calls":[{"function":{"name":"f","arguments":""}}]}'), False),
        (answer_with('{"function_call":{"name":"f"}}'), False),
        (answer_with('{"content":[{"type":"text","text":"x"}]}'), False),
    ],
)
def test_an_answer_is_empty_without_text_and_tokens(body: bytes, *, is_empty: bool) -> None:
    """
    Text of any kind, or a counted output token, is something delivered.
    """
    assert read_answer(body, public_model="smollm2").is_empty is is_empty


def test_the_text_holds_reasoning_and_tool_arguments() -> None:
    """
    What the model produced is what an estimate must count.
    """
    message = (
        '{"content":"a","reasoning_content":"b","tool_calls":['
        '{"id":"call_1","function":{"name":"c","arguments":"{\\"d\\":1}"}},1,{"function":null}]}'
    )
    assert read_answer(answer_with(message), public_model="m").texts == ('abc{"d":1}',)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"error":{"message":"no","type":"t","code":400,"param":"n"}}',
            SupplierMessage(message="no", type="t", code="400", param="n"),
        ),
        (b'{"error":"no"}', SupplierMessage(message="no")),
        (b'{"detail":[{"msg":"no"}]}', SupplierMessage(message='[{"msg":"no"}]')),
        (b'{"message":"no"}', SupplierMessage(message="no")),
        (b"<html>", SupplierMessage()),
        (b"[" * 100_000, SupplierMessage()),
    ],
)
def test_error_answers_are_read_in_every_shape(body: bytes, expected: SupplierMessage) -> None:
    """
    Reading an error never raises another.
    """
    assert read_error(body) == expected
