"""From the spec to encoded rows: fetch the tokenizer and the files, and prepare them. Shared by both stages.

Nothing is stored here: rows that only decide whether an earlier result can be reused never leave the scratch folder.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_api.reasons import Reason
from finetune_api.status import Resolved, ResolvedSplit
from finetune_trainer.errors import StageError
from finetune_trainer.job.context import Work
from finetune_trainer.job.scorable import check_scorable
from finetune_trainer.model.continued import base_warning, check_base, continued
from finetune_trainer.model.kinds import decoder_start
from finetune_trainer.model.limits import (
    check_dropout,
    check_layers,
    check_length,
    check_tokens,
    length_warning,
    limits_of,
    read_config,
    tokenizer_warning,
)
from finetune_trainer.output.appended import check_can_stop
from finetune_trainer.output.snippet import base_name
from finetune_trainer.prepare.folder import PREPARED
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.storage.adapterfiles import FetchedAdapter, fetch_adapter
from finetune_trainer.storage.fetch import FetchedModel, fetch_model
from finetune_trainer.storage.modelfiles import check_no_code
from finetune_trainer.storage.rowfiles import check_unchanged, content_digests
from finetune_trainer.storage.rows import fetch_dataset
from finetune_trainer.storage.templatefile import fetch_template

__all__ = ["bring_adapter", "check_adapter", "fetch_tokenizer", "load_tokenizer", "prepare_rows", "resolved_of"]


def fetch_tokenizer(work: Work) -> FetchedModel:
    """Bring the tokenizer here, and resolve the revision of the model that it belongs to."""
    with work.console.step("fetch_tokenizer", "fetch the tokenizer") as progress:
        return fetch_model(
            work.spec.model, access=work.access, folder=work.folder / "model", progress=progress, weights=False
        )


def bring_adapter(work: Work, *, pinned_revision: str | None = None) -> FetchedAdapter | None:
    """Bring the adapter of the job here; None where it has none."""
    adapter = work.spec.model.adapter
    if adapter is None:
        return None
    with work.console.step("fetch_adapter", "fetch the adapter") as progress:
        return fetch_adapter(
            adapter,
            access=work.access,
            folder=work.folder / "given_adapter",
            progress=progress,
            pinned_revision=pinned_revision,
        )


def check_adapter(work: Work, model: FetchedModel, adapter: FetchedAdapter | None) -> None:
    """Hold the adapter of the job against its spec and its base, before any row is read.

    Raises
    ------
    StageError
        InvalidSpec, ModelInvalid.
    """
    if adapter is None:
        return
    uri = work.spec.model.uri
    lora = continued(work.spec.training, adapter).lora
    config = read_config(model.folder)
    check_base(adapter, config, model.shapes, base=uri)
    check_dropout(config, lora)
    if (warning := base_warning(adapter, base_name(uri), uri)) is not None:
        work.console.event("adapter_base", warning, level="warning")


def prepare_rows(work: Work, model: FetchedModel) -> Prepared:
    """Fetch the rows, encode them with the model's tokenizer, and hold model and rows against each other and the spec.

    They lie in ``work.folder / PREPARED``.
    """
    check_no_code(model.folder)
    config = read_config(model.folder)
    limits = limits_of(config)
    check_layers(config, model.tensors)
    check_dropout(config, work.spec.training.lora)
    tokenizer = load_tokenizer(model.folder, work.spec.model.uri)
    apart = bool(decoder_start(model.folder, config, tokenizer))
    if not apart:
        check_can_stop(model.folder, tokenizer)
    check_length(limits, work.spec.training.max_length)
    template = fetch_template(
        work.spec.dataset.template,
        own=work.stage_input.template,
        access=work.access,
        folder=work.folder,
        kept=work.stage_input.template_source,
    )
    with work.console.step("fetch_rows", "fetch the rows") as progress:
        files = fetch_dataset(work.spec.dataset, access=work.access, folder=work.folder / "rows", progress=progress)
    if work.on_inputs is not None:
        work.on_inputs(content_digests(files, work.spec.dataset), model.revision)
    prepared = prepare(
        spec=work.spec,
        files=files,
        tokenizer=tokenizer,
        folder=work.folder / PREPARED,
        template_source=template,
        encoder_decoder=apart,
        step=work.console.step,
    )
    check_unchanged(files)
    check_scorable(prepared)
    check_tokens(limits, prepared, tokenizer)
    for event, warning in (
        ("tokenizer_larger", tokenizer_warning(limits, tokenizer)),
        ("rows_longer", length_warning(limits, prepared)),
    ):
        if warning is not None:
            work.console.event(event, warning, level="warning")
    work.console.event("dataset", **{**prepared.summary.to_wire(), "metric": prepared.metric})
    return prepared


def load_tokenizer(folder: Path, place: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; code that the folder brings along is never run.

    Raises
    ------
    StageError
        UnsafeModel, ModelInvalid.
    """
    check_no_code(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: the tokenizer of {place} can't be loaded: {' '.join(str(error).split())[:300]}",
        ) from error
    return tokenizer


def resolved_of(
    work: Work, prepared: Prepared, *, model_revision: str, adapter_revision: str | None = None
) -> Resolved:
    """Return what prepare chose where the spec left a choice."""
    choices = prepared.choice_sets[0].texts if len(prepared.choice_sets) == 1 else None
    percents = prepared.percents or work.spec.dataset.percents
    return Resolved(
        method=work.spec.training.method,
        metric=prepared.metric,
        stop=list(prepared.stop) or None,
        split=ResolvedSplit(
            train_percent=percents.train, validation_percent=percents.validation, test_percent=percents.test
        ),
        choices=len(choices) if choices else None,
        template_digest=prepared.template_digest,
        image=work.stage_input.image,
        model_revision=model_revision,
        adapter_revision=adapter_revision,
    )
