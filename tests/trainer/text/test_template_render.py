"""Rendering in the child process: what comes out, and that no template can harm the parent."""

from __future__ import annotations

import gc
import resource
import time
from typing import Any, get_args

import pytest

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_api.templates import TemplateName
from finetune_trainer.errors import StageError
from finetune_trainer.text.template import render as render_module
from finetune_trainer.text.template import worker
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.render import Limits, Rendered, Renderer, Unrendered, Uses
from finetune_trainer.text.template.survey import AnswerSurvey
from tests.support.docs import ROOT


def render(prompt: str, completion: str = "c", *rows: dict[str, Any], limits: Limits | None = None) -> list[Any]:
    with Renderer(prompt, completion, limits=limits) as renderer:
        return list(renderer.render((f"line {i}", row) for i, row in enumerate(rows, start=1)))


def refused(prompt: str, completion: str = "c", *rows: dict[str, Any], limits: Limits | None = None) -> str:
    with pytest.raises(StageError) as caught:
        render(prompt, completion, *rows, limits=limits)
    assert caught.value.reason is Reason.TEMPLATE_INVALID
    return caught.value.message


LABELS = {"choices": ["billing", "bug"]}
GOLDEN: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    (
        "sentiment",
        {"text": "It was great.", "label": "positive"},
        {"choices": ["negative", "positive"]},
        "What is the sentiment of the following text?\nAnswer with one of: negative, positive.\n\n"
        "Text: It was great.\nSentiment:",
        "positive",
    ),
    (
        "topic",
        {"text": "They won 2:1.", "label": "sports"},
        {"choices": ["sports", "world"]},
        "What is the topic of the following text?\nAnswer with one of: sports, world.\n\nText: They won 2:1.\nTopic:",
        "sports",
    ),
    (
        "intent",
        {"text": "I was charged twice.", "label": "billing"},
        LABELS,
        "What does the writer of this message want?\nAnswer with one of: billing, bug.\n\n"
        "Message: I was charged twice.\nIntent:",
        "billing",
    ),
    (
        "intent",
        {"text": "I was charged twice.", "label": "billing"},
        {"choices": []},
        "What does the writer of this message want?\n\nMessage: I was charged twice.\nIntent:",
        "billing",
    ),
    (
        "nli",
        {"premise": "A man walks.", "hypothesis": "He moves.", "label": "entailment"},
        {"choices": ["entailment", "neutral"]},
        "How does the hypothesis relate to the premise?\nAnswer with one of: entailment, neutral.\n\n"
        "Premise: A man walks.\nHypothesis: He moves.\nRelation:",
        "entailment",
    ),
    (
        "qa",
        {"context": "The tower is in the town.", "question": "Where is it?", "answer": "in the town"},
        {},
        "Answer the question from the context, in as few words as possible.\n\n"
        "Context: The tower is in the town.\nQuestion: Where is it?\nAnswer:",
        "in the town",
    ),
    (
        "summarization",
        {"text": "A long text.\nWith lines.", "summary": "Short."},
        {},
        "Summarize the following text.\n\nText: A long text.\nWith lines.\nSummary:",
        "Short.",
    ),
    ("instruction", {"instruction": "Say hi.", "output": "Hi."}, {}, "Say hi.", "Hi."),
    (
        "instruction",
        {"instruction": "Add.", "input": "1 2\n3", "output": "6"},
        {},
        "Add.\n\n1 2\n3",
        "6",
    ),
    (
        "multiple-choice",
        {"question": "Which is a color?", "choices": ["stone", "red"], "answer": "B"},
        {},
        "Answer the question with one of the choices.\n\n"
        "Question: Which is a color?\nChoices:\n- stone\n- red\nAnswer:",
        "red",
    ),
    ("raw", {"prompt": " A {{ b }}\n\n", "completion": "    C\n"}, {}, " A {{ b }}\n\n", "    C\n"),
]


@pytest.mark.parametrize(("name", "row", "more", "prompt", "completion"), GOLDEN)
def test_a_library_template_renders_as_written_down_here(
    name: str, row: dict[str, Any], more: dict[str, Any], prompt: str, completion: str
) -> None:
    template = resolve_template(Template.model_validate({"name": name}))
    survey = AnswerSurvey(template)
    survey.add("line 1", row)
    fields = project(template, row, survey.judge()[0])
    context = {**more, **fields.inputs, str(template.answer): fields.answer}
    with Renderer.of(template) as renderer:
        (result,) = renderer.render([("line 1", context)])
    assert (result.prompt, result.completion) == (prompt, completion)


def test_every_jinja_template_of_the_library_has_a_golden_rendering() -> None:
    """Here, or on the page, which another test holds against the library."""
    on_the_page = (ROOT / "docs/templates.md").read_text(encoding="utf-8").split("\n## ")[1:]
    shown = {section.partition("\n")[0] for section in on_the_page if "\nbecomes\n" in section}
    assert shown | {g[0] for g in GOLDEN} == set(get_args(TemplateName)) - {"messages"}


def test_choices_with_commas_are_listed_with_semicolons() -> None:
    row = {"choices": ["yes", "no, never"]}
    assert render("{{ choices | listed }}", "c", row) == [Rendered("yes; no, never", "c")]


def test_outer_white_space_goes_and_inner_stays() -> None:
    assert render("\n {{ t }}\n ", " {{ t }}", {"t": "a  b\n\nc "}) == [Rendered("a  b\n\nc", "a  b\n\nc")]


@pytest.mark.parametrize(
    ("prompt", "completion", "separator"),
    [
        ("Q: {{ q }}\nA:\n", "{{ a }}", " "),
        ("Q: {{ q }}\nA: ", "{{ a }}", ""),
        ("Q: {{ q }}\nA:\n\n", "{{ a }}", ""),
        ("Q: {{ q }}\nA:", " {{ a }}", ""),
    ],
)
def test_an_inline_template_is_rendered_as_it_stands_and_its_own_blank_takes_the_place_of_ours(
    prompt: str, completion: str, separator: str
) -> None:
    template = resolve_template(Template.model_validate({"inline": {"prompt": prompt, "completion": completion}}))
    assert template.separator == separator
    with Renderer.of(template) as renderer:
        (result,) = renderer.render([("line 1", {"q": " x ", "a": "  y\n"})])
    assert isinstance(result, Rendered)
    assert result.prompt == prompt.removesuffix("\n").replace("{{ q }}", " x ")
    assert result.completion == completion.replace("{{ a }}", "  y\n")


def test_choices_of_an_inline_template_follow_a_blank_even_if_the_template_has_one() -> None:
    inline = {"inline": {"prompt": "Q: {{ q }}", "completion": " {{ a }}"}, "choices": ["yes", "no"]}
    assert resolve_template(Template.model_validate(inline)).separator == " "


@pytest.mark.parametrize(("prompt", "completion", "part"), [("{{ t }}", "c", "prompt"), ("p", "{{ t }}", "completion")])
def test_an_empty_prompt_or_completion_is_a_bad_row(prompt: str, completion: str, part: str) -> None:
    assert render(prompt, completion, {"t": " \n"}) == [Unrendered(f"its {part} is empty")]


def test_results_come_in_the_order_of_the_rows_over_many_batches() -> None:
    rows = [{"t": i, "pad": "x" * (9000 if i % 50 == 0 else 1)} for i in range(1500)]
    assert [r.prompt for r in render("{{ t }}{{ pad[:0] }}", "c", *rows)] == [str(i) for i in range(1500)]


def test_a_text_of_megabytes_is_rendered_whole() -> None:
    text = "ü" * 3_000_000
    (result,) = render("{{ t }}", "c", {"t": text})
    assert result.prompt == text


def test_what_a_template_reads_is_known() -> None:
    prompt = (
        "{{ a }}{% for x in b %}{{ x.c }}{{ loop.index }}{% endfor %}{% set d = e %}{{ d }}{{ row.f }}{{ row['g h'] }}"
    )
    with Renderer(prompt, "{{ row | length }}") as renderer:
        assert renderer.prompt_uses == Uses(frozenset({"a", "b", "e", "f", "g h", "row"}), whole_row=False)
        assert renderer.completion_uses == Uses(frozenset({"row"}), whole_row=True)


@pytest.mark.parametrize(
    "use",
    [
        "{% for k, v in row.items() %}{{ k }}={{ v }} {% endfor %}",
        "{{ row.values() | join }} {{ row.a }}",
        "{{ row.get('a') }}",
    ],
)
def test_methods_of_the_row_are_no_columns_and_read_it_whole(use: str) -> None:
    with Renderer(use, "c") as renderer:
        assert renderer.prompt_uses == Uses(renderer.prompt_uses.names - {"items", "values", "get"}, whole_row=True)
        (result,) = renderer.render([("row", {"row": {"a": "x"}, "a": "x"})])
        assert isinstance(result, Rendered)
        assert "x" in result.prompt


def test_a_method_is_never_printed() -> None:
    (result,) = render("{{ row.items }}", "c", {"row": {"items": "x"}, "items": "x"})
    assert isinstance(result, Unrendered)
    assert "a method would be printed; a column of that name is row['items']" in result.why
    (result,) = render("{{ row['items'] }}", "c", {"row": {"items": "x"}, "items": "x"})
    assert result == Rendered("x", "c")


@pytest.mark.parametrize("use", ["{{ row[name] }}", "{% set r = row %}{{ r.x }}", "{{ row.a }}{{ row | tojson }}"])
def test_a_row_that_is_read_in_an_unknown_way_counts_as_read_whole(use: str) -> None:
    with Renderer(use, "c") as renderer:
        assert renderer.prompt_uses.whole_row


@pytest.mark.parametrize(
    ("row", "result"),
    [
        ({}, Unrendered("column 't' is missing", unknown="t")),
        ({"t": None}, Unrendered("the template can't render it: a null would be printed")),
        ({"t": {"x": 1}}, Unrendered("the template can't render it: 'dict object' has no attribute 'y'")),
        ({"t": 0}, Unrendered("the template can't render it: ZeroDivisionError: division by zero")),
        ({"t": 4}, Rendered("0.25", "c")),
    ],
)
def test_a_row_that_does_not_suit_the_template_is_told_with_its_reason(row: dict[str, Any], result: object) -> None:
    prompt = "{% if t is mapping %}{{ t.y }}{% elif t is number %}{{ 1 / t }}{% else %}{{ t }}{% endif %}"
    assert render(prompt, "c", row, {"t": 1}) == [result, Rendered("1.0", "c")]


def test_a_null_may_be_tested() -> None:
    assert render("a{% if t %}b{% endif %}", "c", {"t": None}) == [Rendered("a", "c")]


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ("a\n{{ b }", "c", "dataset.template: prompt, line 2: unexpected '}'"),
        ("a", "b\n\n{% if x %}", "dataset.template: completion, line 3: Unexpected end of template"),
        ("a\n{% include 'b' %}", "c", "dataset.template: prompt, line 2: a template can't use other files"),
        ("{% import 'b' as b %}", "c", "prompt, line 1: a template can't use other files"),
        ("{{ t | nofilter }}", "c", "prompt, line 1: No filter named 'nofilter'"),
        ("{{ t | random }}", "c", "prompt, line 1: No filter named 'random'"),
    ],
)
def test_a_template_that_can_not_be_read_is_refused_with_its_line(prompt: str, completion: str, message: str) -> None:
    assert message in refused(prompt, completion)


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ t.append(1) }}",
        "{{ '{0.__class__}'.format(t) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ (t | attr('__class__')).mro() }}",
    ],
)
def test_a_template_can_not_reach_python(prompt: str) -> None:
    assert "the template does what it may not" in refused(prompt, "c", {"t": ["a"]})


def test_a_template_sees_nothing_random() -> None:
    assert render("{{ lipsum() }}", "c", {}) == [Unrendered("column 'lipsum' is missing", unknown="lipsum")]


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("prompt", "doing"), [(ENDLESS, "rendering line 1"), ("{{ 9 ** (9 ** 9) ** 2 }}", "compiling its text")]
)
def test_a_template_that_runs_for_ever_is_stopped(prompt: str, doing: str) -> None:
    start = time.monotonic()
    message = refused(prompt, "c", {}, limits=Limits(cpu_seconds=1))
    assert f"{doing} takes more than 1 s of CPU time" in message
    assert time.monotonic() - start < 60


def test_the_row_at_which_a_template_ran_for_ever_is_named() -> None:
    prompt = "{{ t }}{% if t == 300 %}" + ENDLESS + "{% endif %}"
    rows = [{"t": i} for i in range(1, 400)]
    assert "rendering line 300 takes more than 1 s" in refused(prompt, "c", *rows, limits=Limits(cpu_seconds=1))


def test_the_cpu_limit_is_for_one_row_not_for_all() -> None:
    # Each row takes some hundredths of a second, all together more than the limit.
    prompt = "{% for i in range(90000) %}{% set x = i * i ~ t %}{% endfor %}{{ t }}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    rows = [{"t": i} for i in range(50)]
    assert len(render(prompt, "c", *rows, limits=Limits(cpu_seconds=1))) == 50
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 1.5


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ t * 10000000000 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ range(99999) | map('string') | list * 100000 }}",
        "{% set n = namespace(x=t) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x[:3] }}",
        "{{ '%1000000000s' | format(t) }}",
    ],
)
def test_a_template_that_takes_gigabytes_is_refused_and_the_parent_does_not_grow(prompt: str) -> None:
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(prompt, "c", {"t": "ab"}, limits=Limits(cpu_seconds=20))
    assert "takes more than 512 MiB of memory" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_template_that_gives_megabytes_for_every_row_is_a_bad_row() -> None:
    prompt = "{% for i in range(99999) %}{{ t * 100 }}{% endfor %}"
    (result,) = render(prompt, "c", {"t": "ab"})
    assert result == Unrendered(
        f"the template can't render it: ValueError: it renders to more than {worker.MAX_RENDERED} characters"
    )


def test_endless_recursion_is_a_bad_row() -> None:
    (result,) = render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "c", {})
    assert "RecursionError" in result.why


def test_deep_nesting_is_refused() -> None:
    message = refused("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}")
    assert "nested" in message or "memory" in message


def test_an_answer_longer_than_can_be_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_module, "_MAX_REPLY", 1000)
    monkeypatch.setattr(render_module, "_EXIT_SECONDS", 0.2)
    assert "gives more than can be read" in refused("{{ t }}", "c", {"t": "x" * 5000})


def test_no_process_is_left_behind() -> None:
    renderer = Renderer("{{ t }}", "c")
    with renderer:
        results = renderer.render([("line 1", {"t": 1}), ("line 2", {"t": 2})])
        assert next(results) == Rendered("1", "c")
    assert renderer._child.poll() is not None
