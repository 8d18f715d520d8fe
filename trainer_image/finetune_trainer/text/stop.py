"""Where an answer ends, as text: one rule for the untouched model, for validation and for the tuned one. Pure.

Training teaches a model to end its answers with an end token. The untouched model never learned that: it may answer
right and then go on writing. So that a gain measures answers and not a learned token, the text of both is cut by the
same rule before it is compared. Prepare decides the rule, since it sees the expected answers of train; the evaluator
applies it. End tokens end an answer besides, and are no concern of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["StopRule", "is_single_line", "plain_line_ends", "stop_texts"]

LINE_END: Final = "\n"


def stop_texts(given: Sequence[str] | None, *, single_lines: bool) -> tuple[str, ...]:
    """Return the texts that end an answer: the user's, else the line end where all of train's answers are one line."""
    if given:
        return tuple(dict.fromkeys(given))
    return (LINE_END,) if single_lines else ()


def is_single_line(text: str) -> bool:
    """Tell whether a text has no line end but at its ends."""
    return LINE_END not in plain_line_ends(text).strip()


@dataclass(frozen=True, slots=True)
class StopRule:
    """Texts that end an answer, and how answers are compared.

    Line ends count as one kind (``\\r\\n`` and ``\\r`` are read as ``\\n``). An answer ends before the first stop text;
    one that is only white space, such as the line end, counts from the first visible character on. White space at
    both ends of what is left is dropped; inside it counts.
    """

    texts: tuple[str, ...] = ()

    def answer(self, text: str) -> str:
        """Return what of a generated text is the answer."""
        text = plain_line_ends(text)
        found = self._first(text)
        return (text if found is None else text[: found[0]]).strip()

    def ends(self, text: str) -> bool:
        """Tell whether a generated text holds a stop text, so that what follows doesn't matter."""
        return self._first(plain_line_ends(text)) is not None

    def occurs(self, text: str) -> bool:
        """Tell whether a stop text stands in a text, wherever."""
        text = plain_line_ends(text)
        return any(plain_line_ends(stop) in text for stop in self.texts)

    def reference(self, text: str) -> str | None:
        """Return what an answer must be to match an expected text.

        None where no answer can: nothing is left of it, or it goes on visibly after a stop text, at which every answer
        ends. A stop text at its own end is cut off, as it is from answers.
        """
        text = plain_line_ends(text)
        found = self._first(text)
        if found is not None and text[found[1] :].strip():
            return None
        return self.answer(text) or None

    def may_become(self, text: str, reference: str) -> bool:
        """Tell whether a text without a stop text can still become an answer that matches, by whatever follows."""
        text = plain_line_ends(text).rstrip("\ufffd")  # a character whose bytes are not all there yet
        begun = (stop[:n] for stop in map(plain_line_ends, self.texts) for n in range(1, len(stop)))
        before = [text, *(text.removesuffix(start) for start in begun if text.endswith(start))]
        return reference.startswith(text.lstrip()) or any(part.strip() == reference for part in before)

    def _first(self, text: str) -> tuple[int, int] | None:
        """Find the stop text that begins first, the longest of those: (its start, its end)."""
        visible = len(text) - len(text.lstrip())
        found: tuple[int, int] | None = None
        for stop in map(plain_line_ends, self.texts):
            start = text.find(stop, 0 if stop.strip() else visible)
            if start >= 0 and (found is None or (start, -start - len(stop)) < (found[0], -found[1])):
                found = (start, start + len(stop))
        return found


def plain_line_ends(text: str) -> str:
    """Return a text with one kind of line end."""
    return text.replace("\r\n", LINE_END).replace("\r", LINE_END)
