"""What makes an exported folder answer as it was scored: chat template, tokenizer, generation settings, and the proof.

Whatever loads the folder finds one chat template, the fixed one that the rows were trained with, wherever its library
looks for it; without one, a tokenizer that puts nothing behind a prompt; and generation settings that say what the
scores were taken with. What the base had besides (a repetition penalty, a temperature, forced tokens) would change
answers behind the user's back: it is left out, and the card says what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from transformers import AutoTokenizer

from finetune_api.reasons import Reason
from finetune_trainer.data.sample import row_sample
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.thoughts import ThoughtReader
from finetune_trainer.output.appended import appended_tokens, stop_appending
from finetune_trainer.output.asking import Asking, asking_of, plain_call
from finetune_trainer.prepare.prepared import Prepared, TextRow
from finetune_trainer.storage.modelfiles import json_object
from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.template.conversation import Message, turn_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GENERATION", "Serving", "check_served", "serving_of", "write_serving"]

GENERATION: Final = "generation_config.json"
_TEMPLATE: Final = "chat_template.jinja"
_CONFIG: Final = "tokenizer_config.json"
_COMPARED_ROWS: Final = 64
_SAME_ANYWAY: Final = {
    "do_sample": False,
    "temperature": 1.0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1.0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "token_healing": False,
}
"""Settings at which greedy decoding is plain greedy decoding."""
_NO_CHANGE: Final = (
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "eos_token_id",
    "low_memory",
    "max_length",
    "max_new_tokens",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "return_legacy_cache",
    "transformers_version",
    "use_cache",
)
"""Settings that change no token of an answer, or that the export sets itself."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the exported model is asked, for the card.

    Attributes
    ----------
    asking
        How a prompt becomes tokens.
    end_ids
        Tokens that end an answer.
    left_out
        Generation settings of the base that would have changed answers, by name.
    appended
        Tokens that the base's tokenizer put behind every prompt; the exported one doesn't.
    most_positions
        Positions that no prompt with its answer may go beyond; None without such a bound.
    decoder_start
        Tokens that the decoder of an encoder-decoder model is given before an answer; none for other models.
    thought_end
        Tokens that end a thought; none where its text does, or models answer at once.
    """

    asking: Asking
    end_ids: tuple[int, ...]
    left_out: Mapping[str, Any]
    appended: tuple[str, ...] = ()
    most_positions: int | None = None
    decoder_start: tuple[int, ...] = ()
    thought_end: tuple[int, ...] = ()

    @property
    def chat(self) -> bool:
        """Whether prompts go through the chat template."""
        return self.asking.chat


def serving_of(
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    prepared: Prepared,
    eos_ids: frozenset[int],
    most_positions: int | None = None,
    *,
    decoder_start: tuple[int, ...] = (),
) -> Serving:
    """Find out how a model is asked, from its untouched folder.

    Parameters
    ----------
    eos_ids
        Tokens that end a text, as the base's own settings have them.
    most_positions, decoder_start
        The model's.
    """
    settings = json_object(base / GENERATION) if (base / GENERATION).exists() else {}
    begin = _beginning(decoder_start)
    return Serving(
        asking=asking_of(
            tokenizer,
            [(turns, ids) for _, turns, ids in _sampled(tokenizer, prepared)],
            spelled=prepared.summary.control_tokens > 0,
            encoder_decoder=bool(decoder_start),
            thinking=prepared.thoughts is not None,
        ),
        end_ids=tuple(sorted({*eos_ids, prepared.end_ids[-1]})),
        left_out={
            name: value
            for name, value in settings.items()
            if not name.startswith("_")
            and name not in _NO_CHANGE
            and _changes(name, value)
            and begin.get(name) != value
        },
        appended=() if decoder_start else appended_tokens(tokenizer),
        most_positions=most_positions,
        decoder_start=decoder_start,
        thought_end=ThoughtReader(tokenizer, prepared.thoughts).mark if prepared.thoughts is not None else (),
    )


def _most_new(limit: int, serving: Serving) -> int:
    """Bound an answer as it was in scoring, where a decoder's beginning was given; what the library forces is new."""
    start, most = len(serving.decoder_start), serving.most_positions
    if not start:
        return limit
    return (limit if most is None else max(1, min(limit, most - start + 1))) + start - 1


def _beginning(decoder_start: tuple[int, ...]) -> dict[str, int]:
    """Return the generation settings that make a decoder begin its answers as they were scored."""
    if not decoder_start:
        return {}
    forced = {"forced_bos_token_id": decoder_start[1]} if len(decoder_start) > 1 else {}
    return {"decoder_start_token_id": decoder_start[0], **forced}


def _changes(name: str, value: Any) -> bool:
    return value is not None and not (name in _SAME_ANYWAY and value == _SAME_ANYWAY[name])


def write_serving(
    folder: Path, base: Path, tokenizer: PreTrainedTokenizerBase, prepared: Prepared, serving: Serving
) -> None:
    """Write how it is asked into an exported folder that has the base's tokenizer files.

    That is generation settings and the chat template; without one, a tokenizer that puts nothing behind a prompt
    (:func:`check_served` proves it).
    """
    settings = json_object(base / GENERATION) if (base / GENERATION).exists() else {}
    bos = settings.get("bos_token_id", tokenizer.bos_token_id)
    scored = {
        **({} if bos is None else {"bos_token_id": bos}),
        "do_sample": False,
        "eos_token_id": list(serving.end_ids),
        "max_new_tokens": _most_new(prepared.max_new_tokens, serving),
        **_beginning(serving.decoder_start),
        "pad_token_id": prepared.pad_id,
    }
    _write_json(folder / GENERATION, scored)
    chat = ChatFormat.find(tokenizer, thinking=prepared.thoughts is not None)
    if chat is not None:
        _write_template(folder, chat.template)
    elif serving.appended:
        stop_appending(folder, tokenizer)


def _write_template(folder: Path, template: str) -> None:
    """Put the one template wherever a library looks for it; named ones and those of processors go."""
    for other in folder.glob("chat_template.*"):
        if other.name != _TEMPLATE:
            other.unlink()
    (folder / _TEMPLATE).write_text(template, encoding="utf-8")
    config = json_object(folder / _CONFIG) if (folder / _CONFIG).exists() else {}
    if "chat_template" in config and config["chat_template"] != template:
        _write_json(folder / _CONFIG, {**config, "chat_template": template})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_served(folder: Path, prepared: Prepared) -> None:
    """Prove that a plain call of the exported tokenizer gives the very tokens that were trained and scored.

    A sample of the validation and test rows is rendered with nothing but ``add_generation_prompt``, or, without a chat
    template, given to the tokenizer as text. Rows whose text spells control tokens have other tokens by intent and are
    left out.

    Raises
    ------
    StageError
        VerificationFailed: it doesn't; ModelInvalid: the tokenizer can't be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise StageError(Reason.MODEL_INVALID, f"the exported tokenizer can't be loaded: {error}") from error
    for row, turns, scored in _sampled(tokenizer, prepared):
        if plain_call(tokenizer, turns, thinking=prepared.thoughts is not None) != scored:
            raise StageError(
                Reason.VERIFICATION_FAILED,
                f"the exported {'chat template' if tokenizer.chat_template else 'tokenizer'} gives row {row} other "
                "tokens than it was scored with",
            )


def _sampled(
    tokenizer: PreTrainedTokenizerBase, prepared: Prepared
) -> Iterator[tuple[int, tuple[Message, ...], list[int]]]:
    """A sample of the validation and test rows that spell no control tokens: number, prompt, and its tokens."""
    control = [token.content for token in tokenizer.added_tokens_decoder.values()]
    for name in ("validation", "test"):
        part, texts = prepared.parts[name], prepared.texts[name]
        for i in row_sample(len(part), _COMPARED_ROWS).tolist() if len(part) else ():
            turns, size = _turns(texts[i]), int(part.prompt_lengths[i])
            # A row that there is no room for has no tokens.
            if size and not any(token in turn.content + turn.more for token in control for turn in turns):
                start = int(part.offsets[i])
                yield int(part.rows[i]), turns, part.tokens[start : start + size].tolist()


def _turns(text: TextRow) -> tuple[Message, ...]:
    return tuple(turn_of(turn) for turn in text.turns) or (Message("user", text.prompt),)
