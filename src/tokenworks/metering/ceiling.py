"""
The most tokens a prompt can be, for quotes: a bound, not an estimate.

Why the bytes of the JSON are a bound: a tokenizer of the byte-level or byte-fallback kind makes
no token of less than one byte of text, so a text has at most as many tokens as UTF-8 bytes. The
JSON that carries it is never shorter: each character stands for itself or for an escape, and an
escape is longer than the UTF-8 of what it stands for (two bytes for one, six for at most three,
twelve for four). Around the text, ``{"role":"user","content":""}`` is 28 bytes where a chat
template spends about five tokens.

What is not in the JSON is covered by constants: a template's own system prompt and tool
preamble, and media that are sent as an address. Known limits: a tokenizer that expands its input
first (NFKC) and templates that indent tool schemas can exceed it on contrived input; the ledger
then books an overrun, which the platform bears.
"""

from __future__ import annotations

import re
from typing import Final

PROMPT_TEMPLATE_TOKENS: Final = 256
"""For a call: what chat templates add by themselves (a default system prompt, dates)."""

MESSAGE_CEILING_TOKENS: Final = 8
"""For each message: role and turn marks."""

MEDIA_PART_CEILING_TOKENS: Final = 16_384
"""
For each image, sound, video or file part: the largest default of the known families (Qwen2-VL's
model card allows 4 to 16,384 visual tokens for an image).
"""

TOOLS_PREAMBLE_TOKENS: Final = 512
"""For a call with tools: the instructions a template puts before their schemas."""

_ROLE: Final = b'"role"'
_MEDIA_KEY: Final = re.compile(
    rb'"(?:image_url|input_image|video_url|audio_url|input_audio|file|input_file|image)"\s*:'
)
_ESCAPED_LETTER: Final = re.compile(rb"\\u00([4-7][0-9a-fA-F])")


def prompt_ceiling_tokens(messages_json: bytes, *, tools_json: bytes = b"") -> int:
    """
    Return an upper bound of the prompt's tokens. A scan of the bytes, no parsing.

    Args:
        messages_json: The raw JSON of ``messages`` (or of a prompt), as the client sent it.
        tools_json: The raw JSON of ``tools`` and ``functions``, where there are any.
    """
    named = _with_plain_names(messages_json)
    tokens = PROMPT_TEMPLATE_TOKENS + len(messages_json)
    tokens += MESSAGE_CEILING_TOKENS * named.count(_ROLE)
    tokens += MEDIA_PART_CEILING_TOKENS * len(_MEDIA_KEY.findall(named))
    if tools_json:
        tokens += TOOLS_PREAMBLE_TOKENS + len(tools_json)
    return tokens


def _with_plain_names(raw: bytes) -> bytes:
    # No usual encoder escapes letters, but a client could write a part's name as escapes so
    # that it is not counted here.
    if _ESCAPED_LETTER.search(raw) is None:
        return raw
    return _ESCAPED_LETTER.sub(lambda escape: bytes([int(escape[1], 16)]), raw)
