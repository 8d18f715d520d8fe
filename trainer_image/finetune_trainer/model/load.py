"""A model folder becomes a model: checked for unsafe content and loaded in the resolved precision.

The folder comes from a tenant. Only safetensors are read (pickles run code when they are opened), and code that a
folder brings along is never run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.device import Precision, dtype_of, gpu_memory_errors
from finetune_trainer.model.head import CompletionHead
from finetune_trainer.model.kinds import decoder_start, network_class
from finetune_trainer.model.limits import limits_of, read_config
from finetune_trainer.storage.modelfiles import check_no_code, json_object

__all__ = ["Abilities", "LoadedModel", "check_folder", "convert", "embedding_rows", "load_model"]

PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.h5", "*.msgpack")
_LOADING_ERRORS: Final = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
"""What transformers raises at a broken folder; it has no exception of its own."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What was tried out about a model: found once for a job and part of its arithmetic from then on.

    Attributes
    ----------
    branching
        Whether answers can share a prompt's forward pass by an attention mask.
    """

    branching: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A model with all that scoring, training and export need to know of it.

    The value never changes; training changes the weights of the network in it.

    Attributes
    ----------
    model
        The network itself; with LoRA, its linear layers carry the adapters.
    adapter
        peft's view of the same network, for saving the adapters; None without LoRA.
    folder
        Where it was loaded from: the untouched base.
    stored_dtype
        Type of the weights in that folder; exports keep it.
    head
        Runs the model and returns logits at chosen positions.
    most_positions
        Positions that no row and no generated answer may go beyond; None without such a bound.
    eos_ids
        Tokens that end a text, as the folder's generation config has them.
    decoder_start
        Tokens that the decoder of an encoder-decoder model is given before an answer; none for other models.
    abilities
        What it was found to be able to do; None where nobody has tried yet.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    device: torch.device
    precision: Precision
    stored_dtype: torch.dtype
    head: CompletionHead
    eos_ids: frozenset[int]
    most_positions: int | None = None
    decoder_start: tuple[int, ...] = ()
    adapter: Any = None
    abilities: Abilities | None = None

    @property
    def encoder_decoder(self) -> bool:
        """Whether prompts go to an encoder of their own."""
        return bool(self.decoder_start)

    @property
    def parameters(self) -> int:
        """Parameters of the base model, tied ones counted once, adapters not counted."""
        return sum(p.numel() for n, p in self.model.named_parameters() if "lora_" not in n)

    @property
    def trained_parameters(self) -> int:
        """Parameters that training changes."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def check_folder(folder: Path) -> None:
    """Refuse what must not or cannot be loaded, before any library opens it.

    Raises
    ------
    StageError
        UnsafeModel for code of its own or weights as pickles; ModelInvalid for a folder that is no language model with
        weights.
    """
    if not (folder / "config.json").exists():
        raise StageError(Reason.MODEL_INVALID, "model.uri: there is no config.json in the folder")
    check_no_code(folder)
    if (folder / "adapter_config.json").exists():
        raise StageError(
            Reason.MODEL_INVALID, "model.uri: the folder holds an adapter; merge it into its base model first"
        )
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise StageError(
            Reason.UNSAFE_MODEL, f"model.uri: the weights are stored as {pickles[0]}, a format that can run code"
        )
    raise StageError(Reason.MODEL_INVALID, "model.uri: there are no weights (*.safetensors) in the folder")


def load_model(folder: Path, *, device: torch.device, precision: Precision) -> LoadedModel:
    """Load a language model and its tokenizer from a local folder; nothing is fetched.

    Raises
    ------
    StageError
        UnsafeModel, ModelInvalid with the library's own words as cause, or GPUOutOfMemory.
    """
    check_folder(folder)
    config = read_config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        loading: Any = network_class(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype_of(precision),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except _LOADING_ERRORS as error:
        raise StageError(Reason.MODEL_INVALID, f"model.uri: transformers can't load the folder: {error}") from error
    model: PreTrainedModel
    model, info = loading
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise StageError(
            Reason.MODEL_INVALID, f"model.uri: the weights lack {len(missing)} tensors, among them {missing[0]}"
        )
    with gpu_memory_errors("loading the model"):
        torch.nn.Module.to(model, device)
    model.eval()
    eos = model.generation_config.eos_token_id
    # The library fills every unset option from here: a repetition penalty would make greedy decoding something else.
    model.generation_config = GenerationConfig()
    head = CompletionHead(model)
    head.check(embedding_rows(model), device)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        folder=folder,
        device=device,
        precision=precision,
        stored_dtype=_stored_dtype(folder),
        head=head,
        most_positions=limits_of(config).most_positions,
        decoder_start=decoder_start(folder, config, tokenizer),
        eos_ids=frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos]),
    )


def embedding_rows(model: PreTrainedModel) -> int:
    """Number of token ids that the model knows."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def _stored_dtype(folder: Path) -> torch.dtype:
    """What a plain ``from_pretrained`` makes of the folder: config.json's dtype, else that of the first weights."""
    from safetensors import safe_open  # noqa: PLC0415 - only here, and cheap

    config = json_object(folder / "config.json")
    name = config.get("dtype") or config.get("torch_dtype")
    if isinstance(name, str) and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)  # type: ignore[no-any-return] # checked on the line above
    with safe_open(min(folder.glob("*.safetensors")), framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - not a mapping
            dtype: torch.dtype = weights.get_tensor(key).dtype
            if dtype.is_floating_point:
                return dtype
    return torch.float32


def convert(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Convert the floating-point parameters in place.

    Not the buffers, as ``Module.to`` does: rotary frequencies lose their meaning as bfloat16.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
