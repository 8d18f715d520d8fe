"""Two results held against each other: what differs is named, and nothing else is."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune_trainer.output.comparison import compare
from finetune_trainer.output.finding import Finding
from tests.support.result_pair import by_subject, changed_copy, edit_manifest, result_at, rewrite
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows

Change = Callable[[Path], object]


def nothing(_: Path) -> None:
    """Change nothing."""


@pytest.fixture(scope="module")
def output(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a small job."""
    folder = tmp_path_factory.mktemp("compared")
    rows = write_rows(folder / "rows.jsonl", topic_rows(80))
    spec = job_spec(model=f"file://{tiny}/model/", rows=f"file://{rows}", output=f"file://{folder}/out/", epochs=1)
    report, _ = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return folder / "out"


@pytest.fixture
def found(output: Path, tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Compare two copies of the result, each with a change."""

    def look(then: Change = nothing, now: Change = nothing, *, name: str = "a") -> dict[str, Finding]:
        original = changed_copy(output, tmp_path / name / "original", then)
        again = changed_copy(output, tmp_path / name / "again", now)
        scratch = tmp_path / name / "scratch"
        scratch.mkdir()
        return by_subject(compare(result_at(original), result_at(again), scratch))

    return look


def differing(found: dict[str, Finding]) -> list[str]:
    return [subject for subject, finding in found.items() if finding.state == "Different"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def set_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    rewrite(folder, "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def arrays(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the arrays of the rows, as another preparation would."""

    def write(folder: Path) -> None:
        path = folder / "prepared/rows.safetensors"
        values = {name: value.copy() for name, value in load_file(path).items()}
        change(values)
        save_file(values, path)
        rewrite(folder, "prepared/rows.safetensors", path.read_bytes())
        edit_manifest(folder, lambda document: document.update(fingerprint="sha256:" + "0" * 64))

    return write


def test_a_result_is_the_same_as_itself_in_all_subjects(found: Callable[..., dict[str, Finding]]) -> None:
    every = found()
    assert {finding.state for finding in every.values()} == {"Same"}
    assert list(every) == [
        *("spec", "files", "model.uri", "dataset.uri", "template", "tokenizer", "settings"),
        *("split", "tokens", "rows", "prepared rows"),
        *("baseline", "losses", "validation", "samples", "test", "results", "weights"),
    ]
    assert every["losses"].text.endswith("equal to the bit")


def test_the_last_bit_of_one_loss_is_told_with_its_step_and_size(found: Callable[..., dict[str, Finding]]) -> None:
    sizes = []

    def other_bit(folder: Path) -> None:
        lines = metrics(folder)
        loss = lines[1]["train_loss"]
        lines[1]["train_loss"] = math.nextafter(loss, math.inf)
        sizes.append(lines[1]["train_loss"] - loss)
        set_metrics(folder, lines)

    every = found(now=other_bit)
    assert differing(every) == ["losses"]
    losses = every["losses"]
    assert "first at optimizer step 2" in losses.text
    assert (losses.largest, losses.arithmetic) == (sizes[0], True)


def test_losses_of_a_version_that_rounded_them_are_compared_as_far_as_they_go(
    found: Callable[..., dict[str, Finding]],
) -> None:
    def rounded(folder: Path) -> None:
        set_metrics(
            folder, [{k: round(v, 6) if k == "train_loss" else v for k, v in m.items()} for m in metrics(folder)]
        )

    every = found(then=rounded)
    assert differing(every) == []
    assert "to 6 digits, of which that version kept no more" in every["losses"].text


def test_a_training_that_went_on_longer_is_told(found: Callable[..., dict[str, Finding]]) -> None:
    def longer(folder: Path) -> None:
        lines = metrics(folder)
        last = max(line["step"] for line in lines)
        set_metrics(folder, [*lines, {"step": last + 1, "train_loss": 0.123456789}])

    every = found(now=longer)
    assert differing(every) == ["losses"]


def test_a_row_that_is_answered_otherwise_is_named_with_the_model(found: Callable[..., dict[str, Finding]]) -> None:
    row = []

    def answer(folder: Path) -> None:
        lines = (folder / "predictions.jsonl").read_text().splitlines()
        line = json.loads(lines[2])
        row.append(line["row"])
        lines[2] = json.dumps(line | {"tuned": "otherwise"})
        rewrite(folder, "predictions.jsonl", "\n".join(lines).encode())

    every = found(now=answer)
    assert differing(every) == ["test"]
    assert f"1 of 24 rows answered otherwise, row {row[0]}" in every["test"].text
    assert every["baseline"].state == "Same"


def test_a_score_that_differs_is_told_with_both(found: Callable[..., dict[str, Finding]]) -> None:
    def score(document: dict[str, Any]) -> None:
        document["report"]["results"]["baseline"]["score"] = "0.9999"

    every = found(then=lambda folder: edit_manifest(folder, score))
    assert differing(every) == ["baseline"]
    assert '"0.9999"' in every["baseline"].text


def test_other_weights_are_told_by_their_file(found: Callable[..., dict[str, Finding]]) -> None:
    every = found(now=lambda folder: rewrite(folder, "model/model.safetensors", b"other"))
    assert differing(every) == ["weights"]
    assert "model/model.safetensors" in every["weights"].text


def test_a_row_that_went_to_another_part_is_named(found: Callable[..., dict[str, Finding]]) -> None:
    rows = []

    def swap(values: dict[str, Any]) -> None:
        train, test = values["train.rows"], values["test.rows"]
        rows.extend([int(train[0]), int(test[0])])
        train[0], test[0] = test[0], train[0]

    every = found(now=arrays(swap))
    assert differing(every) == ["split", "prepared rows"]
    assert every["split"].text == f"part train: row {rows[0]} is no longer in it and row {rows[1]} is new in it"
    assert not every["split"].arithmetic


def first_of_train_leaves(values: dict[str, Any]) -> None:
    """Another row comes in at the end, so that every other one stands at another place."""
    length = int(values["train.offsets"][1])
    for name in ("train.rows", "train.prompt_lengths", "train.choice_set", "train.answer", "train.unanswerable"):
        values[name] = np.roll(values[name], -1)
    values["train.rows"][-1] = 999
    values["train.tokens"] = np.roll(values["train.tokens"], -length)
    lengths = np.roll(np.diff(values["train.offsets"]), -1)
    values["train.offsets"] = np.concatenate([[0], np.cumsum(lengths)])


def test_a_row_that_stands_at_another_place_is_not_said_to_have_other_tokens(
    found: Callable[..., dict[str, Finding]],
) -> None:
    every = found(now=arrays(first_of_train_leaves))
    assert differing(every) == ["split", "prepared rows"]
    tokens = every["tokens"].text
    assert tokens.endswith("in the same part of both; not compared: 2 rows of train, in that part of one result alone")


def test_a_row_with_other_tokens_is_named_where_others_have_moved(found: Callable[..., dict[str, Finding]]) -> None:
    row = []

    def change(values: dict[str, Any]) -> None:
        first_of_train_leaves(values)
        values["train.tokens"][values["train.offsets"][4]] += 1
        row.append(int(values["train.rows"][4]))

    every = found(now=arrays(change))
    assert every["tokens"].text == f"row {row[0]} of train has other tokens"


def test_answers_are_held_against_those_to_the_same_row(found: Callable[..., dict[str, Finding]]) -> None:
    def another(folder: Path) -> None:
        first, *rest = (folder / "predictions.jsonl").read_text().splitlines()
        lines = [*rest, json.dumps(json.loads(first) | {"row": 999})]
        rewrite(folder, "predictions.jsonl", "\n".join(lines).encode())

    every = found(now=another)
    assert differing(every) == ["baseline", "test"]
    assert every["test"].text.endswith("is not scored any more; not compared: 1 row that only one result scored")


def test_a_validation_counts_once_however_many_numbers_it_tells(found: Callable[..., dict[str, Finding]]) -> None:
    def twice(change: float) -> Change:
        def write(folder: Path) -> None:
            told = {"valid_loss": 0.5 + change, "valid_score": 0.25}
            lines = [line for line in metrics(folder) if "valid_loss" not in line]
            set_metrics(folder, [*lines, {"step": 1, **told}, {"step": 2, **told}])

        return write

    assert found(twice(0), twice(0))["validation"].text == "2 are equal as told"


def test_a_validation_that_differs_in_all_its_numbers_counts_once(found: Callable[..., dict[str, Finding]]) -> None:
    def other(folder: Path) -> None:
        lines = metrics(folder)
        for line in lines:
            line.update({key: value + 0.5 for key, value in line.items() if key.startswith("valid_")})
        set_metrics(folder, lines)

    text = found(now=other)["validation"].text
    assert text.startswith("1 of 1 differ, first at validation at step ")
    assert "(valid_" in text


def test_a_row_with_other_tokens_is_named(found: Callable[..., dict[str, Finding]]) -> None:
    row = []

    def token(values: dict[str, Any]) -> None:
        values["test.tokens"][values["test.offsets"][3]] += 1
        row.append(int(values["test.rows"][3]))

    every = found(now=arrays(token))
    assert differing(every) == ["tokens", "prepared rows"]
    assert every["tokens"].text == f"row {row[0]} of test has other tokens"


def test_without_the_prepared_rows_of_the_original_no_row_is_named_and_the_difference_is_told(
    found: Callable[..., dict[str, Finding]],
) -> None:
    every = found(
        then=lambda folder: shutil.rmtree(folder / "prepared"),
        now=lambda folder: edit_manifest(folder, lambda document: document.update(fingerprint="sha256:" + "0" * 64)),
    )
    assert differing(every) == ["tokens"]
    assert {subject for subject, finding in every.items() if finding.state == "NotCompared"} == {"files", "split"}
    assert "prepared/ of the result is gone" in every["split"].text


def test_a_text_that_was_prepared_otherwise_is_told_by_its_line_and_not_shown(
    found: Callable[..., dict[str, Finding]],
) -> None:
    def text(folder: Path) -> None:
        path = folder / "prepared/texts.test.jsonl"
        lines = path.read_text().splitlines()
        lines[4] = lines[4].replace("Topic", "Secret")
        rewrite(folder, "prepared/texts.test.jsonl", ("\n".join(lines) + "\n").encode())

    every = found(now=text)
    assert differing(every) == ["prepared rows"]
    assert "texts.test.jsonl has another digest; line 5 is the first that differs" in every["prepared rows"].text
    assert "Secret" not in every["prepared rows"].text


def test_a_row_that_somebody_changed_in_the_stored_result_is_told(found: Callable[..., dict[str, Finding]]) -> None:
    def tamper(folder: Path) -> None:
        path = folder / "predictions.jsonl"
        path.write_text(path.read_text().replace('"tuned": "', '"tuned": "x', 1))

    every = found(then=tamper)
    assert differing(every) == ["files"]
    assert "predictions.jsonl" in every["files"].text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["spec"]["training"].update(seed=8), "tells the seed 7, and its spec has training.seed 8"),
        (lambda d: d["spec"]["training"].update(epochs=3), "not the one that its specDigest names"),
    ],
)
def test_a_spec_that_was_changed_in_the_manifest_is_told(
    change: Callable[[dict[str, Any]], object], words: str, found: Callable[..., dict[str, Finding]]
) -> None:
    every = found(then=lambda folder: edit_manifest(folder, change))
    assert differing(every) == ["spec"]
    assert words in every["spec"].text


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        (
            lambda d: d["inputs"].update({"dataset.uri": "sha256:x"}),
            "dataset.uri",
            "has changed since: digest sha256:x",
        ),
        (lambda d: d.update(modelRevision="sha256:x"), "model.uri", "has changed since: revision sha256:x"),
        (lambda d: d.update(templateDigest="sha256:x"), "template", "template topic of the library has another text"),
        (lambda d: d.update(tokenizerDigest="sha256:x"), "tokenizer", "the model's tokenizer is another one"),
        (lambda d: d["report"]["resolved"].update(batchSize=3), "settings", "batchSize 3, and it was 16"),
        (lambda d: d["report"]["dataset"].update(duplicates=77), "rows", "duplicates 77, and it was"),
        (lambda d: d["report"]["results"].update(gain="+0.9"), "results", 'gain "+0.9", and it was'),
    ],
)
def test_what_changed_is_told_by_name(
    change: Callable[[dict[str, Any]], object],
    subject: str,
    words: str,
    found: Callable[..., dict[str, Finding]],
) -> None:
    every = found(now=lambda folder: edit_manifest(folder, change))
    assert differing(every) == [subject]
    assert words in every[subject].text


def test_rows_of_another_place_are_not_said_to_be_a_change_of_the_one_of_then(
    found: Callable[..., dict[str, Finding]],
) -> None:
    def given(document: dict[str, Any]) -> None:
        document["spec"]["dataset"]["uri"] = document["spec"]["model"]["uri"] = "file:///data/given"
        document["inputs"]["dataset.uri"] = document["modelRevision"] = "sha256:x"

    every = found(now=lambda folder: edit_manifest(folder, given))
    for subject, kind in (("dataset.uri", "digest"), ("model.uri", "revision")):
        assert every[subject].state == "Different"
        assert every[subject].text.startswith("file:///data/given holds something else than file://")
        assert f"did then: {kind} sha256:x, and it was sha256:" in every[subject].text


def test_a_model_at_a_place_of_another_kind_is_not_called_changed(found: Callable[..., dict[str, Finding]]) -> None:
    def elsewhere(document: dict[str, Any]) -> None:
        document["spec"]["model"]["uri"] = "s3://models/tiny/"
        document["modelRevision"] = "sha256:of-etags"

    every = found(now=lambda folder: edit_manifest(folder, elsewhere))
    assert differing(every) == []
    assert every["model.uri"].state == "NotCompared"


def test_of_an_older_manifest_is_compared_what_it_has_and_the_rest_is_named(
    found: Callable[..., dict[str, Finding]],
) -> None:
    def older(folder: Path) -> None:
        rest = json.loads((folder / "prepared/prepared.json").read_text())
        del rest["inputs"], rest["template_source"]
        rewrite(folder, "prepared/prepared.json", json.dumps(rest).encode())
        edit_manifest(folder, lambda d: [d.pop(key) for key in ("inputs", "templateDigest", "tokenizerDigest", "seed")])

    every = found(then=older)
    assert differing(every) == []
    missing = {subject for subject, finding in every.items() if finding.state == "NotCompared"}
    assert missing == {"dataset.uri", "template", "tokenizer"}
    assert "told no digest" in every["dataset.uri"].text


# samples.jsonl.


def samples(change: Callable[[list[dict[str, Any]]], object]) -> Change:
    """Change the lines of the samples, as another training would have written them."""

    def write(folder: Path) -> None:
        lines = sampled(folder)
        change(lines)
        rewrite(folder, "samples.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())

    return write


def sampled(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def without_samples(folder: Path) -> None:
    def unlisted(document: dict[str, Any]) -> None:
        document["files"] = [entry for entry in document["files"] if entry["path"] != "samples.jsonl"]

    (folder / "samples.jsonl").unlink()
    edit_manifest(folder, unlisted)


def test_an_answer_during_the_training_that_differs_is_named_by_row_and_step(
    output: Path, found: Callable[..., dict[str, Finding]]
) -> None:
    lines = sampled(output)
    last = lines[-1]["step"]
    assert {line["step"] for line in lines} == {0, last}

    def other(changed: list[dict[str, Any]]) -> None:
        for line in changed[-3:]:
            line.update(completion="secret words", correct=not line["correct"])

    every = found(now=samples(other))
    assert differing(every) == ["samples"]
    told = f"3 of {len(lines)} answers differ, first that to row {lines[-3]['row']} at step {last}: another completion"
    assert every["samples"].text == told
    assert every["samples"].arithmetic


def test_the_first_answer_that_differs_is_that_of_the_earliest_step(
    output: Path, found: Callable[..., dict[str, Finding]]
) -> None:
    every = found(now=samples(lambda lines: (lines[1].update(choice="other"), lines[-1].update(completion="other"))))
    row = sampled(output)[1]["row"]
    assert f"2 of {len(sampled(output))} answers differ, first that to row {row} at step 0: another choice" == (
        every["samples"].text
    )


def test_samples_are_known_by_step_and_row_and_not_by_their_place(
    output: Path, found: Callable[..., dict[str, Finding]]
) -> None:
    every = found(now=samples(lambda lines: lines.reverse()))
    assert differing(every) == []
    assert every["samples"].text == f"{len(sampled(output))} answers are equal as told"


def test_of_samples_is_compared_what_the_original_tells(found: Callable[..., dict[str, Finding]]) -> None:
    assert differing(found(now=samples(lambda lines: lines[0].update(more=1)))) == []
    assert differing(found(then=samples(lambda lines: lines[0].update(more=1)), name="b")) == ["samples"]


def test_a_sample_that_one_result_lacks_is_named(output: Path, found: Callable[..., dict[str, Finding]]) -> None:
    place = f"row {sampled(output)[2]['row']} at step 0"
    assert found(now=samples(lambda lines: lines.pop(2)))["samples"].text == f"{place} is not asked any more"
    assert found(then=samples(lambda lines: lines.pop(2)), name="b")["samples"].text == f"{place} was not asked"


def test_of_results_without_samples_nothing_is_told_and_of_an_older_one_that_it_has_none(
    found: Callable[..., dict[str, Finding]],
) -> None:
    assert "samples" not in found(then=without_samples, now=without_samples)
    older = found(then=without_samples, name="b")["samples"]
    assert (older.state, older.text) == ("NotCompared", "the result has no samples.jsonl")
    lost = found(now=without_samples, name="c")["samples"]
    assert (lost.state, lost.text) == ("Different", "samples.jsonl is not written any more")


def test_samples_that_are_gone_from_the_result_are_said_to_be(found: Callable[..., dict[str, Finding]]) -> None:
    def gone(folder: Path) -> None:
        lines = sampled(folder)
        lines[0]["completion"] = "other"
        rewrite(folder, "samples.jsonl", json.dumps(lines[0]).encode())
        (folder / "samples.jsonl").unlink()

    told = found(then=gone)["samples"]
    assert (told.state, told.text) == ("NotCompared", "samples.jsonl is gone or damaged")
