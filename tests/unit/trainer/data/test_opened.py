"""Packed and foreign text: the same rows whatever they are packed in, and no shorter dataset from a file cut off."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.readers import BadRow, Row, look_at, read_rows
from finetune_trainer.data.table import read_table
from finetune_trainer.errors import StageError

ROWS = [{"text": f"Straße {i}, Übung, déjà vu", "label": "für" if i % 2 else "ça"} for i in range(3000)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)


def dataset(**fields: Any) -> Dataset:
    return Dataset.model_validate({"uri": "s3://data/rows.csv", "template": {"name": "intent"}, **fields})


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(content)
    return sink.getvalue().to_pybytes()


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def values(path: Path, about: Dataset | None = None) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(look_at(path, about)) if isinstance(row, Row)]


@pytest.mark.parametrize("pack", [gz, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", LINES), ("a.csv", CSV), ("a.json", json.dumps(ROWS))])
def test_packed_rows_are_those_that_were_packed(tmp_path: Path, pack: Any, name: str, text: str) -> None:
    assert values(written(tmp_path, name + (".gz" if pack is gz else ".zst"), pack(text.encode()))) == ROWS


@pytest.mark.parametrize("pack", [gz, zstd], ids=["gzip", "zstd"])
def test_files_that_were_packed_piece_by_piece_are_read_to_their_end(tmp_path: Path, pack: Any) -> None:
    half = len(LINES) // 2
    pieces = pack(LINES[:half].encode()) + pack(LINES[half:].encode())
    assert values(written(tmp_path, "a.jsonl.gz", pieces)) == ROWS


@pytest.mark.parametrize("pack", [gz, zstd], ids=["gzip", "zstd"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_packed_file_that_was_cut_off_is_no_shorter_dataset(tmp_path: Path, pack: Any, name: str) -> None:
    content = pack((LINES if name == "a.jsonl" else CSV).encode())
    for end in (len(content) // 2, len(content) - 1):
        path = written(tmp_path, name, content[:end])
        with pytest.raises(StageError, match=r"can't be unpacked .* damaged or was cut off") as caught:
            values(path)
        assert caught.value.reason is Reason.DATASET_INVALID


def test_a_changed_byte_in_a_packed_file_is_found(tmp_path: Path) -> None:
    content = bytearray(gz(LINES.encode()))
    content[len(content) // 2] ^= 0x10
    with pytest.raises(StageError, match=r"a\.jsonl\.gz can't be unpacked"):
        values(written(tmp_path, "a.jsonl.gz", bytes(content)))


@pytest.mark.parametrize("encoding", ["Windows-1252", "ISO-8859-15", "UTF-16", "UTF-16LE", "UTF-16BE", "UTF-32"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", LINES), ("a.csv", CSV)])
def test_text_is_read_in_the_encoding_that_is_declared(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    assert values(written(tmp_path, name, text.encode(encoding)), dataset(encoding=encoding)) == ROWS


@pytest.mark.parametrize(("encoding", "word"), [("Shift_JIS", "日本語"), ("GB18030", "中文"), ("KOI8-R", "русский")])
def test_letters_of_other_scripts_are_read(tmp_path: Path, encoding: str, word: str) -> None:
    path = written(tmp_path, "a.csv", f"text,label\n{word},x\n".encode(encoding))
    assert values(path, dataset(encoding=encoding)) == [{"text": word, "label": "x"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_mark_or_the_zeros_of_utf_16_tell_the_encoding(tmp_path: Path, encoding: str) -> None:
    assert values(written(tmp_path, "a.csv", CSV.encode(encoding))) == ROWS


def test_text_that_is_not_utf_8_is_named_as_what_it_seems_to_be(tmp_path: Path) -> None:
    for name, text in (("a.csv", CSV), ("a.jsonl", LINES)):
        rows = list(read_rows(look_at(written(tmp_path, name, text.encode("windows-1252")))))
        assert {type(row) for row in rows} == {BadRow}
        assert "not UTF-8 (it seems to be Windows-1252; if so, set dataset.encoding to that)" in str(rows[0])


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("Windows-1250", "Příliš žluťoučký kůň úpěl ďábelské ódy. "),
        ("Windows-1251", "Привет, как дела? Это было очень хорошо и быстро. "),
        ("Shift_JIS", "これは日本語の文章です。とても良い商品でした。"),
        ("GB18030", "这个产品非常好，我很喜欢。下次还会再买。"),
    ],
)
def test_other_encodings_are_named_too(tmp_path: Path, encoding: str, text: str) -> None:
    assert look_at(written(tmp_path, "a.csv", f"text\n{text * 20}\n".encode(encoding))).seems == encoding


def test_of_a_byte_or_two_nothing_is_said(tmp_path: Path) -> None:
    assert look_at(written(tmp_path, "a.csv", b"text\n\xe9t\xe9\n")).seems is None


def test_a_byte_that_the_declared_encoding_does_not_know_costs_its_own_row(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b"text,label\n\xe9t\xe9,x\n\x81,y\nb,z\n")
    first, bad, last = read_rows(look_at(path, dataset(encoding="Windows-1252")))
    assert (first, last) == (Row(2, {"text": "été", "label": "x"}), Row(4, {"text": "b", "label": "z"}))
    assert isinstance(bad, BadRow)
    assert bad.why.startswith("not Windows-1252")


def test_utf_8_that_is_declared_as_something_else_is_refused_before_its_letters_are_garbled(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"a\.csv is UTF-8, not Windows-1252; take dataset\.encoding out"):
        look_at(written(tmp_path, "a.csv", CSV.encode()), dataset(encoding="Windows-1252"))
    plain = written(tmp_path, "b.csv", b"text,label\na,b\n")
    assert values(plain, dataset(encoding="Windows-1252")) == [{"text": "a", "label": "b"}]


def test_a_mark_that_says_another_encoding_than_the_job_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", CSV.encode("utf-16"))
    with pytest.raises(StageError, match=r"a\.csv is UTF-16, not Windows-1252; take dataset\.encoding out"):
        look_at(path, dataset(encoding="Windows-1252"))


def test_zeros_that_no_encoding_explains_are_refused_as_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", CSV.encode("utf-32-le"))
    with pytest.raises(StageError, match=r"a\.csv is no UTF-8 text .* set dataset\.encoding") as caught:
        look_at(path)
    assert caught.value.tells_mend


def test_half_a_letter_at_the_end_of_utf_16_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"a\.csv is not UTF-16"):
        values(written(tmp_path, "a.csv", CSV.encode("utf-16")[:-1]))


def test_what_was_found_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, "rows.csv", "text;label\nça;x\nb;y\n".encode("utf-16"))
    about = dataset()
    with caplog.at_level(logging.INFO):
        read_table({"all": path}, about, BadRowLog(about))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["rows.csv is read as UTF-16", "the cells of rows.csv are parted by semicolons"]
