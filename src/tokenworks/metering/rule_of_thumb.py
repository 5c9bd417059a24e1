"""
Count tokens without any vocabulary, by a rule that anyone can repeat by hand.

The rule: a word (anything between spaces) is 1.3 tokens, but a word of more than 16 characters
is one token per four characters; three Chinese, Japanese or Korean characters are two tokens
(the field says one to two characters a token). The sum is rounded up. Good to about a quarter
either way on prose; always an estimate, never a bound.
"""

from __future__ import annotations

import re
from typing import Final

_WORD_TENTHS: Final = 13
_LONG_WORD_CHARACTERS: Final = 16
_LONG_WORD_CHARACTERS_PER_TOKEN: Final = 4
_IDEOGRAPH: Final = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)


def count_by_rule(text: str) -> int:
    """
    Return the tokens of ``text`` by the rule of thumb. O(n) in its length.
    """
    ideographs = 0
    if not text.isascii():
        text, ideographs = _IDEOGRAPH.subn(" ", text)
    tenths = -(-ideographs * 20 // 3)
    for word in text.split():
        if len(word) <= _LONG_WORD_CHARACTERS:
            tenths += _WORD_TENTHS
        else:
            tenths += 10 * -(-len(word) // _LONG_WORD_CHARACTERS_PER_TOKEN)
    return -(-tenths // 10)
