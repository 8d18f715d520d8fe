"""How a chat template writes what a model thinks before it answers: tried out once, never known beforehand.

Beside ``chat.py``. Some templates take the thought under a key of its own and write it; others write the content as it
is, tags and all; others cut thoughts out of what was answered and open one in their generation prompt alone. Where the
template writes no thought, the answer is put together here as the model would write it. Pure but for what renders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_trainer.text.template.conversation import THOUGHT, Message
from finetune_trainer.text.template.thoughts import CLOSE, OPEN

__all__ = ["ThoughtFormat", "Thoughts", "opened_by"]

Render = Callable[[Sequence[Message], str], str]
"""Renders an answered conversation, its thoughts under a key; ValueError where the template refuses."""

_KEYS: Final = (THOUGHT, "reasoning", "thinking")
_THOUGHT: Final = "Thought0"
_WORD: Final = r"(?:think|thought|reason)\w*"
_TAG: Final = re.compile(rf"(?:<(?P<angle>{_WORD})>|\[(?P<square>{_WORD})\])(?P<blank>\s*)\Z", re.IGNORECASE)
_EMPTY: Final = re.compile(
    rf"(?:<(?P<angle>{_WORD})>\s*</(?P=angle)>|\[(?P<square>{_WORD})\]\s*\[/(?P=square)\])\s*\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Thoughts:
    """Where the thought ends in what a model writes.

    Attributes
    ----------
    opening, closing
        Text before a thought and between it and the answer, without outer white space. Without an opening the prompt
        has opened the thought already.
    """

    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """How a template has thoughts written.

    Attributes
    ----------
    key
        Under which it takes a thought and writes it; empty where it writes none.
    opening, closing
        Text between the generation prompt and a thought, and between it and the answer.
    """

    key: str
    opening: str
    closing: str

    @classmethod
    def find(cls, render: Render, prompt: str, plain: str, question: Message, answer: str) -> ThoughtFormat:
        """Try a template out.

        Parameters
        ----------
        prompt, plain
            The generation prompt after ``question``, and the conversation with an answer that has no thought.
        """
        turn = Message("assistant", answer).thinking(_THOUGHT)
        inline = Message("assistant", f"{OPEN}\n{_THOUGHT}\n{CLOSE}\n\n{answer}")
        tried = [(key, _tried(render, [question, turn], key)) for key in _KEYS]
        before = plain.removeprefix(prompt).partition(answer)[0].rstrip(" ") if plain.startswith(prompt) else ""
        for key, text in (*tried, ("", _tried(render, [question, inline], THOUGHT))):
            opening, thought, rest = text.removeprefix(prompt if key else prompt + before).partition(_THOUGHT)
            closing, answered, _ = rest.partition(answer)
            if text.startswith(prompt) and thought and answered and closing.strip():
                return cls(key, opening, closing)
        closed = opened_by(prompt)[1]
        if closed and (not plain.startswith(prompt) or closed.strip() in before):
            return cls("", "", closed)
        return cls("", f"{OPEN}\n", f"\n{CLOSE}\n\n")

    @property
    def marks(self) -> Thoughts:
        """Where the thought ends in what the model writes."""
        return Thoughts(self.opening.strip(), self.closing.strip())

    def written(self, thought: str, answer: str) -> str:
        """Put an answer together as the model is to write it; what the prompt has opened is closed in any case."""
        if not thought and self.opening.strip():
            return answer
        return f"{self.opening}{thought}{self.closing}{answer.lstrip(' ')}"

    def answer_in(self, written: str) -> str:
        """Return what follows the thought in a written answer; all of it where it has none."""
        if self.opening.strip() and not written.startswith(self.opening):
            return written
        _, closed, rest = written.partition(self.closing.strip())
        return rest.lstrip() if closed else written


def opened_by(prompt: str) -> tuple[str, str]:
    """Return the text by which a generation prompt opens a thought, and the text that closes it; empty where none does.

    It is a tag at its very end that is named for thinking; others name the role that speaks. An empty thought there
    needs no closing any more.
    """
    if empty := _EMPTY.search(prompt):
        return empty[0], ""
    found = _TAG.search(prompt)
    if found is None:
        return "", ""
    close = f"</{found['angle']}>" if found["angle"] else f"[/{found['square']}]"
    return found[0], f"\n{close}\n\n" if "\n" in found["blank"] else close


def _tried(render: Render, turns: Sequence[Message], key: str) -> str:
    try:
        return render(turns, key)
    except ValueError:
        return ""
