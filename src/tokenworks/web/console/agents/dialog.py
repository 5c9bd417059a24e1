"""
A question before something is done: what it does, a note, yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from nicegui import ui
from nicegui.events import GenericEventArguments

from tokenworks.web.console.frame import html
from tokenworks.web.console.pages import render

Answers = Mapping[str, str]
"""What stood in the form's fields, by name."""

FIELD_CHARACTERS_MAX: Final = 2_000
_SUBMITTED: Final = """
(event) => { event.preventDefault(); emit(Object.fromEntries(new FormData(event.target))); }
"""
_CANCELLED: Final = "(event) => { if (event.target.closest('[data-cancel]')) emit(); }"


async def ask(template: str, **facts: object) -> Answers | None:
    """
    Show a question and wait; returns what was filled in, or ``None`` for no.

    Args:
        template: Of a form's content, with a submit button and one marked ``data-cancel``.
        facts: For the template.
    """
    with ui.dialog() as dialog, ui.element("form").classes("card question") as form:
        html(render(template, **facts)).classes("question-content")
    dialog.props('aria-labelledby="question-title" transition-duration=0')

    def submit(event: GenericEventArguments) -> None:
        dialog.submit(_answers(event.args))

    form.on("submit", submit, js_handler=_SUBMITTED)
    form.on("click", lambda: dialog.submit(None), js_handler=_CANCELLED)
    answers = cast("Answers | None", await dialog)
    dialog.delete()
    return answers


def _answers(fields: object) -> Answers:
    if not isinstance(fields, dict):
        return {}
    named = cast("dict[object, object]", fields)
    return {str(name): str(value).strip()[:FIELD_CHARACTERS_MAX] for name, value in named.items()}
