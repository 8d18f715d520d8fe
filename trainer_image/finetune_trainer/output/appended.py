"""Tokenizers that put an end token behind every text (``add_eos_token``), changed in an exported folder to put none.

A prompt goes on with its answer, so the rows' prompts have no end token. Whoever then asks the exported model by a
plain call of its tokenizer, as every server does, would end the prompt first. Prepare tries the change on a copy, so
that a tokenizer that can't be changed is told of before anything is trained.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transformers import AutoTokenizer

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.modelfiles import json_object
from finetune_trainer.text.added import added_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["appended_tokens", "check_can_stop", "stop_appending"]

_CONFIG: Final = "tokenizer_config.json"
_PIPELINE: Final = "tokenizer.json"
_FILES: Final = (".json", ".model", ".txt", ".tiktoken")
_FLAGS: Final = ("add_eos_token", "add_sep_token")
_PROBES: Final = ("a", "Two words.\n\n  3 more", "x y ")


def appended_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens that a plain call puts behind a prompt; none where prompts go through a chat template."""
    if tokenizer.chat_template:
        return ()
    return tuple(str(token) for token in tokenizer.convert_ids_to_tokens(list(added_ids(tokenizer)[1])))


def check_can_stop(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the export of a model can be asked by a plain call of its tokenizer; changes nothing.

    Raises
    ------
    StageError
        ModelInvalid: it puts tokens behind every text, and no setting in its files stops that.
    """
    tokens = appended_tokens(tokenizer)
    if not tokens:
        return
    with tempfile.TemporaryDirectory(prefix="tokenizer-") as place:
        copy = Path(place)
        for path in folder.iterdir():
            if path.is_file() and path.suffix in _FILES:
                shutil.copyfile(path, copy / path.name)
        if not stop_appending(copy, tokenizer):
            raise StageError(
                Reason.MODEL_INVALID,
                f"model.uri: the tokenizer puts {' '.join(tokens)} behind every text, so a prompt would end before its "
                "answer, and its files can't be changed so that it stops; give the model a tokenizer.json that adds "
                "nothing behind a text",
            )


def stop_appending(folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Change the tokenizer files in ``folder`` so that nothing is put behind a text, and what stands before it stays.

    Returns
    -------
    bool
        Whether a plain call now gives the tokens that the encoder gives with ``tokenizer``, the untouched one.
    """
    before, _ = added_ids(tokenizer)
    expected = [[*before, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in _PROBES]
    for change in (_by_settings, _by_class):
        change(folder)
        changed: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if [changed(text)["input_ids"] for text in _PROBES] == expected:
            return True
    return False


def _by_settings(folder: Path) -> None:
    """Switch the flags off, and cut the stored pipeline."""
    config = _read(folder / _CONFIG)
    on = [flag for flag in _FLAGS if config.get(flag)]
    if on:
        _write(folder / _CONFIG, {**config, **dict.fromkeys(on, False)})
    pipeline = _read(folder / _PIPELINE)
    processor = pipeline.get("post_processor")
    if processor is not None:
        _write(folder / _PIPELINE, {**pipeline, "post_processor": _cut(processor)})


def _by_class(folder: Path) -> None:
    """Let no class build a pipeline of its own, where one is stored."""
    if (folder / _PIPELINE).exists():
        _write(folder / _CONFIG, {**_read(folder / _CONFIG), "tokenizer_class": "PreTrainedTokenizerFast"})


def _cut(processor: Mapping[str, Any]) -> dict[str, Any]:
    """A post-processor without the special tokens that it puts behind a text."""
    kind = processor["type"]
    if kind == "Sequence":
        return {**processor, "processors": [_cut(one) for one in processor["processors"]]}
    if kind in ("BertProcessing", "RobertaProcessing"):
        token, number = processor["cls"]
        first = {"SpecialToken": {"id": token, "type_id": 0}}
        return {
            "type": "TemplateProcessing",
            "single": [first, _sequence("A", 0)],
            "pair": [first, _sequence("A", 0), _sequence("B", 1)],
            "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
        }
    if kind != "TemplateProcessing":
        return dict(processor)
    single = processor["single"]
    last = max((i for i, item in enumerate(single) if "Sequence" in item), default=len(single) - 1)
    behind = [item["SpecialToken"]["id"] for item in single[last + 1 :]]
    pair = [item for item in processor["pair"] if item.get("SpecialToken", {}).get("id") not in behind]
    return {**processor, "single": single[: last + 1], "pair": pair}


def _sequence(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def _read(path: Path) -> dict[str, Any]:
    return json_object(path) if path.exists() else {}


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
