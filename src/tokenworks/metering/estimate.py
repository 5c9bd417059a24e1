"""
Count tokens that no supplier reported, with the vocabulary of the model's family.

The vocabularies ship inside the ``splintr-rs`` wheel, so nothing is downloaded. Loading one
takes up to a tenth of a second and tens of megabytes, therefore at most one is resident and
callers on an event loop run ``TokenCounter`` in a thread. A family without a vocabulary, or a
text beyond the limit, is counted by the rule of thumb. Whatever this module counts is an
estimate.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, cast

from tokenworks.metering.model import Axis, Usage, used
from tokenworks.metering.rule_of_thumb import count_by_rule

ESTIMATE_TEXT_CHARACTERS_MAX: Final = 4_000_000
"""Longer texts (about a second of work) are counted by the rule of thumb."""

MESSAGE_TOKENS: Final = 4
"""Tokens of the chat template around one message, typical of the families below."""

MESSAGE_DEPTH_MAX: Final = 8
"""How deep texts are looked for: message, tool calls, call, function, arguments, and room."""

_VOCABULARIES: Final = (
    # The first part found in the lower-case model name wins, so longer names stand first.
    ("gpt-oss", "gpt-oss"),
    ("gpt-3.5", "cl100k_base"),
    ("gpt-4-", "cl100k_base"),
    ("gpt", "o200k_base"),
    ("codellama", "codellama"),
    ("llama-2", "llama2"),
    ("llama2", "llama2"),
    ("tinyllama", "llama2"),
    ("deepseek-r1-distill-llama", "llama3"),
    ("deepseek-r1-distill-qwen", "qwen3"),
    ("llama", "llama3"),
    ("qwen", "qwen3"),
    ("qwq", "qwen3"),
    ("deepseek", "deepseek_v3"),
    ("mixtral", "mistral_v1"),
    ("nemo", "mistral_v3"),
    ("mistral", "mistral_v3"),
    ("gemma-2", "gemma2"),
    ("gemma", "gemma3"),
    ("glm", "glm4"),
    ("kimi", "kimi_k2"),
    ("moonshot", "kimi_k2"),
    ("phi-4", "phi4"),
    ("olmo", "olmo2"),
)


def vocabulary_of(model: str) -> str | None:
    """
    Return the name of the vocabulary of a model's family; ``None`` where none ships.
    """
    name = model.lower()
    return next((vocabulary for part, vocabulary in _VOCABULARIES if part in name), None)


class _Vocabulary(Protocol):
    """
    What a loaded vocabulary must do.
    """

    def encode_ordinary(self, text: str) -> list[int]:
        """
        Return the tokens of plain text: a spelled-out control mark is text like any other.
        """
        ...


class TokenCounter:
    """
    Count tokens, keeping at most one vocabulary in memory.

    Safe to call from several threads: one loads, the others wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resident: tuple[str, _Vocabulary] | None = None

    @property
    def resident(self) -> str | None:
        """
        Return the name of the vocabulary in memory.
        """
        return None if self._resident is None else self._resident[0]

    def count(self, text: str, *, model: str) -> int:
        """
        Return the tokens of ``text`` for ``model``. Blocks while a vocabulary loads.
        """
        vocabulary = vocabulary_of(model)
        if vocabulary is None or len(text) > ESTIMATE_TEXT_CHARACTERS_MAX:
            return count_by_rule(text)
        return len(self._load(vocabulary).encode_ordinary(text))

    def estimate_usage(
        self, *, model: str, prompt_texts: Sequence[str], answer_texts: Sequence[str]
    ) -> Usage:
        """
        Return the usage of a call whose supplier reported none.

        Args:
            model: The model's public or upstream name.
            prompt_texts: The text of each message (``message_texts``).
            answer_texts: What each choice said, reasoning and tool arguments included.
        """
        prompt = sum(self.count(text, model=model) + MESSAGE_TOKENS for text in prompt_texts)
        answer = sum(self.count(text, model=model) for text in answer_texts)
        return Usage(
            counts=used({Axis.INPUT: prompt, Axis.OUTPUT: answer}),
            is_estimate=True,
            notes=(f"counted_by_{vocabulary_of(model) or 'rule_of_thumb'}",),
        )

    def _load(self, name: str) -> _Vocabulary:
        with self._lock:
            if self._resident is None or self._resident[0] != name:
                # Imported here: most hubs never need it, and it is 37 MB.
                from splintr import Tokenizer  # noqa: PLC0415

                self._resident = None  # the old one is freed before the new one is loaded
                loaded = cast("_Vocabulary", Tokenizer.from_pretrained(name))
                self._resident = (name, loaded)
            return self._resident[1]


def message_texts(messages: object) -> list[str]:
    """
    Return the text of each message of a chat request, for an estimate.

    Texts of content parts and the arguments of tool calls count; media do not.
    """
    if not isinstance(messages, list):
        return []
    texts = [_texts(message, depth=MESSAGE_DEPTH_MAX) for message in cast("list[object]", messages)]
    return ["\n".join(parts) for parts in texts]


def _texts(value: object, *, depth: int) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _texts(part, depth=depth - 1)
    elif depth and isinstance(value, dict):
        for part in _parts(cast("dict[str, object]", value)):
            yield from _texts(part, depth=depth - 1)


def _parts(holder: Mapping[str, object]) -> Iterable[object]:
    for name in ("content", "text", "tool_calls", "function", "name", "arguments"):
        if name in holder:
            yield holder[name]
