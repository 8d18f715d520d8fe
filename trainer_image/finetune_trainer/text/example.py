"""What goes into the encoder and what comes out of it: a rendered row, its tokens, or that there is no room for it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.template.render import Span

__all__ = ["Encoded", "Example", "Ids", "NoRoom", "Source"]

Ids = tuple[int, ...]
Source = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered row.

    Attributes
    ----------
    where
        Where it stands, in words ("line 7").
    prompt
        Text, or the turns of a conversation before the answer.
    completion
        The expected answer.
    choices
        Its possible answers; the prompt leaves room for the longest.
    spans
        Where in the prompt the fields stand that may be shortened.
    wording
        Number of the prompt's wording; None for the default.
    earlier
        Places in a conversation of the answers before the last that are learned too.
    turn
        The expected answer as a turn, where the chat template writes it: one that calls tools.
    """

    where: str
    prompt: Source
    completion: str
    choices: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    wording: int | None = None
    earlier: tuple[int, ...] = ()
    turn: Message | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens.

    Attributes
    ----------
    prompt, completion
        Together at most ``max_length``; the completion ends with the end ids.
    shortened
        Names of the fields that were shortened; ``prompt`` where it was the prompt as a whole.
    source
        The prompt as it was encoded, where it was shortened; else None.
    control_tokens
        Whether the row's text spells control tokens of the model; they are encoded as characters.
    gaps
        Stretches of ``completion``, from and up to, that are read and not learned: what stands between the answers of a
        conversation.
    written
        The expected answer as the chat template writes it, where that is more than its text.
    called
        Whether the expected answer calls tools in a way that can be read back out of its text.
    before
        Of a conversation whose later prompts do not go on from what was learned before: its earlier answers, as rows.
    """

    prompt: Ids
    completion: Ids
    shortened: tuple[str, ...] = ()
    source: Source | None = None
    control_tokens: bool = False
    gaps: tuple[tuple[int, int], ...] = ()
    written: str = ""
    called: bool = False
    before: tuple[Encoded, ...] = ()

    @property
    def answers(self) -> tuple[int, ...]:
        """Tokens of each answer that is learned from this row, end tokens included."""
        borders = [0, *(at for gap in self.gaps for at in gap), len(self.completion)]
        return tuple(end - start for start, end in zip(borders[::2], borders[1::2], strict=True))

    @property
    def truncated(self) -> bool:
        """Whether anything was shortened."""
        return bool(self.shortened)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a row does not fit; it is a row all the same, so a sealed one still counts."""

    why: str
