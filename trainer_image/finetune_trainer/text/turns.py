"""All answers of a conversation in one row: each is what the model would be asked for, and none is read twice.

A conversation is encoded once for each answer that is learned, just as it is asked for when the model is served: the
turns before it as the prompt, then the answer and the tokens that end it. Where a prompt begins with the tokens of the
prompt and answer before it, the two are one row, in which the tokens between the answers are read and not learned.
That is compared token by token for every row, so it holds whatever a chat template does. Where it does not (a template
that rewrites earlier turns, a conversation that was shortened), a row of its own begins. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune_trainer.text.example import Encoded, Example, NoRoom
from finetune_trainer.text.template.conversation import Message

__all__ = ["answers_before", "join_answers", "split_answers"]


def answers_before(turns: Sequence[Message]) -> tuple[int, ...]:
    """Places of the answers in a prompt that are to be learned; a greeting answers nothing."""
    return tuple(
        place
        for place, turn in enumerate(turns)
        if turn.role == "assistant" and turn.learned and any(t.role == "user" for t in turns[:place])
    )


def split_answers(example: Example) -> list[Example]:
    """Return an example for each answer that is learned, the last one last."""
    if isinstance(example.prompt, str):
        return [example]
    turns = example.prompt
    return [
        *(_asked(example.where, turns[:place], turns[place]) for place in example.earlier),
        replace(example, earlier=()),
    ]


def _asked(where: str, before: tuple[Message, ...], turn: Message) -> Example:
    return Example(where, before, turn.content, turn=turn if turn.more else None)


def join_answers(parts: Sequence[Encoded | NoRoom | str]) -> Encoded | NoRoom | str:
    """Put the answers of one conversation into as few rows as they are exact in.

    Returns
    -------
    Encoded, NoRoom or str
        The row that ends with the last answer, with those that stand before it; or why the conversation can't be used.
    """
    rows: list[Encoded] = []
    for number, part in enumerate(parts, start=1):
        if isinstance(part, NoRoom):
            return NoRoom(_of_answer(part.why, number, len(parts)))
        if isinstance(part, str):
            return _of_answer(part, number, len(parts))
        joined = _joined(rows[-1], part) if rows else None
        if joined is None:
            rows.append(part)
        else:
            rows[-1] = joined
    return replace(rows[-1], before=tuple(rows[:-1])) if len(rows) > 1 else rows[0]


def _joined(row: Encoded, part: Encoded) -> Encoded | None:
    """One row of two, where the second prompt goes on from the first answer; else None."""
    learned = row.prompt + row.completion
    if row.shortened or part.shortened or part.prompt[: len(learned)] != learned:
        return None
    gap = (len(row.completion), len(part.prompt) - len(row.prompt))
    return Encoded(
        row.prompt,
        part.prompt[len(row.prompt) :] + part.completion,
        control_tokens=row.control_tokens or part.control_tokens,
        gaps=(*row.gaps, gap),
        written=part.written,
        called=part.called,
    )


def _of_answer(why: str, number: int, answers: int) -> str:
    return why if answers == 1 else f"answer {number} of {answers}: {why}"
