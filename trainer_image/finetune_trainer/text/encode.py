"""The one encoder: prompt and completion to tokens, the same for training, baseline, validation and test.

Prompt and completion are tokenised apart and joined, so that a prompt has the same tokens with and without its answer,
and every completion ends with the tokens that end an answer. Chat models get their chat template around the prompt;
others get plain text with the separator on the completion's side, where byte-level vocabularies keep the blank. Text of
a row is text: ``control.py`` keeps what it spells from becoming the model's control tokens. What is too long is
shortened as ``shorten.py`` says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.added import added_ids
from finetune_trainer.text.chat import ChatFormat, ChatRefusedError
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.control import ControlTokens
from finetune_trainer.text.example import Encoded, Example, Ids, NoRoom, Source
from finetune_trainer.text.shorten import Cut, borders, shorten
from finetune_trainer.text.source import fewer_turns, hidden, hidden_turn, longest_turn, may_spell, spells
from finetune_trainer.text.template.catalog import Side
from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.template.render import Span
from finetune_trainer.text.tokens import TextTokens, tokenizer_digest
from finetune_trainer.text.turns import join_answers, split_answers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoded", "Encoder", "Example", "NoRoom", "tokenizer_digest"]

WHOLE_PROMPT: Final = "prompt"
"""Named as what was shortened where it was the prompt as a whole."""
CONVERSATION: Final = "messages"

_CACHED_TOKENS: Final = 2**18
"""Tokens of completions that are remembered, some 10 MB: any label set, but not a data set of summaries."""


@dataclass(frozen=True, slots=True)
class _Shorter:
    """A prompt that was made to fit, its tokens, and the names of what was shortened."""

    source: Source
    ids: Ids
    names: tuple[str, ...]


class Encoder:
    """Encodes rows for one model.

    Parameters
    ----------
    tokenizer
        The model's.
    max_length
        Bound of prompt and completion together, in tokens. Of a longer row the longest field is shortened, never
        what the template says around it. A conversation loses its oldest turns, then the middle of the last user
        turn; a prompt without fields its beginning. A completion is never cut.
    separator
        Between prompt and completion without a chat template.
    thinking
        Whether the model is asked to think before it answers, and learns that.
    encoder_decoder
        Whether prompts go to an encoder of their own: they are then what a plain call makes of them, end token and all,
        completions are texts by themselves, and ``max_length`` bounds each of the two.

    Attributes
    ----------
    chat
        The chat template's format; None without one.
    thoughts
        How the model writes what it thinks; None where it answers at once.
    bos, behind
        Tokens before a prompt without a chat template, and behind one that goes to an encoder.
    anchors
        Texts to stand before a completion while it is tokenised, each tried if it grows together with the one before.
    end_ids
        Tokens that end every completion; the last is the one at which generation stops.
    calls
        How calls of tools are written; None where that can't be read back.
    pad_id
        For batches; what it is doesn't matter, since lengths say what is padding.

    Raises
    ------
    StageError
        ModelInvalid: the tokenizer has no token that ends an answer, or a chat template that can't be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        separator: str = " ",
        thinking: bool = False,
        encoder_decoder: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._apart = encoder_decoder
        self.chat = ChatFormat.find(tokenizer, thinking=thinking)
        self.thoughts = self.chat.thoughts if self.chat is not None else None
        self.calls = self.chat.calls() if self.chat is not None else None
        self._control = ControlTokens(tokenizer)
        self._before = self.chat.before if self.chat else "" if encoder_decoder else separator
        self._text = TextTokens(tokenizer, self._control, alone=encoder_decoder)
        self.anchors = self._text.anchors
        before, behind = added_ids(tokenizer)
        self.bos = () if self.chat else before
        self.behind = behind if encoder_decoder else ()
        self.end_ids = self._find_end()
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_ids[-1])
        self._cache: dict[str, Ids | str] = {}
        self._cached_tokens = 0
        if self.chat is not None and _twice(self._text.ids([self.chat.prompt([Message("user", "a")])])[0], tokenizer):
            raise StageError(Reason.MODEL_INVALID, "the model's chat template begins with two BOS tokens")

    def encode(self, examples: Sequence[Example]) -> list[Encoded | NoRoom | str]:
        """Encode rows.

        Returns
        -------
        list
            One a row, in order: the tokens, that there is no room for it, or why the row can't be used.

        Raises
        ------
        StageError
            ModelInvalid: the chat template or the tokenizer does what would make training differ from use.
        """
        if self._cached_tokens > _CACHED_TOKENS:
            self._cache.clear()
            self._cached_tokens = 0
        asked = [split_answers(e) for e in examples]
        encoded = iter(self._encode_each([self._written(one) for answers in asked for one in answers]))
        return [join_answers([next(encoded) for _ in answers]) for answers in asked]

    def _written(self, example: Example) -> Example:
        """Leave the answer to the chat template where it begins with a thought, were it an empty one."""
        if self.thoughts is None or isinstance(example.prompt, str) or example.turn is not None:
            return example
        return replace(example, turn=Message("assistant", example.completion))

    def _encode_each(self, examples: Sequence[Example]) -> list[Encoded | NoRoom | str]:
        self._continuations([c for e in examples for c in (*e.choices, *([] if e.turn else [e.completion]))])
        prompts, written = self._prompts(examples)
        results: list[Encoded | NoRoom | str] = []
        for example, prompt, text in zip(examples, prompts, written, strict=True):
            if example.turn is None or isinstance(prompt, str):
                results.append(self._fit(example, prompt, self._cache.get(example.completion, ())))
                continue
            result = self._fit(example, prompt, self._turn_ids(example, example.turn, text))
            results.append(self._with_text(result, example.turn, text) if isinstance(result, Encoded) else result)
        return results

    def _with_text(self, row: Encoded, turn: Message, text: str) -> Encoded:
        """Put down how the answer is written, where that is more than its text; the thought stands apart."""
        if self.thoughts is not None:
            text = self.thoughts.answer_in(text) if turn.calls else ""
        called = bool(turn.calls) and self.calls is not None and self.calls.holds(text, turn)
        return replace(row, written=text, called=called)

    def choices(self, texts: Sequence[str]) -> ChoiceSet:
        """Encode possible answers as completions, without end tokens.

        Raises
        ------
        ValueError
            One can't be encoded, or two of them are the same tokens, so that no model could tell them apart.
        """
        ids: list[Ids] = []
        for text, encoded in zip(texts, self._continuations(texts), strict=True):
            if isinstance(encoded, str):
                raise ValueError(f"choice {text!r} can't be used: {encoded}")  # noqa: TRY004  # a bad row or template
            ids.append(encoded)
        if len(set(ids)) < len(ids):
            one, other = next((a, b) for a, b in itertools.combinations(range(len(ids)), 2) if ids[a] == ids[b])
            raise ValueError(f"choices {texts[one]!r} and {texts[other]!r} are the same tokens to this model")
        return ChoiceSet(tuple(texts), tuple(ids))

    # Prompts.

    def _prompts(self, examples: Sequence[Example]) -> tuple[list[Ids | str], list[str]]:
        """Tokens of each whole prompt, or why it can't be framed; and its answer where the chat template writes it."""
        texts: list[str] = []
        written = [""] * len(examples)
        refused: dict[int, str] = {}
        for i, example in enumerate(examples):
            try:
                texts.append(self._framed(example.prompt))
                if self.chat is None or isinstance(example.prompt, str):
                    continue
                if example.turn is not None:
                    written[i] = self.chat.answer(example.prompt, texts[-1], example.turn)
                else:
                    self.chat.check(example.prompt, texts[-1], example.completion)
            except ChatRefusedError as e:
                refused[i] = f"the model's chat template refuses it: {e}"
                texts[i:] = [""]
        prompts = self._tokens([e.prompt for e in examples], texts)
        return [refused.get(i, ids) for i, ids in enumerate(prompts)], written

    def _tokens(self, sources: Sequence[Source], texts: Sequence[str]) -> list[Ids | str]:
        """Tokens of framed prompts, or why they can't be written as tokens."""
        results: list[Ids | str] = []
        for source, text, ids in zip(sources, texts, self._text.ids(texts), strict=True):
            whole: Ids | str = ids
            if text and may_spell(source, self._control):
                whole = self._hidden_ids(source, text)
            if not isinstance(whole, str):
                whole = self.bos + whole + self.behind
                if self.chat is not None and _twice(whole, self._tokenizer):
                    whole = "the model's chat template begins it with two BOS tokens"
            results.append(whole)
        return results

    def _hidden_ids(self, source: Source, text: str) -> Ids | str:
        try:
            marked = self._framed(hidden(source, self._control))
        except ChatRefusedError:
            return "its text spells control tokens that the model's chat template acts on"
        return self._control.encode(marked, text)

    def _framed(self, source: Source) -> str:
        if self.chat is not None:
            return self.chat.prompt([Message("user", source)] if isinstance(source, str) else source)
        if isinstance(source, str):
            return source
        raise StageError(
            Reason.TEMPLATE_INVALID,
            "dataset.template messages needs a model with a chat template, and this one has none; use an instruct "
            "model, or the templates instruction or raw",
        )

    # Room.

    def _fit(self, example: Example, prompt: Ids | str, completion: Ids | str) -> Encoded | NoRoom | str:
        if isinstance(prompt, str) or isinstance(completion, str):
            return prompt if isinstance(prompt, str) else str(completion)
        if self.end_ids[-1] in completion:
            return "its completion contains the token that ends an answer"
        ending = completion + self.end_ids
        longest = max([len(completion), *(len(self._cache[c]) for c in example.choices)]) + len(self.end_ids)
        fits = not self._apart or len(self.bos) + longest <= self._max_length
        room = self._max_length if self._apart else self._max_length - longest
        row = Encoded(
            prompt,
            ending,
            control_tokens=any(spells(s, self._control) for s in (example.prompt, example.turn or example.completion)),
        )
        if fits and len(prompt) <= room:
            return row
        shorter = self._shortened(example, len(prompt) - room, room) if fits else None
        if shorter is None:
            which = "completion" if longest == len(ending) else "longest choice"
            why = f"its {which} of {longest} tokens leaves no room for the prompt in"
            if self._apart:
                why = "its prompt can't be shortened to" if fits else f"its {which} of {longest} tokens is more than"
            return NoRoom(f"{why} training.maxLength {self._max_length}")
        return replace(row, prompt=shorter.ids, shortened=shorter.names, source=shorter.source)

    def _shortened(self, example: Example, excess: int, room: int) -> _Shorter | None:
        source = example.prompt
        if not isinstance(source, str):
            return self._shorter_conversation(source, room)
        # A field's value is one cut of several; without fields the whole prompt is the only one.
        return self._shorter_text(source, example.spans, excess, room) or self._shorter_text(
            source, (Span(WHOLE_PROMPT, 0, len(source), "start"),), excess, room
        )

    def _shorter_text(self, text: str, spans: Sequence[Span], excess: int, room: int) -> _Shorter | None:
        places = sorted((s for s in spans if s.end > s.start), key=lambda s: s.start)
        cuts = [self._cut(s.name, text[s.start : s.end], s.side) for s in places]

        def composed(kept: list[str]) -> str:
            pieces, end = [], 0
            for span, piece in zip(places, kept, strict=True):
                pieces += [text[end : span.start], piece]
                end = span.end
            return "".join([*pieces, text[end:]])

        kept = shorten(cuts, lambda k: self._length(composed(k)) - room, excess)
        if kept is None:
            return None
        return self._shorter(composed(kept), tuple(c.name for c, k in zip(cuts, kept, strict=True) if k != c.text))

    def _shorter_conversation(self, turns: tuple[Message, ...], room: int) -> _Shorter | None:
        """Drop the oldest turns, then the middle of a turn that is left; its instruction stands at one of its ends."""
        left = turns
        for left in fewer_turns(turns):
            shorter = self._shorter(left, (CONVERSATION,))
            if shorter is not None and len(shorter.ids) <= room:
                return shorter
        place = longest_turn(left)
        cut = self._cut(CONVERSATION, left[place].content, "middle")

        def composed(kept: list[str]) -> Source:
            return (*left[:place], replace(left[place], content=kept[0]), *left[place + 1 :])

        kept = shorten([cut], lambda k: self._length(composed(k)) - room, self._length(left) - room)
        return None if kept is None else self._shorter(composed(kept), (CONVERSATION,))

    def _shorter(self, source: Source, names: tuple[str, ...]) -> _Shorter | None:
        ids = self._one(source)
        return None if ids is None else _Shorter(source, ids, names)

    def _cut(self, name: str, text: str, side: Side) -> Cut:
        ends: Iterable[int] = range(len(text))
        if self._tokenizer.is_fast:
            batch = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            index = 0 if side == "start" else 1
            ends = (offset[index] for offset in batch["offset_mapping"])
        return Cut(name, text, side, borders(text, ends))

    def _length(self, source: Source) -> int:
        """Tokens of a prompt; more than there is room for where it can't be made."""
        ids = self._one(source)
        return 2 * self._max_length if ids is None else len(ids)

    def _one(self, source: Source) -> Ids | None:
        try:
            (ids,) = self._tokens([source], [self._framed(source)])
        except ChatRefusedError:
            return None
        return None if isinstance(ids, str) else ids

    # Completions.

    def _continuations(self, texts: Iterable[str]) -> list[Ids | str]:
        """Tokens of completions, without end tokens; kept, since labels come again and again."""
        wanted = list(texts)
        new = list(dict.fromkeys(t for t in wanted if t not in self._cache))
        for text, ids in zip(new, self._text.following([self._before + t for t in new]), strict=True):
            result = self._written_out(text) if self._control.near(text) else ids
            self._cache[text] = result
            self._cached_tokens += len(result)
        return [self._cache[t] for t in wanted]

    def _written_out(self, text: str) -> Ids | str:
        """Tokens of a completion that spells control tokens."""
        return self._text.following_marked(self._before + self._control.hide(text), self._before + text)

    def _turn_ids(self, example: Example, turn: Message, text: str) -> Ids | str:
        """Tokens of an answer that the chat template writes, its control tokens and the row's text told apart."""
        if not may_spell(turn, self._control):
            return self._text.following([text])[0]
        assert self.chat is not None and not isinstance(example.prompt, str)  # noqa: S101, PT018  # it was written so
        prompt = self.chat.prompt(example.prompt)
        try:
            marked = self.chat.answer(example.prompt, prompt, hidden_turn(turn, self._control))
        except ChatRefusedError:
            return "its text spells control tokens that the model's chat template acts on"
        return self._text.following_marked(marked, text)

    def _find_end(self) -> Ids:
        """Tokens up to the first special one after an answer in the chat template, else EOS."""
        eos = self._tokenizer.eos_token_id
        if self.chat is not None:
            special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
            special.update(self._tokenizer.all_special_ids)
            (tail,) = self._text.following([self.chat.after])
            for i, token in enumerate(tail):
                if token in special:
                    return tail[: i + 1]
        if eos is None:
            raise StageError(
                Reason.MODEL_INVALID, "the model's tokenizer has no EOS token, so an answer would never end"
            )
        return (int(eos),)


def _twice(ids: Ids, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a prompt begins with two BOS tokens."""
    bos = tokenizer.bos_token_id
    return bos is not None and ids[:2] == (bos, bos)
