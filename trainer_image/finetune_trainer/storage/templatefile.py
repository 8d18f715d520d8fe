"""Brings the text that ``dataset.template`` names here.

A file is read with the dataset's credentials; the text of a runtime's own template came with the stage's input.
"""

from __future__ import annotations

from pathlib import Path

from finetune_api.job import Template
from finetune_api.reasons import Reason
from finetune_api.templates import LIBRARY, RuntimeTemplate
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import literal_key
from finetune_trainer.storage.files import bytes_progress

__all__ = ["MAX_BYTES", "fetch_template"]

MAX_BYTES = 4 * 2**20
"""The largest file of the published collection has 0.3 MB."""


def fetch_template(
    template: Template, *, own: RuntimeTemplate | None, access: Access, folder: Path, kept: str | None = None
) -> str | None:
    """Return the text of the file, or of the runtime's template; None where the template names neither.

    Parameters
    ----------
    own
        The runtime's template that the job names.
    kept
        The file's text as it was when the job ran first; it is not read then.

    Raises
    ------
    StageError
        TemplateInvalid: there is no such file, it is too large, or no text in UTF-8; AccessDenied, StorageUnavailable,
        InvalidSpec.
    """
    if template.name is not None and template.name not in LIBRARY:
        if own is None or own.name != template.name:
            raise StageError(
                Reason.INVALID_SPEC, f"dataset.template.name: {template.name} is no template of the library"
            )
        return own.document
    if template.file is None or kept is not None:
        return kept
    field, uri = template.file
    try:
        store, key = access.open_file("dataset", uri, field)
    except StageError as error:
        if not field.endswith("configMapRef") or error.reason is not Reason.INVALID_SPEC:
            raise
        raise StageError(
            error.reason,
            f"{field}: a ConfigMap is there in the pods of a cluster alone; in a local run give the text in "
            "dataset.template.inline, or promptsource.uri",
            tells_mend=True,
        ) from error
    size = store.size(key)
    if size is None:
        raise StageError(Reason.TEMPLATE_INVALID, f"{field}: there is no file at {uri}{literal_key(uri)}")
    if size > MAX_BYTES:
        raise StageError(
            Reason.TEMPLATE_INVALID, f"{field}: {uri} has {size} bytes, more than the {MAX_BYTES} of any such file"
        )
    path = folder / "template"
    path.parent.mkdir(parents=True, exist_ok=True)
    store.get_file(key, path, bytes_progress(no_progress, size))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(Reason.TEMPLATE_INVALID, f"{field}: {uri} is no text in UTF-8") from error
