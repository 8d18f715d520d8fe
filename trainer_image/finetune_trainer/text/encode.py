"""The one encoder: prompt and completion to tokens, the same for training, baseline, validation and test.

Prompt and completion are tokenised apart and joined, so that a prompt has the same tokens with and without its answer,
and every completion ends with the tokens that end an answer. Chat models get their chat template around the prompt;
others get plain text with the separator on the completion's side, where byte-level vocabularies keep the blank.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from finetune_api.digest import digest_of
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.chat import ChatFormat, ChatRefusedError
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.template.conversation import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoded", "Encoder", "Example", "NoRoom", "score_end_tokens", "tokenizer_digest"]

Ids = tuple[int, ...]

_CACHED_TOKENS: Final = 2**18
"""Tokens of completions that are remembered, some 10 MB: any label set, but not a data set of summaries."""


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
        The expected answer, without outer white space.
    choices
        Its possible answers; the prompt leaves room for the longest.
    """

    where: str
    prompt: str | tuple[Message, ...]
    completion: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens; ``completion`` ends with the end ids; together at most ``max_length``."""

    prompt: Ids
    completion: Ids
    truncated: bool


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why a row does not fit; it is a row all the same, so a sealed one still counts."""

    why: str


class Encoder:
    """Encodes rows for one model.

    Parameters
    ----------
    tokenizer
        The model's.
    max_length
        Bound of prompt and completion together, in tokens. A longer prompt loses text from its beginning: the user's
        text, never the chat template's own tokens around it; of a conversation first its oldest turns. A completion is
        never cut.
    separator
        Between prompt and completion without a chat template.

    Attributes
    ----------
    chat
        The chat template's format; None without one.
    end_ids
        Tokens that end every completion; the last is the one at which generation stops.
    pad_id
        For batches; what it is doesn't matter, since lengths say what is padding.

    Raises
    ------
    StageError
        ModelInvalid: the tokenizer has no token that ends an answer, or a chat template that can't be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int, separator: str = " ") -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self.chat = ChatFormat.find(tokenizer)
        self._before = self.chat.before if self.chat else separator
        self._anchor = self._find_anchor()
        self._bos = () if self.chat else self._find_bos()
        self.end_ids = self._find_end()
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_ids[-1])
        self._cache: dict[str, Ids] = {}
        self._cached_tokens = 0
        self._frames: dict[tuple[Message, ...], tuple[Ids, Ids]] = {}

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
        completions = self._continuations([e.completion for e in examples])
        self._continuations([c for e in examples for c in e.choices])
        prompts = self._prompts(examples)
        return [
            self._fit(example, prompt, completion)
            for example, prompt, completion in zip(examples, prompts, completions, strict=True)
        ]

    def choices(self, texts: Sequence[str]) -> ChoiceSet:
        """Encode possible answers as completions, without end tokens.

        Raises
        ------
        ValueError
            Two of them are the same tokens, so that no model could tell them apart.
        """
        ids = self._continuations(texts)
        if len(set(ids)) < len(ids):
            one, other = next((a, b) for a, b in itertools.combinations(range(len(ids)), 2) if ids[a] == ids[b])
            raise ValueError(f"choices {texts[one]!r} and {texts[other]!r} are the same tokens to this model")
        return ChoiceSet(tuple(texts), tuple(ids))

    def _prompts(self, examples: Sequence[Example]) -> list[Ids | str]:
        """Tokens of each whole prompt, or why the chat template refuses it."""
        texts: list[str] = []
        refused: dict[int, str] = {}
        for i, example in enumerate(examples):
            try:
                texts.append(self._prompt_text(example))
            except ChatRefusedError as e:
                refused[i] = f"the model's chat template refuses it: {e}"
                texts.append("")
        return [refused.get(i) or self._whole_prompt(ids) for i, ids in enumerate(self._ids(texts))]

    def _prompt_text(self, example: Example) -> str:
        if isinstance(example.prompt, str):
            return self.chat.prompt([Message("user", example.prompt)]) if self.chat else example.prompt
        if self.chat is None:
            raise StageError(
                Reason.TEMPLATE_INVALID,
                "dataset.template messages needs a model with a chat template, and this one has none; use an instruct "
                "model, or the templates instruction or raw",
            )
        text = self.chat.prompt(example.prompt)
        self.chat.check(example.prompt, text, example.completion)
        return text

    def _whole_prompt(self, ids: Ids) -> Ids:
        ids = ids if ids[: len(self._bos)] == self._bos else self._bos + ids
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:2] == (bos, bos):
            raise StageError(Reason.MODEL_INVALID, "the model's chat template begins with two BOS tokens")
        return ids

    def _fit(self, example: Example, prompt: Ids | str, completion: Ids) -> Encoded | NoRoom | str:
        if isinstance(prompt, str):
            return prompt
        if self.end_ids[-1] in completion:
            return "its completion contains the token that ends an answer"
        ending = completion + self.end_ids
        longest = max([len(completion), *(len(self._cache[c]) for c in example.choices)])
        room = self._max_length - longest - len(self.end_ids)
        if len(prompt) <= room:
            return Encoded(prompt, ending, truncated=False)
        cut = self._cut(example.prompt, prompt, room)
        if cut is None:
            what = "completion" if longest == len(completion) else "longest choice"
            return NoRoom(
                f"its {what} of {longest + len(self.end_ids)} tokens leaves no room for the prompt in "
                f"training.maxLength {self._max_length}"
            )
        return Encoded(cut, ending, truncated=True)

    def _cut(self, source: str | tuple[Message, ...], ids: Ids, room: int) -> Ids | None:
        """Drop tokens from the left of the text, but none of the frame; None if not one token of text would be left."""
        head, tail = self._bos, Ids()
        if self.chat is not None:
            turns = (Message("user", source),) if isinstance(source, str) else source
            system, rest = (turns[:1], turns[1:]) if turns[0].role == "system" else ((), turns)
            while len(ids) > room and len(rest) > 1:
                rest = rest[2:]
                ids = self._ids([self.chat.prompt((*system, *rest))])[0]
            if len(ids) <= room:
                return ids
            head, tail = self._frame(system)
        first = _common(ids, head)
        last = len(ids) - _common(ids[first:][::-1], tail[::-1])
        text = room - first - (len(ids) - last)
        return None if text < 1 else ids[:first] + ids[last - text :]

    def _frame(self, system: tuple[Message, ...]) -> tuple[Ids, Ids]:
        """Tokens that the chat template puts before and after the text of a single user turn."""
        if system not in self._frames:
            assert self.chat is not None  # noqa: S101  # only called with one
            one, other = self._ids([self.chat.prompt((*system, Message("user", probe))) for probe in ("x", "0")])
            head = one[: _common(one, other)]
            tail = one[len(one) - _common(one[len(head) :][::-1], other[len(head) :][::-1]) :]
            self._frames[system] = (head, tail)
        return self._frames[system]

    def _continuations(self, texts: Iterable[str]) -> list[Ids]:
        """Tokens of completions, without end tokens; kept, since labels come again and again."""
        wanted = list(texts)
        new = list(dict.fromkeys(t for t in wanted if t not in self._cache))
        for text, ids in zip(new, self._continued([self._before + t for t in new]), strict=True):
            self._cache[text] = ids
            self._cached_tokens += len(ids)
        return [self._cache[t] for t in wanted]

    def _continued(self, texts: Sequence[str]) -> list[Ids]:
        """Tokens of texts that follow other text."""
        if not self._anchor:
            return self._ids(texts)
        (start,) = self._ids([self._anchor])
        return [ids[len(start) :] for ids in self._ids([self._anchor + t for t in texts])]

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
        return [tuple(ids) for ids in batch["input_ids"]]

    def _find_anchor(self) -> str:
        """Return what must stand before a text so that it is tokenised as a continuation.

        SentencePiece vocabularies put a blank before the first word of every text, so that a completion tokenised alone
        would begin with one too many. A line end before it, cut off again, takes that blank.
        """
        alone, end, both = self._ids(["a", "\n", "\na"])
        return "" if both == end + alone else "\n"

    def _find_bos(self) -> Ids:
        """Tokens that the tokenizer puts before a text by itself; what it puts after one belongs to no prompt."""
        (bare,) = self._ids(["a"])
        full = tuple(self._tokenizer("a", add_special_tokens=True)["input_ids"])
        starts = (i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return full[: next(starts, 0)]

    def _find_end(self) -> Ids:
        """Tokens up to the first special one after an answer in the chat template, else EOS."""
        eos = self._tokenizer.eos_token_id
        if self.chat is not None:
            special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
            special.update(self._tokenizer.all_special_ids)
            (tail,) = self._continued([self.chat.after])
            for i, token in enumerate(tail):
                if token in special:
                    return tail[: i + 1]
        if eos is None:
            raise StageError(
                Reason.MODEL_INVALID, "the model's tokenizer has no EOS token, so an answer would never end"
            )
        return (int(eos),)


def _common(one: Ids, other: Ids) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def score_end_tokens(sets: Iterable[ChoiceSet]) -> bool:
    """Tell whether in some set one choice's tokens begin another's, so that their ends must be scored too."""
    for choices in sets:
        # Sorted, a sequence stands directly before those that it begins.
        ordered = sorted(choices.ids)
        if any(b[: len(a)] == a for a, b in itertools.pairwise(ordered)):
            return True
    return False


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of everything that decides which tokens a text gets, the chat template included."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        # Set by whoever used the tokenizer last; the encoder uses neither.
        pipeline["truncation"] = pipeline["padding"] = None
    else:
        pipeline = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest_of({"pipeline": pipeline, "special": special, "chat": tokenizer.chat_template})
