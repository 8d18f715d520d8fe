"""Prepare: the folder that it writes, read back, and the fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from finetune_api.digest import canonical_json
from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.folder import PREPARED_FILES, columns_of, fingerprint
from finetune_trainer.prepare.prepare import load_prepared, prepare, prepared_digest
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.storage.rowfiles import RowFile
from tests.support.prepare_kit import LABELS, Dataset, intents, spec_of, write

ROOT = Path(__file__).resolve().parents[3]
ARRAYS = {f.name for f in fields(EncodedPart)}
REST = {f.name for f in fields(Prepared)} - {"parts"}


def same(one: Prepared, other: Prepared) -> bool:
    pairs = [(getattr(one.parts[p], a), getattr(other.parts[p], a)) for p in PARTS for a in ARRAYS]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs) and all(
        getattr(one, name) == getattr(other, name) for name in REST
    )


CHOOSING = spec_of(
    {"name": "multiple-choice"},
    dataset={"split": {"trainPercent": 70, "validationPercent": 0, "testPercent": 30}},
)


@pytest.fixture
def odd(dataset: Dataset) -> Prepared:
    """Rows with what JSON lines could trip over, choices of their own, and an empty part."""
    rows = [
        {"question": f"q \u2028 \x85 \r {i}", "choices": [f"ü {i % 3}", 'a "b"\n'], "answer": i % 2} for i in range(60)
    ]
    return dataset.prepare(rows, CHOOSING)


def test_the_folder_holds_the_named_files_and_nothing_else_is_left(odd: Prepared, dataset: Dataset) -> None:
    assert sorted(p.name for p in dataset.out.iterdir()) == sorted(PREPARED_FILES)
    assert list(dataset.out.parent.iterdir()) == [dataset.out]
    loaded = load_prepared(dataset.out)
    assert same(loaded, odd)
    assert "\u2028" in loaded.texts["test"][0].prompt


def test_preparing_twice_gives_the_same_bytes_and_the_digest_tells_any_change(odd: Prepared, dataset: Dataset) -> None:
    digest, path = prepared_digest(dataset.out), dataset.folder / "all.jsonl"
    prepare(spec=CHOOSING, files={"all": path}, tokenizer=dataset.tokenizer, folder=dataset.out)
    assert prepared_digest(dataset.out) == digest
    for name in PREPARED_FILES:
        content = (dataset.out / name).read_bytes()
        (dataset.out / name).write_bytes(content + b"\n")
        assert prepared_digest(dataset.out) != digest
        (dataset.out / name).write_bytes(content)
    assert prepared_digest(dataset.out) == digest


def test_the_arrays_are_those_that_the_safetensors_library_reads(odd: Prepared, dataset: Dataset) -> None:
    arrays = load_file(dataset.out / "rows.safetensors")
    names = [name for name in ARRAYS if name != "called"]  # without rows that call tools there is no such array
    assert arrays.keys() == {f"{part}.{name}" for part in PARTS for name in names}
    for part in PARTS:
        for name in names:
            assert np.array_equal(arrays[f"{part}.{name}"], getattr(odd.parts[part], name))


def test_rows_can_still_be_read_when_the_folder_is_gone(odd: Prepared, dataset: Dataset) -> None:
    first = odd.texts["test"][0]
    shutil.rmtree(dataset.out)
    assert odd.texts["test"][0] == first
    assert int(odd.parts["train"].tokens.sum()) > 0


def test_the_preview_holds_the_first_train_rows_as_rendered(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(50), spec_of())
    lines = [json.loads(x) for x in (dataset.out / "preview.jsonl").read_text().splitlines()]
    assert [x["row"] for x in lines] == list(prepared.parts["train"].rows[:3])
    assert lines[0].keys() == {"row", "prompt", "completion"}


@pytest.mark.parametrize("name", PREPARED_FILES)
@pytest.mark.parametrize("content", [None, b"{", b'{"a": 1}'])
def test_a_file_that_is_missing_or_broken_is_told(
    odd: Prepared, dataset: Dataset, name: str, content: bytes | None
) -> None:
    (dataset.out / name).unlink()
    if content is not None:
        (dataset.out / name).write_bytes(content)
    with pytest.raises(StageError, match="prepared rows can't be read back") as caught:
        load_prepared(dataset.out)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    if content is None:
        with pytest.raises(StageError, match="prepared rows can't be read back"):
            prepared_digest(dataset.out)


@pytest.mark.parametrize("name", ["texts.test.jsonl", "choices.jsonl"])
def test_a_file_with_too_few_lines_is_told(odd: Prepared, dataset: Dataset, name: str) -> None:
    lines = (dataset.out / name).read_bytes().splitlines(keepends=True)
    (dataset.out / name).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(StageError, match=name):
        load_prepared(dataset.out)


@pytest.mark.parametrize("array", sorted(ARRAYS - {"gaps", "called"}))
def test_arrays_of_different_lengths_are_told(odd: Prepared, dataset: Dataset, array: str) -> None:
    arrays = load_file(dataset.out / "rows.safetensors")
    arrays[f"test.{array}"] = arrays[f"test.{array}"][:-1]
    save_file(arrays, dataset.out / "rows.safetensors")
    with pytest.raises(StageError, match="the arrays of test are not of one length"):
        load_prepared(dataset.out)


@pytest.mark.parametrize("places", [[30_000], [1, 1], [2, 1]])
def test_rows_that_call_tools_and_are_none_of_the_part_are_told(
    odd: Prepared, dataset: Dataset, places: list[int]
) -> None:
    arrays = load_file(dataset.out / "rows.safetensors")
    save_file({**arrays, "test.called": np.array(places, dtype=np.int32)}, dataset.out / "rows.safetensors")
    with pytest.raises(StageError, match="the called rows of test are none of its rows"):
        load_prepared(dataset.out)


SCRIPT = """
import json, sys
from pathlib import Path
from finetune_api.job import FineTuneJobSpec
from finetune_trainer.prepare.prepare import prepare, prepared_digest
from tests.support.tiny_tokenizer import make_tokenizer
folder, out, spec = Path(sys.argv[1]), Path(sys.argv[2]), FineTuneJobSpec.model_validate_json(sys.argv[3])
tokenizer = make_tokenizer(out / "tokenizer")
prepared = prepare(spec=spec, files={"all": folder / "rows.jsonl"}, tokenizer=tokenizer, folder=out / "prepared")
print(json.dumps([prepared.summary.fingerprint, prepared_digest(out / "prepared"), "torch" in sys.modules]))
"""


def test_two_processes_with_other_hash_seeds_prepare_the_same_bytes_and_need_no_torch(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [r | {"who": f"g{i % 40}"} for i, r in enumerate(intents(300))])
    wire = spec_of(dataset={"split": {"groupBy": "who", "stratifyBy": "label"}}).model_dump_json(
        by_alias=True, exclude_none=True
    )
    path = os.pathsep.join(str(ROOT / p) for p in ("crds", "trainer_image", "."))
    results = []
    for seed in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / seed), wire],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        )
        results.append(json.loads(done.stdout))
    assert results[0] == results[1]
    assert results[0][2] is False


def test_the_fingerprint_changes_with_the_rows_the_split_and_the_template(dataset: Dataset) -> None:
    def printed(rows: list[dict[str, Any]], spec: FineTuneJobSpec) -> str | None:
        return dataset.prepare(rows, spec).summary.fingerprint

    base = printed(intents(60), spec_of())
    others = [
        printed([*intents(59), {"text": "message number 59", "label": "bug"}], spec_of()),
        printed(intents(60), spec_of(dataset={"split": {"seed": 43}})),
        printed(intents(60), spec_of({"name": "topic"})),
        printed(intents(60), spec_of({"name": "intent", "choices": list(LABELS[::-1])})),
    ]
    assert len({base, *others}) == 5
    assert printed(intents(60), spec_of(training={"epochs": 9})) == base


@pytest.mark.parametrize("name", sorted(ARRAYS - {"gaps", "called"}))
@pytest.mark.parametrize("part", PARTS)
def test_the_fingerprint_changes_with_any_number_of_any_array(dataset: Dataset, part: Part, name: str) -> None:
    prepared = dataset.prepare(intents(60), spec_of())
    changed = getattr(prepared.parts[part], name).copy()
    changed[-1] += 1
    other = {**prepared.parts, part: replace(prepared.parts[part], **{name: changed})}

    def printed(parts: dict[Part, EncodedPart]) -> str:
        return fingerprint(columns_of(parts), prepared.choice_sets, prepared.end_ids)

    assert printed(prepared.parts) == prepared.summary.fingerprint
    assert printed(other) != prepared.summary.fingerprint


def test_the_fingerprint_is_the_digest_of_arrays_choices_and_end(odd: Prepared) -> None:
    """Other versions must find the same: it decides whether an earlier result can be reused."""
    sha = hashlib.sha256()
    for part in PARTS:
        for field in fields(EncodedPart):
            array = getattr(odd.parts[part], field.name)
            if field.name in ("gaps", "called"):  # there only for conversations of several answers, or with tools
                continue
            sha.update(f"{part}.{field.name}.{len(array)}\n".encode() + array.tobytes())
    sha.update(canonical_json({"choices": [[c.texts, c.ids] for c in odd.choice_sets], "end": odd.end_ids}))
    assert len(odd.choice_sets) == 3
    assert odd.summary.fingerprint == f"sha256:{sha.hexdigest()}"


def test_which_rows_call_tools_is_a_part_of_the_fingerprint(odd: Prepared) -> None:
    test = replace(odd.parts["test"], called=np.array([0], dtype=np.int32))
    parts: dict[Part, EncodedPart] = {**odd.parts, "test": test}
    assert fingerprint(columns_of(parts), odd.choice_sets, odd.end_ids) != odd.summary.fingerprint


def test_a_row_of_several_files_keeps_the_name_of_its_file(dataset: Dataset) -> None:
    files = [
        RowFile(
            path=write(dataset.folder / f"{n}.jsonl", intents(60, 60 * n)), name=f"{n}.jsonl", folder="s3://data/in/"
        )
        for n in range(2)
    ]
    prepared = prepare(
        spec=spec_of(), files=files, tokenizer=dataset.tokenizer, folder=dataset.folder / "out" / "prepared"
    )
    told = {(text.file, text.row, text.prompt.split("number ")[1].split()[0]) for text in prepared.texts["test"]}
    assert {file for file, _, _ in told} == {"0.jsonl", "1.jsonl"}
    assert all(int(number) == 60 * int(file[0]) + row - 1 for file, row, number in told)
