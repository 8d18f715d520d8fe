"""From encoded rows to tensors: the one place that knows how rows lie in a batch.

Padded rows are filled up on the right and stand without an attention mask: in a causal model no token sees what follows
it, so padding cannot reach a real token, and attention takes its fast path. The padding repeats a row's last token,
because libraries take the pad token for a forgotten mask. Packed rows stand one behind the other, and their positions
tell them apart. An encoder looks both ways, so what it is padded with is masked. Positions to score and their targets
are computed on the host; nothing in the model carries ignored labels, and nothing on the device is selected by a
boolean mask (which would make the host wait for the device).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune_trainer.model.device import to_device
from finetune_trainer.model.kinds import pad_prompts
from finetune_trainer.prepare.prepared import EncodedPart

__all__ = [
    "Batch",
    "collate",
    "collate_apart",
    "common_beginning",
    "input_lengths",
    "pack",
    "packed_inputs",
]


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch on its device.

    Attributes
    ----------
    input_ids
        int64 (rows, longest row - 1 - skip): the last token of a row is only predicted, never an input. For an encoder
        (rows, longest prompt).
    index
        int64 (n,): positions in the flattened ``input_ids``, or ``decoder_input_ids``, that predict a completion token.
    targets
        int64 (n,): those tokens.
    inputs
        What else the model's forward gets.
    """

    input_ids: Tensor
    index: Tensor
    targets: Tensor
    inputs: Mapping[str, Any] = field(default_factory=dict)


def input_lengths(part: EncodedPart) -> NDArray[np.int64]:
    """int64 (n,): tokens of each row that the model is fed."""
    return part.lengths - 1


def common_beginning(part: EncodedPart) -> int:
    """Number of tokens that all prompts of a part begin with, at least one short of any prompt."""
    length = int(part.prompt_lengths.min()) - 1 if len(part) else 0
    first = part.tokens[:length]
    for start in part.offsets[1:-1]:
        different = np.flatnonzero(part.tokens[start : start + length] != first[:length])
        if len(different):
            length = int(different[0])
    return max(0, length)


def collate(part: EncodedPart, rows: NDArray[np.int64], *, device: torch.device, skip: int = 0) -> Batch:
    """Build a padded micro-batch.

    Parameters
    ----------
    skip
        So many tokens at the front of every row are left out: the model is given them as a cache.

    Raises
    ------
    ValueError
        For a row without prompt tokens (its first completion token has nothing to be predicted from) or without
        completion tokens.
    """
    starts, lengths = part.offsets[rows] + skip, part.lengths[rows] - skip
    prompts = part.prompt_lengths[rows].astype(np.int64) - skip
    _check(part, rows, prompts, lengths)
    width = int(lengths.max()) - 1
    ids = np.zeros((len(rows), width), dtype=np.int64)
    index, targets = [], []
    for i, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
        ids[i, : length - 1] = part.tokens[start : start + length - 1]
        ids[i, length - 1 :] = ids[i, length - 2]
        learned = part.learned(row) - skip
        index.append(learned - 1 + i * width)
        targets.append(part.tokens[start + learned])
    return Batch(
        to_device(ids, device),
        to_device(np.concatenate(index), device),
        to_device(np.concatenate(targets).astype(np.int64), device),
    )


def pack(part: EncodedPart, rows: NDArray[np.int64], *, device: torch.device) -> Batch:
    """Build a micro-batch without padding: all rows in one, each counting its positions from 0.

    For models that keep such rows apart (``packing.py``).

    Raises
    ------
    ValueError
        As :func:`collate` does.
    """
    starts, lengths = part.offsets[rows], part.lengths[rows]
    prompts = part.prompt_lengths[rows].astype(np.int64)
    _check(part, rows, prompts, lengths)
    ids, index, targets, begin = [], [], [], 0
    for row, start, length in zip(rows, starts, lengths, strict=True):
        ids.append(part.tokens[start : start + length - 1])
        learned = part.learned(row)
        index.append(begin + learned - 1)
        targets.append(part.tokens[start + learned])
        begin += int(length) - 1
    return Batch(
        to_device(np.concatenate(ids)[None].astype(np.int64), device),
        to_device(np.concatenate(index), device),
        to_device(np.concatenate(targets).astype(np.int64), device),
        packed_inputs((lengths - 1).tolist(), device),
    )


def collate_apart(
    part: EncodedPart, rows: NDArray[np.int64], *, device: torch.device, start: Sequence[int], pad_id: int
) -> Batch:
    """Build a padded micro-batch for an encoder-decoder model.

    Parameters
    ----------
    start
        Tokens that the decoder is given before every completion.

    Raises
    ------
    ValueError
        As :func:`collate` does.
    """
    starts, lengths = part.offsets[rows], part.lengths[rows]
    prompts = part.prompt_lengths[rows].astype(np.int64)
    _check(part, rows, prompts, lengths)
    asked = [part.tokens[at : at + prompt] for at, prompt in zip(starts, prompts, strict=True)]
    answers = [part.tokens[at + p : at + n] for at, p, n in zip(starts, prompts, lengths, strict=True)]
    width = len(start) + int((lengths - prompts).max()) - 1
    decoder_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    index = []
    for i, answer in enumerate(answers):
        decoder_ids[i, : len(start)] = start
        decoder_ids[i, len(start) : len(start) + len(answer) - 1] = answer[:-1]
        index.append(len(start) - 1 + np.arange(len(answer), dtype=np.int64) + i * width)
    ids, mask = pad_prompts(asked, pad_id=pad_id)
    return Batch(
        to_device(ids, device),
        to_device(np.concatenate(index), device),
        to_device(np.concatenate(answers).astype(np.int64), device),
        {"attention_mask": to_device(mask, device), "decoder_input_ids": to_device(decoder_ids, device)},
    )


def packed_inputs(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What tells a model and its attention that so long rows stand one behind the other."""
    positions = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    return {"position_ids": to_device(positions[None], device), "row_lengths": tuple(lengths)}


def _check(part: EncodedPart, rows: NDArray[np.int64], prompts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    if (prompts < 1).any() or (lengths <= prompts).any():
        bad = int(part.rows[rows[np.flatnonzero((prompts < 1) | (lengths <= prompts))[0]]])
        raise ValueError(f"row {bad} has no prompt or no completion tokens")
