"""Models that think before they answer are scored on the answer alone, and one that never ends its thought has none."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from finetune_trainer.evaluation.answers import Answers, Said
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.thoughts import ThoughtReader
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.text.thought_format import Thoughts
from tests.support.chat_templates import that_thinks
from tests.support.score_kit import END, hand_over, plain_greedy, texts_of
from tests.support.tiny_model import make_model
from tests.support.tokenizer_families import FRAME

CPU = torch.device("cpu")
TAGS = Thoughts("<think>", "</think>")
OPENED = Thoughts("", "</think>")
LIMIT = 24


@pytest.mark.parametrize("family", ["byte-level", "unigram"])
@pytest.mark.parametrize(
    ("thoughts", "text", "thought", "answer"),
    [
        (TAGS, "<think>\nit rains\n</think>\n\nstay in", "it rains", "stay in"),
        (TAGS, "stay in", "", "stay in"),
        (TAGS, "<think>\nit rains", "it rains", None),
        (TAGS, "so </think> stay in", "", "so  stay in"),
        (TAGS, "<think></think>", "", ""),
        (TAGS, "<think>a</think>b</think>c", "a", "bc"),
        (OPENED, "it rains\n</think>\n\nstay in", "it rains", "stay in"),
        (OPENED, "stay in", "stay in", None),
        (Thoughts("[THINK]", "[/THINK][SAY]"), "[THINK]it rains[/THINK][SAY]stay in", "it rains", "stay in"),
        (Thoughts("[THINK]", "[/THINK][SAY]"), "[THINK]it rains[/THINK]stay in", "it rainsstay in", None),
    ],
)
def test_the_answer_is_what_follows_the_thought(
    family: str, thoughts: Thoughts, text: str, thought: str, answer: str | None
) -> None:
    tokenizer = that_thinks(FRAME, family)
    parted = ThoughtReader(tokenizer, thoughts).parted(tokenizer.encode(text, add_special_tokens=False))
    shown = parted.answer and parted.answer.strip().replace("</think>", "")
    assert (parted.thought, shown) == (thought, answer)


def test_marks_that_are_no_tokens_are_found_as_text() -> None:
    tokenizer = that_thinks(FRAME)
    reader = ThoughtReader(tokenizer, Thoughts("<reason>", "</reason>"))
    ids = tokenizer.encode("<reason>it rains</reason>4", add_special_tokens=False)
    assert reader.mark == ()
    assert (reader.parted(ids).thought, reader.parted(ids).answer) == ("it rains", "4")
    assert [reader.may_begin(tokenizer.encode(t, add_special_tokens=False)) for t in ("\n<rea", "<rat", "x")] == [
        True,
        False,
        False,
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, seed=7)
    return load_model(folder, device=CPU, precision="Float32")


def marks_of(loaded: LoadedModel, prompts: Sequence[list[int]]) -> Thoughts:
    """Marks out of what the model writes: it begins a thought after some prompts, and ends some of these."""
    said = [plain_greedy(loaded, prompt, LIMIT) for prompt in prompts]
    texts = [str(loaded.tokenizer.decode(ids)) for ids in said]
    begins = max({t[:1] for t in texts}, key=[t[:1] for t in texts].count)
    inner = "".join(t[2:] for t in texts if t.startswith(begins))
    ends = max(set(inner) - {begins, " ", "\n"}, key=lambda c: sum(c in t for t in texts))
    return Thoughts(begins, ends)


def by_definition(loaded: LoadedModel, prompt: list[int], thoughts: Thoughts) -> tuple[str, bool]:
    """The answer of plain ``generate``, cut as a reader would, and whether the thought has no end."""
    ids = [i for i in plain_greedy(loaded, prompt, LIMIT) if i != END]
    text = str(loaded.tokenizer.decode(ids, skip_special_tokens=True))
    if not text.lstrip().startswith(thoughts.opening):
        return text.strip(), False
    _, closed, rest = (
        text.partition(thoughts.closing)
        if not thoughts.opening
        else (text.lstrip().removeprefix(thoughts.opening).partition(thoughts.closing))
    )
    return rest.strip(), not closed


def scored(loaded: LoadedModel, rows: Any, thoughts: Thoughts | None, *, generate: bool, stop: Any = ()) -> Evaluation:
    part, prepared = with_thoughts(rows, thoughts, stop)
    return evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=generate)


def with_thoughts(rows: Any, thoughts: Thoughts | None, stop: Any = ()) -> tuple[EncodedPart, Prepared]:
    part, prepared = hand_over(rows, max_new_tokens=LIMIT)
    return part, dataclasses.replace(prepared, thoughts=thoughts, stop=tuple(stop))


@pytest.mark.parametrize("opened", [True, False], ids=["prompt opens", "model opens"])
@pytest.mark.parametrize("stop", [(), ("e",)], ids=["no stop text", "a stop text"])
def test_exact_match_is_what_generate_answers_whatever_the_reference_thinks(
    loaded: LoadedModel, opened: bool, stop: tuple[str, ...]
) -> None:
    prompts = [[50 + i, 60, 70 + 2 * i, 80 - i, 90] for i in range(20)]
    marks = marks_of(loaded, prompts)
    thoughts = Thoughts("", marks.closing) if opened else marks
    found = [by_definition(loaded, prompt, thoughts) for prompt in prompts]
    assert {unclosed for _, unclosed in found} == {True, False}
    cut = [answer.split(stop[0])[0].strip() if stop else answer for answer, _ in found]
    rows = []
    for i, (prompt, answer) in enumerate(zip(prompts, cut, strict=True)):
        wanted = answer if i % 2 and answer else "other"
        text = f"{thoughts.opening}what the row thinks{thoughts.closing}{wanted}"
        rows.append((prompt, [*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], END], -1))
    reads = Answers(loaded.tokenizer, with_thoughts(rows, thoughts, stop)[1], loaded.eos_ids, whole=True)
    right = [
        not unclosed and answer == reads.reference(row[1])
        for row, answer, (_, unclosed) in zip(rows, cut, found, strict=True)
    ]
    for generate in (True, False):
        result = scored(loaded, rows, thoughts, generate=generate, stop=stop)
        assert [row.exact_match for row in result.rows] == right
        if generate:
            assert [(row.generated, row.unclosed) for row in result.rows] == [
                ("" if unclosed else answer, unclosed) for answer, (_, unclosed) in zip(cut, found, strict=True)
            ]
            assert result.unclosed == sum(unclosed for _, unclosed in found)


def test_a_thought_without_an_end_is_wrong_and_told(loaded: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    prompt = [50, 60, 70, 80, 90]
    said = [i for i in plain_greedy(loaded, prompt, LIMIT) if i != END]
    rows = [(prompt, [*said[:4], END], -1)]
    result = scored(loaded, rows, Thoughts("", "no such mark"), generate=True)
    (row,) = result.rows
    assert (row.exact_match, row.correct, row.generated, row.unclosed) == (False, False, "", True)
    assert row.thought
    assert "1 of 1 answers don't come to the end of their thought within 24 tokens" in caplog.text
    assert "evaluation.maxNewTokens" in caplog.text
    again = Evaluation.from_wire(result.to_wire())
    assert list(again.rows) == list(result.rows)


def test_tokens_of_thoughts_are_no_metric_beside_answers(loaded: LoadedModel) -> None:
    rows = [([50 + i, 60, 70], [61, 62, END], -1) for i in range(4)]
    names = [
        {score.name for score in scored(loaded, rows, thoughts, generate=True).secondary}
        for thoughts in (None, Thoughts("<x>", "</x>"))
    ]
    assert "ExactMatchTokens" in names[0]
    assert names[1] == names[0] - {"ExactMatchTokens"}


def test_nothing_in_a_thought_ends_an_answer_early(loaded: LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    _, prepared = with_thoughts([([5], [6, END], -1)], Thoughts("<a>", "</a>"), ("\n",))
    for whole in (True, False):
        answers = Answers(tokenizer, prepared, frozenset({END}), whole=whole)

        def done(text: str, answers: Answers = answers) -> bool:
            return answers.finished(tokenizer(text, add_special_tokens=False)["input_ids"], "yes")

        assert not done("<a>one\ntwo\n")
        assert not done("<")
        assert not done("<a>one\n</a>\n\nye")
        assert done("<a>one</a>yes\n")
        assert done("<a>one</a>no") == (not whole)
    ids = tokenizer("<a>one</a>yes\nmore", add_special_tokens=False)["input_ids"]
    assert answers.said([*ids, END]) == Said("yes", "one", False)
