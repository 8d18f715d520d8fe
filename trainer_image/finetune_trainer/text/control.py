"""Control tokens that a row's text spells stay text: beside the encoder, which asks for this where a row needs it.

A tokenizer turns the characters ``<|im_end|>`` into the token that ends a turn wherever they stand, so a scraped text
could end its own turn. Whether a token comes from the chat template's frame or from a row can't be seen in the tokens
any more. So a row that spells control tokens is rendered with marks in their places; in what comes out, what still
spells a control token is the frame's. The text is then tokenised in one piece, as always, by a copy of the tokenizer in
which control tokens have secret names, and only the frame's are written by those names.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ControlTokens"]

Ids = tuple[int, ...]

_PRIVATE: Final = 0xE000
_PRIVATE_SIZE: Final = 0xF900 - 0xE000
_TAG: Final = re.compile(r"[<\[{⟨【](?=\S*\w)\S+[>\]}⟩】]")
_HTML: Final = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|del|div|em|h[1-6r]|head|html|i|img|li|[ou]l|p|pre|s|span|strong|su[bp]"
    r"|table|t[dhr]|tbody|tfoot|thead|u)/?>",
    re.IGNORECASE,
)


class ControlTokens:
    """The control tokens of one tokenizer.

    Those that are marked special, and others that were added and look like tags (``<think>``, ``[TOOL_CALLS]``). Words,
    runs of blanks and HTML tags that were added to a vocabulary are text. A token of one character, or of white space,
    can't be told from text and is none either.

    Parameters
    ----------
    tokenizer
        The model's.

    Attributes
    ----------
    ids
        Of the control tokens, but for the one that stands for what is not in the vocabulary.
    spellings
        The control tokens as text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        special = set(tokenizer.all_special_tokens)
        added = tokenizer.added_tokens_decoder
        control = {t.content: i for i, t in added.items() if _is_control(t.content, t.special or t.content in special)}
        self.ids = frozenset(control.values()) - {tokenizer.unk_token_id}
        self._control = control
        self.spellings = sorted(control)
        self._numbers = {t: n for n, t in enumerate(self.spellings)}
        self._nonce = "".join(_private(secrets.randbelow(_PRIVATE_SIZE)) for _ in range(8))
        self._pattern = re.compile(_any_of(self.spellings)) if control else None
        self._joined = "\0".join(self.spellings)
        self._edges = (
            frozenset(t[:n] for t in control for n in range(1, len(t))),
            frozenset(t[n:] for t in control for n in range(1, len(t))),
        )
        self._longest = max(map(len, control), default=0)
        self._normalized = self._find_normalized(t.content for t in added.values() if t.normalized)

    @property
    def can_rename(self) -> bool:
        """Whether there is a copy of the tokenizer in which they have other names."""
        return self._renamed is not None

    def spelled(self, text: str) -> bool:
        """Tell whether a text spells a control token."""
        if self._pattern is None:
            return False
        if self._pattern.search(text) is not None:
            return True
        return self._normalized is not None and bool(self._normalized.search(self._normalize(text)))

    def near(self, text: str) -> bool:
        """Tell whether a text spells a control token, or may do so together with what the frame puts around it."""
        if self.spelled(text):
            return True
        if len(text) < self._longest and text in self._joined:
            return bool(text)
        starts, ends = self._edges
        lengths = range(1, min(self._longest, len(text) + 1))
        return any(text[-n:] in starts or text[:n] in ends for n in lengths)

    def hide(self, text: str) -> str:
        """Put marks in the places of control tokens, and of the first and last visible character."""
        visible = text.strip()
        start = text.index(visible)
        edges = sorted({start, start + len(visible) - 1}) if visible else []
        pieces: list[str] = []
        place = 0
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            pieces += self._edged(text, place, match.start(), edges)
            pieces.append(self._mark(0, self._numbers[match[0]]))
            place = match.end()
        return "".join([*pieces, *self._edged(text, place, len(text), edges)])

    def _edged(self, text: str, start: int, end: int, edges: Iterable[int]) -> list[str]:
        pieces: list[str] = []
        for edge in edges:
            if start <= edge < end:
                pieces += [text[start:edge], self._mark(1, ord(text[edge]))]
                start = edge + 1
        return [*pieces, text[start:end]]

    def encode(self, marked: str, plain: str) -> Ids | str:
        """Tokenise a text in which everything that spells a control token is one, but for what is hidden.

        Parameters
        ----------
        marked
            The text, rows' parts of it hidden.
        plain
            The same text with nothing hidden; it must come out again, or else whoever rendered it has acted on what
            rows spell.

        Returns
        -------
        tuple of int or str
            Token ids; else why it can't be done.
        """
        if self._renamed is None:
            return "its text spells control tokens of the model, and this kind of tokenizer can't encode them as text"
        if self._unmarked(marked, names=False) != plain:
            return "its text spells control tokens that the model's chat template acts on"
        copy, change = self._renamed
        ids = copy.encode(self._unmarked(marked, names=True), add_special_tokens=False).ids
        result = tuple(change.get(i, i) for i in ids)
        frame = [self._control[t] for t in self._frame(marked)]
        if [i for i in result if i in self.ids] != [i for i in frame if i in self.ids]:
            return "its text spells control tokens of the model that its vocabulary can't write in another way"
        return result

    def _frame(self, marked: str) -> list[str]:
        assert self._pattern is not None  # noqa: S101  # nothing is hidden where there are no control tokens
        return self._pattern.findall(marked)

    def _unmarked(self, marked: str, *, names: bool) -> str:
        """Write out what was hidden; the frame's control tokens by their secret names if asked for."""

        def written(match: re.Match[str]) -> str:
            if match["frame"] is not None:
                return self._name(self._numbers[match["frame"]]) if names else match["frame"]
            number = _number(match["number"])
            return chr(number) if match["kind"] == _private(1) else self.spellings[number]

        return self._marks.sub(written, marked)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        anything = f"[{_private(0)}-{_private(_PRIVATE_SIZE - 1)}]"
        mark = f"{self._nonce}(?P<kind>{_private(0)}|{_private(1)})(?P<number>{anything}{anything})"
        return re.compile(f"{mark}|(?P<frame>{_any_of(self.spellings)})")

    def _mark(self, kind: int, number: int) -> str:
        return self._nonce + _private(kind) + _private(number // _PRIVATE_SIZE) + _private(number % _PRIVATE_SIZE)

    def _name(self, number: int) -> str:
        """The name of a control token in the copy: letters that no normaliser changes and nobody can guess."""
        return self._mark(2, number)

    def _find_normalized(self, contents: Iterable[str]) -> re.Pattern[str] | None:
        """What the tokens are looked for in normalised text by."""
        wanted = [t for t in contents if t in self._control]
        if not wanted or self._backend is None or self._backend.normalizer is None:
            return None
        return re.compile(_any_of(sorted({self._normalize(t) for t in wanted} - {""})))

    def _normalize(self, text: str) -> str:
        return str(self._backend.normalizer.normalize_str(text))

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[int, int]] | None:
        """The copy, and which of its ids stand for others; None if there can be none that does the same."""
        if self._backend is None or not self.spellings:
            return None
        names = {t: self._name(n) for n, t in enumerate(self.spellings)}
        copy = Tokenizer.from_str(json.dumps(_renamed(json.loads(self._backend.to_str()), names)))
        added = {i: t.content for i, t in self._tokenizer.added_tokens_decoder.items()}
        change: dict[int, int] = {}
        for i, content in added.items():
            new = copy.token_to_id(names.get(content, content))
            if new is None:
                return None
            change[new] = i
        probes = [f"a {t} b" for t in added.values()]
        for probe in probes:
            expected = self._backend.encode(probe, add_special_tokens=False).ids
            ids = copy.encode(self._unmarked(probe, names=True), add_special_tokens=False).ids
            if [change.get(i, i) for i in ids] != expected:
                return None
        return copy, change


def _is_control(content: str, special: bool) -> bool:
    if len(content) < 2 or not content.strip():
        return False
    if special:
        return True
    return _TAG.fullmatch(content) is not None and _HTML.fullmatch(content) is None


def _renamed(pipeline: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """A stored tokenizer with other names for some of its tokens, so that nothing else can be read as them."""
    pipeline["truncation"] = pipeline["padding"] = pipeline["post_processor"] = None
    for token in pipeline["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = pipeline["model"]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(t, t): i for t, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(t, t), score] for t, score in vocabulary]
    if "merges" in model:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if not names.keys() & {a, b, a + b}]
    return pipeline


def _any_of(texts: Iterable[str]) -> str:
    """A pattern for the longest of some texts; grouped by beginnings, since a vocabulary may have thousands."""
    followers: dict[str, list[str]] = {}
    whole = False
    for text in texts:
        if text:
            followers.setdefault(text[0], []).append(text[1:])
        else:
            whole = True
    if not followers:
        return ""
    branches = [re.escape(c) + _any_of(rest) for c, rest in followers.items()]
    return branches[0] if len(branches) == 1 and not whole else f"(?:{'|'.join(branches)}){'?' if whole else ''}"


def _private(number: int) -> str:
    return chr(_PRIVATE + number)


def _number(code: str) -> int:
    return (ord(code[0]) - _PRIVATE) * _PRIVATE_SIZE + ord(code[1]) - _PRIVATE
