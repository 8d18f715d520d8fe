"""A prompt before it is tokenised, text or turns: its texts, hidden from who looks for control tokens, and its parts.

Beside ``encode.py``. Of a turn's calls of tools, and of tools that are offered, the strings are looked at one by one:
around them stand the chat template's own marks. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune_trainer.text.example import Source
from finetune_trainer.text.template.conversation import TOOLS, Message

if TYPE_CHECKING:
    from finetune_trainer.text.control import ControlTokens

__all__ = ["fewer_turns", "hidden", "hidden_turn", "longest_turn", "may_spell", "spells"]


def spells(source: Source | Message, control: ControlTokens) -> bool:
    """Tell whether a row's text spells a control token."""
    return any(control.spelled(text) for text in (*_texts(source), *_strings(source)))


def may_spell(source: Source | Message, control: ControlTokens) -> bool:
    """Tell whether a row's text spells a control token, or may do so together with what stands around it."""
    return any(map(control.near, _texts(source))) or any(map(control.spelled, _strings(source)))


def hidden(source: Source, control: ControlTokens) -> Source:
    """Return a prompt with marks in the places of the control tokens that it spells."""
    if isinstance(source, str):
        return control.hide(source)
    return tuple(hidden_turn(turn, control) for turn in source)


def hidden_turn(turn: Message, control: ControlTokens) -> Message:
    """Return a turn with such marks."""

    def hide(text: str) -> str:
        return control.hide(text) if control.spelled(text) else text

    if turn.role == TOOLS:
        return replace(turn, content=_with_strings(turn.content, hide))
    more = _with_strings(turn.more, hide) if turn.more else ""
    return replace(turn, content=control.hide(turn.content), more=more)


def _turns(source: Source | Message) -> tuple[Message, ...]:
    return (source,) if isinstance(source, Message) else () if isinstance(source, str) else source


def _texts(source: Source | Message) -> list[str]:
    if isinstance(source, str):
        return [source]
    return [turn.content for turn in _turns(source) if turn.role != TOOLS]


def _strings(source: Source | Message) -> Iterator[str]:
    """Strings in the calls of turns and in the tools that are offered."""
    for turn in _turns(source):
        text = turn.content if turn.role == TOOLS else turn.more
        if text:
            found: list[str] = []
            _with_strings(text, lambda one, found=found: found.append(one) or one)  # type: ignore[misc]
            yield from found


def _with_strings(text: str, change: Callable[[str], str]) -> str:
    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, list):
            return [changed(one) for one in value]
        if isinstance(value, dict):
            return {change(key): changed(one) for key, one in value.items()}
        return value

    return json.dumps(changed(json.loads(text)), ensure_ascii=False)


def fewer_turns(turns: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    """Yield a conversation without its oldest question, then without the next, until one is left.

    A question goes with all that follows it up to the next one, a greeting by itself. Tools that are offered and the
    system's turn stay.
    """
    kept = [turn for turn in turns if turn.role in (TOOLS, "system")]
    rest = turns[len(kept) :]
    while True:
        after = [place for place, turn in enumerate(rest) if place and turn.role == "user"]
        if not after:
            return
        rest = rest[after[0] :]
        yield (*kept, *rest)


def longest_turn(turns: Sequence[Message]) -> int:
    """Place of the longest turn of a user or of a tool: the one whose middle may be left out."""
    places = [place for place, turn in enumerate(turns) if turn.role in ("user", "tool")]
    return max(places, key=lambda place: len(turns[place].content))
