"""How a prompt becomes tokens outside the trainer, so that they are the encoder's: found out, and written as Python.

The encoder takes text of a row as text, also where it spells control tokens. The library's own guards do so too, but
cut a text in pieces at such spellings, which gives other tokens around them. They are enough where no row spells any.
Where rows do, the card's Python does what ``control.py`` does: it tokenises with a copy in which control tokens have
names of private characters.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.control import ControlTokens
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.template.conversation import THOUGHT, Message, as_dicts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Asking", "Way", "asking_of", "plain_call"]

Way = Literal["Plain", "Guarded", "Renamed"]
"""By a plain call; by one with the library's guard against control tokens in a text; by a copy of the tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What of a tokenizer the card's Python has to know.

    Attributes
    ----------
    chat
        Whether prompts go through the chat template.
    way
        How text is kept text.
    bos, behind
        Tokens before a prompt without chat template, and behind one that goes to an encoder.
    tags
        Control tokens that are not marked as special.
    before
        What stands between prompt and answer as text; None where the template's separator does.
    anchors
        What stands before a completion while it is tokenised, and is cut off again.
    """

    chat: bool
    way: Way
    bos: tuple[int, ...]
    behind: tuple[int, ...]
    tags: tuple[str, ...]
    before: str | None
    anchors: tuple[str, ...]

    def imports(self) -> str:
        """Return the import lines that :meth:`code` needs, the standard library's."""
        return "import json\nimport re\n\n" if self.way == "Renamed" else ""

    def _around(self, tokens: str) -> str:
        """Put what stands around a prompt around the expression for its tokens."""
        behind = [str(list(self.behind))] if self.behind else []
        return " + ".join([str(list(self.bos)), tokens, *behind])

    def code(self, *, choices: bool, separator: str) -> str:
        """Return ``ids(prompt)``, and for a row's own choices ``tail(choice)``."""
        which = f"(t.special or t.content in {json.dumps(list(self.tags))})" if self.tags else "t.special"
        parts = [_RENAMED.replace("WHICH", which)] if self.way == "Renamed" else []
        split = ", split_special_tokens=True" if self.way == "Guarded" else ""
        if choices and self.way != "Renamed":
            parts.append(_ENCODED.replace("SPLIT", split))
        if self.way == "Renamed":
            parts.append(
                _RENAMED_CHAT if self.chat else _RENAMED_PLAIN.replace("ENCODED", self._around("encoded(prompt)"))
            )
        elif self.chat:
            parts.append(_CHAT.replace("GUARD", ', "sanitize_control_tokens": True' if self.way == "Guarded" else ""))
        else:
            parts.append(_PLAIN.replace("SPLIT", split))
        if choices:
            tail = _TAIL if self.anchors == ("",) else _ANCHORED.replace("ANCHORS", json.dumps(self.anchors)[1:-1])
            before = separator if self.before is None else self.before
            parts.append(tail.replace("BEFORE + ", f"{json.dumps(before)} + " if before else ""))
        return "\n\n\n".join(part.strip("\n") for part in parts)


def asking_of(
    tokenizer: PreTrainedTokenizerBase,
    scored: Sequence[tuple[Sequence[Message], Sequence[int]]],
    *,
    spelled: bool,
    encoder_decoder: bool = False,
    thinking: bool = False,
) -> Asking:
    """Find out how the encoder's tokens are had without it.

    Parameters
    ----------
    tokenizer
        The base's.
    scored
        Prompts without control tokens, with the tokens that were scored.
    spelled
        Whether some row's text spells control tokens.
    encoder_decoder
        Whether the model has an encoder for prompts.
    thinking
        Whether it is asked to think before it answers.
    """
    encoder = Encoder(tokenizer, max_length=1, encoder_decoder=encoder_decoder, thinking=thinking)
    control = ControlTokens(tokenizer)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    way: Way = "Plain"
    if spelled and control.can_rename:
        way = "Renamed"
    elif _guard_holds(tokenizer, encoder, scored):
        way = "Guarded"
    return Asking(
        chat=encoder.chat is not None,
        way=way,
        bos=encoder.bos,
        behind=encoder.behind,
        tags=tuple(token for token in control.spellings if token not in special),
        before=encoder.chat.before if encoder.chat is not None else "" if encoder_decoder else None,
        anchors=encoder.anchors,
    )


def _guard_holds(
    tokenizer: PreTrainedTokenizerBase, encoder: Encoder, scored: Sequence[tuple[Sequence[Message], Sequence[int]]]
) -> bool:
    """Tell whether the library's guard gives the tokens that were scored."""
    guarded = copy.deepcopy(tokenizer)  # the guard leaves its setting behind
    if encoder.chat is not None:
        guarded.chat_template = encoder.chat.template
    try:
        thinking = encoder.thoughts is not None
        return tokenizer.is_fast and all(
            plain_call(guarded, turns, guard=True, thinking=thinking) == list(ids) for turns, ids in scored
        )
    except (ValueError, NotImplementedError, TypeError):
        return False


def plain_call(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], *, guard: bool = False, thinking: bool = False
) -> list[int]:
    """Ask as anybody would, with the library's guard against control tokens in a text or without."""
    if not tokenizer.chat_template:
        return list(tokenizer(turns[-1].content, split_special_tokens=guard)["input_ids"])
    chat = ChatFormat.find(tokenizer, thinking=thinking) if any(turn.more for turn in turns) else None
    key = chat.thoughts.key if chat is not None and chat.thoughts is not None else ""
    as_text = chat is not None and chat.tools.arguments_as_text
    messages, tools = as_dicts(turns, arguments_as_text=as_text, thought=key or THOUGHT)
    extra: dict[str, Any] = {"tools": tools, **({"sanitize_control_tokens": True} if guard else {})}
    batch: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **extra)
    return list(batch["input_ids"])


_PLAIN = """
def ids(prompt):
    return tokenizer(promptSPLIT)["input_ids"]
"""

_CHAT = """
def ids(prompt):
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    settings = {"add_generation_prompt": True, "return_dict": TrueGUARD}
    return tokenizer.apply_chat_template(messages, **settings)["input_ids"]
"""

_ENCODED = """
def encoded(text):
    return tokenizer(text, add_special_tokens=FalseSPLIT)["input_ids"]
"""

_TAIL = """
def tail(choice):  # as it follows the prompt
    return encoded(BEFORE + choice)
"""

_ANCHORED = """
def tail(choice):  # as it follows the prompt: a text stands for the prompt and is cut off again
    for anchor in (ANCHORS):
        start, whole = encoded(anchor), encoded(anchor + BEFORE + choice)
        if whole[: len(start)] == start:
            break
    return whole[len(start) :]
"""

_RENAMED = """
# Text is text, as in training: what spells a control token is no such token. So a copy of the tokenizer knows these by
# names of private characters only, and the chat template's own are written by those names.
def shifted(text, by):
    return "".join(chr(ord(character) + by) for character in text)


added = tokenizer.added_tokens_decoder.items()
control = [t.content for _, t in added if len(t.content) > 1 and t.content.strip() and WHICH]
names = {token: shifted(token, 0xF0000) for token in control}
spelled = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))))
stored = json.loads(tokenizer.backend_tokenizer.to_str())
stored.update(truncation=None, padding=None, post_processor=None)
for token in stored["added_tokens"]:
    token["content"] = names.get(token["content"], token["content"])
words = stored["model"]
if words.get("unk_token") in names:
    words["unk_token"] = names[words["unk_token"]]
if isinstance(words["vocab"], dict):
    words["vocab"] = {names.get(token, token): number for token, number in words["vocab"].items()}
else:
    words["vocab"] = [[names.get(token, token), score] for token, score in words["vocab"]]
if "merges" in words:
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in words["merges"]]
    words["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
renamed = Tokenizer.from_str(json.dumps(stored))
numbers = {renamed.token_to_id(names.get(t.content, t.content)): number for number, t in added}


def encoded(text):
    return [numbers.get(number, number) for number in renamed.encode(text, add_special_tokens=False).ids]
"""

_RENAMED_PLAIN = """
def ids(prompt):
    return ENCODED
"""

_RENAMED_CHAT = """
def ids(prompt):
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    hidden = [{**m, "content": spelled.sub(lambda found: shifted(found[0], 0x100000), m["content"])} for m in messages]
    text = tokenizer.apply_chat_template(hidden, add_generation_prompt=True, tokenize=False)
    text = spelled.sub(lambda found: names[found[0]], text)
    return encoded(re.sub("[\\U00100000-\\U0010ffff]", lambda found: shifted(found[0], -0x100000), text))
"""
