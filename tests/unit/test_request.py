"""
A client's request: what is checked, what is refused in which words, what is sent on.
"""

from __future__ import annotations

import json

import pytest

from tokenworks.foundation.errors import InvalidError, TooLargeError
from tokenworks.foundation.limits import (
    REQUEST_BODY_BYTES_MAX,
    REQUEST_CHOICES_MAX,
    REQUEST_MESSAGES_MAX,
)
from tokenworks.gateway.request import ChatRequest, parse_chat_request, to_upstream_body

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


def body_with(members: bytes) -> bytes:
    """
    Return a valid body with more members.
    """
    return b'{"model":"smollm2",' + MESSAGES + b"," + members + b"}"


def upstream_body(
    body: bytes, *, granted_output: int | None = None, force_usage: bool = True
) -> bytes:
    """
    Return what a supplier gets for a client's body.
    """
    return to_upstream_body(
        body,
        parse_chat_request(body),
        upstream_model="up/model",
        granted_output=granted_output,
        force_usage=force_usage,
    )


def test_the_fields_the_hub_needs_are_read() -> None:
    """
    Names, limits and the way the answer comes back.
    """
    request = parse_chat_request(
        b'{"model":"org/name:8b-v1.5@high_speed","messages":[{"a":1}, {"b":2}],"n":2,'
        b'"stream":true,"stream_options":{"include_usage":true},"max_tokens":7,"x":[1]}'
    )
    assert (request.model_name, request.tier) == ("org/name:8b-v1.5", "high_speed")
    assert (request.choices_asked, request.output_tokens_asked) == (2, 7)
    assert request.is_stream
    assert request.wants_usage_chunk
    assert [bytes(message) for message in request.messages] == [b'{"a":1}', b'{"b":2}']
    assert request.message_bytes == 14


def test_what_is_not_given_has_its_default() -> None:
    """
    One choice, plain, no usage chunk, the party's tier, no output limit.
    """
    request = parse_chat_request(b'{"model":"m",' + MESSAGES + b',"n":null,"stream":null}')
    assert request.tier is None
    assert request.choices_asked == 1
    assert not request.is_stream
    assert not request.wants_usage_chunk
    assert request.output_tokens_asked is None


def test_the_larger_of_two_output_limits_counts() -> None:
    """
    The supplier may obey either name, so the hold must cover both.
    """
    request = parse_chat_request(body_with(b'"max_tokens":50,"max_completion_tokens":20'))
    assert request.output_tokens_asked == 50


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        (b"", "invalid_json", None, "We could not parse the JSON body of your request: "),
        (b"hello", "invalid_json", None, "We could not parse the JSON body of your request: "),
        (body_with(b'"x":1') + b" {}", "invalid_json", None, "We could not parse the JSON body"),
        (b'{"model":"\xff"}', "invalid_json", None, "We could not parse the JSON body"),
        (b"[" * 100_000, "invalid_type", None, "Invalid type for the request body"),
        (b'{"x":' + b"[" * 100_000, "invalid_json", None, "We could not parse the JSON body"),
        (b'{"x":NaN}', "invalid_json", None, "We could not parse the JSON body"),
        (
            b"[]",
            "invalid_type",
            None,
            "Invalid type for the request body: expected an object, but got an array instead.",
        ),
        (b"{}", "missing_required_parameter", "model", "Missing required parameter: 'model'."),
        (
            b'{"model":"m"}',
            "missing_required_parameter",
            "messages",
            "Missing required parameter: 'messages'.",
        ),
        (
            b'{"model":1,' + MESSAGES + b"}",
            "invalid_type",
            "model",
            "Invalid type for 'model': expected a string, but got an integer instead.",
        ),
        (
            b'{"model":"m","messages":{}}',
            "invalid_type",
            "messages",
            "Invalid type for 'messages': expected an array, but got an object instead.",
        ),
        (
            b'{"model":"m","messages":[]}',
            "invalid_value",
            "messages",
            "Invalid value for 'messages': expected an array of length >= 1.",
        ),
        (
            b'{"model":"m","messages":[{},"x"]}',
            "invalid_type",
            "messages[1]",
            "Invalid type for 'messages[1]': expected an object.",
        ),
        (
            body_with(b'"stream":"yes"'),
            "invalid_type",
            "stream",
            "Invalid type for 'stream': expected a boolean or null, but got a string instead.",
        ),
        (
            body_with(b'"stream":true,"stream_options":{"include_usage":1}'),
            "invalid_type",
            "stream_options.include_usage",
            "Invalid type for 'stream_options.include_usage': expected a boolean or null, but ",
        ),
        (
            body_with(b'"stream_options":{"include_usage":true}'),
            "invalid_request",
            "stream_options",
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        ),
        (
            body_with(b'"max_tokens":0'),
            "invalid_value",
            "max_tokens",
            "Invalid value for 'max_tokens': expected an integer >= 1.",
        ),
        (
            body_with(b'"max_completion_tokens":-5'),
            "invalid_value",
            "max_completion_tokens",
            "Invalid value for 'max_completion_tokens': expected an integer >= 1.",
        ),
        (
            body_with(b'"max_tokens":99999999999999999999'),
            "invalid_value",
            "max_tokens",
            "Invalid value for 'max_tokens': expected an integer <= 2147483647.",
        ),
        (
            body_with(b'"max_tokens":"10"'),
            "invalid_type",
            "max_tokens",
            "Invalid type for 'max_tokens': expected an integer or null, but got a string instead.",
        ),
        (
            body_with(b'"n":17'),
            "invalid_value",
            "n",
            f"Invalid value for 'n': expected an integer <= {REQUEST_CHOICES_MAX}.",
        ),
        (
            body_with(b'"temperature":1e999'),
            "invalid_request",
            "temperature",
            "Invalid 'temperature': Number out of range.",
        ),
        (
            body_with(b'"stop":["a",1]'),
            "invalid_type",
            "stop[1]",
            "Invalid type for 'stop[1]': expected a string, but got an integer instead.",
        ),
        (body_with(b'"tools":{}'), "invalid_type", "tools", "Invalid type for 'tools': "),
    ],
)
def test_bad_bodies_are_refused_in_openai_words(
    body: bytes, code: str, param: str | None, message: str
) -> None:
    """
    The refusal names the field, what was expected and what came.
    """
    with pytest.raises(InvalidError) as caught:
        parse_chat_request(body)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "model", ["", "a b", "@standard", "m@", "m@A B", "m@a@b", "-m", "é", "m\\n", "x" * 129]
)
def test_a_model_is_a_name_and_maybe_a_tier(model: str) -> None:
    """
    Anything else is refused with the grammar.
    """
    with pytest.raises(InvalidError, match="expected 'name' or 'name@tier'") as caught:
        parse_chat_request(b'{"model":"' + model.encode() + b'",' + MESSAGES + b"}")
    assert caught.value.param == "model"


def test_a_body_over_the_limit_is_too_large() -> None:
    """
    One byte over the limit is refused before it is parsed; the limit itself is not.
    """
    filler = b'"x":"' + b"x" * (REQUEST_BODY_BYTES_MAX - len(body_with(b'"x":""'))) + b'"'
    assert isinstance(parse_chat_request(body_with(filler)), ChatRequest)
    with pytest.raises(TooLargeError):
        parse_chat_request(body_with(filler) + b" ")


def test_too_many_messages_are_refused() -> None:
    """
    The limit is named in the message.
    """
    messages = b",".join([b"{}"] * (REQUEST_MESSAGES_MAX + 1))
    with pytest.raises(InvalidError, match=f"length <= {REQUEST_MESSAGES_MAX}") as caught:
        parse_chat_request(b'{"model":"m","messages":[' + messages + b"]}")
    assert caught.value.param == "messages"


def test_only_the_model_changes_in_a_plain_request() -> None:
    """
    Order, digits, escapes, white space in values and unknown fields stay.
    """
    body = (
        b'{"zeta":1.50,"model":"pub@standard",'
        b'"messages":[{"role":"user",  "content":"\\u4e2d\xc3\xa9"}],'
        b'"temperature":0.70,"seed":12345678901234567890,"e":1E2,"x":{"b":1,"a":[ ]}}'
    )
    assert upstream_body(body) == body.replace(b"pub@standard", b"up/model")


def test_a_stream_is_made_to_report_usage() -> None:
    """
    Usage is forced on; other stream options stay.
    """
    assert upstream_body(body_with(b'"stream":true')).endswith(
        b'"stream":true,"stream_options":{"include_usage":true}}'
    )
    assert upstream_body(body_with(b'"stream":true,"stream_options":null')).endswith(
        b'"stream_options":{"include_usage":true}}'
    )
    body = body_with(b'"stream":true,"stream_options":{"x":1.0,"include_usage":false,"y":2}')
    assert upstream_body(body).endswith(b'"stream_options":{"x":1.0,"include_usage":true,"y":2}}')
    assert b"include_usage" not in upstream_body(body_with(b'"stream":true'), force_usage=False)
    assert b"stream_options" not in upstream_body(body_with(b'"stream":false'))


@pytest.mark.parametrize(
    ("members", "granted", "expected"),
    [
        (b'"x":1', 40, {"max_tokens": 40}),
        (b'"max_tokens":null', 40, {"max_tokens": 40}),
        (b'"max_tokens":30', 40, {"max_tokens": 30}),
        (b'"max_tokens":50', 40, {"max_tokens": 40}),
        (b'"max_completion_tokens":50', 40, {"max_completion_tokens": 40}),
        (
            b'"max_tokens":30,"max_completion_tokens":50',
            40,
            {"max_tokens": 30, "max_completion_tokens": 40},
        ),
        (b'"max_tokens":50', None, {"max_tokens": 50}),
        (b'"x":1', None, {}),
    ],
)
def test_no_output_limit_is_above_the_grant(
    members: bytes, granted: int | None, expected: dict[str, int]
) -> None:
    """
    What the supplier may produce is covered by the hold, whichever name it obeys.
    """
    sent = json.loads(upstream_body(body_with(members), granted_output=granted))
    assert {name: sent[name] for name in sent if name.startswith("max_")} == expected


def test_a_field_that_stands_twice_is_sent_once() -> None:
    """
    The supplier cannot read another value than the hub checked.
    """
    body = body_with(b'"max_tokens":5,"max_tok\\u0065ns":7,"mod\\u0065l":"other"')
    assert parse_chat_request(body).max_tokens == 7
    assert upstream_body(body) == (
        b'{"model":"up/model","messages":[{"role":"user","content":"hi"}],"max_tokens":7}'
    )


@pytest.mark.parametrize(
    "member",
    [
        '"n_predict":400',
        '"N_Predict":400',
        '"n_cmpl":8',
        '"N":8',
        '"Max_Tokens":400',
        '"max_to\\u212aens":400',
        '"MAX_COMPLETION_TOKENS":400',
        '"Model":"other"',
        '"Stream":true',
    ],
)
def test_what_an_engine_takes_for_a_counted_field_is_left_out(member: str) -> None:
    """
    llama.cpp's ``n_predict`` overrules ``max_tokens``, and readers in Go take any case: what is
    generated would be more than is held, and beyond a wallet's signature the platform bears it.
    """
    body = body_with(f'"max_tokens":5,{member},"top_k":1'.encode())
    assert json.loads(upstream_body(body, granted_output=5)) == {
        "model": "up/model",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "top_k": 1,
    }


def test_the_upstream_name_may_hold_any_character() -> None:
    """
    It is written as JSON, so it cannot break out of its string.
    """
    body = body_with(b'"x":1')
    sent = to_upstream_body(
        body,
        parse_chat_request(body),
        upstream_model='a"},\\é',
        granted_output=None,
        force_usage=True,
    )
    assert json.loads(sent)["model"] == 'a"},\\é'
