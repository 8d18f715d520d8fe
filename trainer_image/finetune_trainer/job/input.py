"""Builds what a stage is told: from the operator's environment variable, or from a FineTuneJob file in a local run.

Both end in the same :class:`~finetune_api.stage.StageInput`, so that everything behind it is the same code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from finetune_api import API_VERSION, JOB_KIND
from finetune_api.digest import digest_of, spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.kube_yaml import RepeatedKeyError, load_yaml
from finetune_api.names import ENV_STAGE_INPUT, StageName
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_api.stage import JobIdentity, StageInput
from finetune_api.templates import LIBRARY
from finetune_trainer.errors import StageError

__all__ = ["local_input", "local_storage", "stage_input_from_environment"]

_MESSAGES: Final = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not a field of a FineTuneJob; correct its name or remove it",
}


def stage_input_from_environment(stage: StageName, variables: Mapping[str, str] = os.environ) -> StageInput:
    """Read what the operator tells the pod.

    Raises
    ------
    StageError
        InvalidSpec: the variable is absent, damaged or for another stage; the operator and this image don't fit.
    """
    text = variables.get(ENV_STAGE_INPUT)
    if text is None:
        raise StageError(
            Reason.INVALID_SPEC,
            f"{ENV_STAGE_INPUT} is not set; 'stage' runs in a pod of the operator, use 'run job.yaml' elsewhere",
        )
    try:
        stage_input = StageInput.model_validate_json(text)
    except ValidationError as error:
        raise StageError(Reason.INVALID_SPEC, f"{ENV_STAGE_INPUT}: {_explain(error)}") from None
    if stage_input.stage != stage:
        raise StageError(Reason.INVALID_SPEC, f"{ENV_STAGE_INPUT} is for stage {stage_input.stage}, not {stage}")
    return stage_input


def local_input(path: Path, variables: Mapping[str, str] = os.environ, *, needs_output: bool = True) -> StageInput:
    """Read a FineTuneJob file for a run without Kubernetes.

    Its YAML is read as kubectl reads it, so that what runs here can be applied too; a key that stands twice is refused.
    ``metadata.namespace`` means nothing here: the folder at output.uri belongs to the file, not to a job of a cluster.
    Parse is strict: a field that doesn't exist is an error, as ``kubectl apply`` would say too. The uid is made of the
    spec and the output, so that a second run of the same file owns what the first one wrote, and an edited file
    doesn't.

    Parameters
    ----------
    variables
        AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and AWS_REGION or AWS_DEFAULT_REGION, stand for the FineTuneRuntime.
    needs_output
        Whether output.uri has to be there.

    Raises
    ------
    StageError
        InvalidSpec, naming every field that is wrong and the mend.
    """
    document = _load(path)
    problems = [
        f"{field} must be {expected!r}, not {document.get(field)!r}"
        for field, expected in (("apiVersion", API_VERSION), ("kind", JOB_KIND))
        if document.get(field) != expected
    ]
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= 63:
        problems.append("metadata.name must be a name of at most 40 characters; add it")
        name = ""
    spec = None
    try:
        spec = FineTuneJobSpec.model_validate(document.get("spec"), extra="forbid", context={"local": True})
    except ValidationError as error:
        problems.append(_explain(error, prefix="spec"))
    output_uri = (spec.output.uri or "") if spec else ""
    if spec and needs_output and not output_uri:
        problems.append("spec.output.uri is missing; a local run has no FineTuneRuntime to take it from")
    named = spec.dataset.template.name if spec else None
    if named is not None and named not in LIBRARY:
        problems.append(
            f"spec.dataset.template.name: {named} is no template of the library{_alike(named)}; those of a "
            "FineTuneRuntime are there in a cluster alone, so give the text in spec.dataset.template.inline"
        )
    if problems or spec is None:
        raise StageError(Reason.INVALID_SPEC, f"{path}: " + "; ".join(problems))
    uid = "local-" + digest_of([spec_digest(spec), output_uri]).removeprefix("sha256:")[:32]
    return StageInput(
        stage="train",
        includes_prepare=True,
        job=JobIdentity(namespace="", name=name, uid=uid),
        spec=spec,
        output_uri=output_uri,
        storage=local_storage(variables),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        documents = [one for one in load_yaml(path.read_text(encoding="utf-8")) if one is not None]
    except OSError as error:
        text = f"{path} can't be read: {error.strerror}; name the YAML file of a FineTuneJob"
        raise StageError(Reason.INVALID_SPEC, text, tells_mend=True) from None
    except RepeatedKeyError as error:
        raise StageError(Reason.INVALID_SPEC, f"{path}: {error}", tells_mend=True) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = f"{path} is not YAML: {' '.join(str(error).split())}; correct it there"
        raise StageError(Reason.INVALID_SPEC, text, tells_mend=True) from None
    jobs = [one for one in documents if isinstance(one, dict) and one.get("kind") == JOB_KIND]
    if len(jobs) == 1:
        return jobs[0]
    if len(documents) == 1 and isinstance(documents[0], dict):
        return documents[0]
    raise StageError(
        Reason.INVALID_SPEC,
        f"{path} holds {len(jobs)} objects of kind {JOB_KIND}; a local run needs exactly one",
        tells_mend=True,
    )


def _alike(name: str) -> str:
    found = get_close_matches(name, LIBRARY, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def local_storage(variables: Mapping[str, str] = os.environ) -> ResolvedStorage:
    """Return how storage is reached without a FineTuneRuntime: as the variables say.

    Raises
    ------
    StageError
        InvalidSpec: a variable says nothing usable.
    """
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or None
    if not (endpoint or region):
        return ResolvedStorage()
    try:
        storage = Storage(prefix="s3://", endpoint=endpoint.rstrip("/") if endpoint else None, region=region)
    except ValidationError as error:
        text = f"environment: {_explain(error)}; correct the variables AWS_ENDPOINT_URL and AWS_REGION"
        raise StageError(Reason.INVALID_SPEC, text, tells_mend=True) from None
    return ResolvedStorage(model=storage, adapter=storage, dataset=storage, output=storage)


def _explain(error: ValidationError, *, prefix: str = "") -> str:
    """Say all that is wrong, each with its field's path as it is written in the file."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False):
        # A union's branches and nested models appear as they are in the file; pydantic's own tags don't.
        place = ".".join(str(part) for part in ([prefix] if prefix else []) + list(problem["loc"]))
        message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        if problem["type"] == "string_type":
            message = _text_wanted(problem["input"])
        parts.append(f"{place}: {message}" if problem["type"] == "value_error" else f"{place} {_verb(message)}")
    return "; ".join(parts)


def _text_wanted(given: object) -> str:
    """Say what is there where text is wanted; YAML makes more of a plain word than one thinks."""
    kinds = {bool: "true or false", int: "a number", float: "a number"}
    kind = kinds.get(type(given))
    return f"must be text, and is {kind} to Kubernetes; write it in quotes" if kind else "must be text"


def _verb(message: str) -> str:
    return message if message.startswith(("is ", "must ")) else f"is wrong: {message}"
