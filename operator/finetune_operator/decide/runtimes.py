"""Resolves a FineTuneRuntime against one job: what the job may do there, and the snapshot that it keeps.

Pure. The snapshot stands in ``status.runtime`` from the first child on. Until a pod of the job has started it follows
the runtime, so that a wrong image is mended where it stands; from then on edits of the runtime have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

from pydantic import ValidationError

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.runtime import FineTuneRuntimeSpec, ModelCache, ResolvedRuntime, ResolvedStorage, Storage
from finetune_api.stage import JobIdentity
from finetune_api.templates import LIBRARY, RuntimeTemplate
from finetune_api.uris import MOUNTED, has_prefix, join_uri, parse_uri
from finetune_operator.decide.manifests.job import MAX_STAGE_INPUT_BYTES, stage_input
from finetune_operator.decide.manifests.mounts import dataset_uris, uris_by_field
from finetune_operator.decide.plan import RuntimeView
from finetune_operator.decide.text import explain, sanitise

__all__ = ["MAX_URI_LENGTH", "Refusal", "deadline_seconds", "resolve_runtime", "runtime_for"]

MAX_URI_LENGTH = 1024
_ANEW = "delete the job and apply it anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why the runtime doesn't take the job; the message names the field and the mend.

    spec can't be edited, so the user's mend is always to apply the job anew; the platform's, in the runtime, lets the
    job that waits go on.
    """

    reason: Reason
    message: str
    pending_timeout_seconds: int | None = None
    """How long the runtime lets a job wait; None where there is no runtime that says so."""


class _RefusedError(Exception):
    """Carries a refusal out of the checks below; never leaves this module."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason=reason, message=sanitise(message))


def runtime_for(
    spec: FineTuneJobSpec,
    job: JobIdentity,
    *,
    view: RuntimeView | None,
    kept: ResolvedRuntime | None,
    begun: bool,
    output_uri: str | None = None,
) -> ResolvedRuntime | Refusal:
    """Return the job's snapshot: the one that it has ``kept``, if it has ``begun``, else that of the runtime as it is.

    A runtime that has gone, or refuses the job by now, leaves a snapshot that was taken as it is. A job that has begun
    and whose snapshot can't be read, since another version took it, gets one anew, with the results where they were
    bound for (``output_uri``).
    """
    if kept is not None and begun:
        return kept
    found = _found(spec, job, view, output_uri if begun else None)
    if kept is None:
        return found
    if isinstance(found, Refusal) or found.model_copy(update={"generation": kept.generation}) == kept:
        return kept
    return found


def _found(
    spec: FineTuneJobSpec, job: JobIdentity, view: RuntimeView | None, output_uri: str | None
) -> ResolvedRuntime | Refusal:
    if view is None:
        name = spec.runtime_ref.name
        return Refusal(reason=Reason.RUNTIME_NOT_FOUND, message=f"FineTuneRuntime {name} does not exist")
    resolved = resolve_runtime(view=view, spec=spec, job=job, output_uri=output_uri)
    if isinstance(resolved, Refusal):
        return resolved
    size = len(stage_input(job=job, spec=spec, runtime=resolved, stage="train").encode())
    if size <= MAX_STAGE_INPUT_BYTES:
        return resolved
    return Refusal(
        reason=Reason.INVALID_SPEC,
        message=f"the spec takes {size} bytes and {MAX_STAGE_INPUT_BYTES} fit into a pod's environment; "
        f"{_ANEW} with a shorter dataset.template (choices or inline)",
    )


def resolve_runtime(
    *, view: RuntimeView, spec: FineTuneJobSpec, job: JobIdentity, output_uri: str | None = None
) -> ResolvedRuntime | Refusal:
    """Return the snapshot of the runtime for this job, or why the runtime refuses it.

    A runtime that can't be read (made for another version) gives ``RuntimeNotFound``, for which a job waits. Where
    ``output_uri`` is given, results go there and not where the spec and the runtime's outputPrefix say.
    """
    try:
        runtime = FineTuneRuntimeSpec.model_validate(view.spec)
    except ValidationError as error:
        return Refusal(
            reason=Reason.RUNTIME_NOT_FOUND,
            message=sanitise(f"FineTuneRuntime {view.name} can't be used: {explain(error)}"),
        )
    try:
        _check_permissions(runtime, spec, job, view.name)
        output = output_uri or _output_uri(runtime, spec, job, view.name)
        return ResolvedRuntime(
            name=view.name,
            generation=max(0, view.generation),
            image=runtime.image,
            image_pull_secrets=runtime.image_pull_secrets,
            prepare=runtime.prepare,
            train=runtime.train,
            gpu_resource_name=runtime.gpu_resource_name,
            simulated_gpus=runtime.simulated_gpus,
            sidecar_injection=runtime.sidecar_injection,
            termination_grace_period_seconds=runtime.termination_grace_period_seconds,
            storage=ResolvedStorage(
                model=_storage(runtime, spec.model.uri),
                adapter=_storage(runtime, spec.model.adapter.uri) if spec.model.adapter else None,
                dataset=_dataset_storage(runtime, spec),
                output=_storage(runtime, output),
            ),
            model_cache=_model_cache(runtime, spec, view.name),
            template=_template(runtime, spec, view.name),
            progress=runtime.progress,
            prepare_queue_name=runtime.prepare_queue_name if spec.queue_name is not None else None,
            output_uri=output,
            active_deadline_seconds=runtime.limits.active_deadline_seconds,
            pending_timeout_seconds=runtime.limits.pending_timeout_seconds,
            stall_timeout_seconds=runtime.limits.stall_timeout_seconds,
        )
    except _RefusedError as error:
        return replace(error.refusal, pending_timeout_seconds=runtime.limits.pending_timeout_seconds)


def deadline_seconds(spec: FineTuneJobSpec, runtime: ResolvedRuntime) -> int:
    """Running seconds that the job has over all stages: its own activeDeadlineSeconds within the runtime's."""
    return min(spec.active_deadline_seconds or runtime.active_deadline_seconds, runtime.active_deadline_seconds)


def _check_permissions(runtime: FineTuneRuntimeSpec, spec: FineTuneJobSpec, job: JobIdentity, name: str) -> None:
    allowed = runtime.allowed_namespaces
    if allowed is not None and job.namespace not in allowed:
        raise _RefusedError(
            Reason.NOT_PERMITTED,
            f"FineTuneRuntime {name} may not be used from namespace {job.namespace}; ask its owner to add the "
            f"namespace to allowedNamespaces, or {_ANEW} with another runtimeRef.name",
        )
    account = spec.service_account_name
    if account is not None and account not in runtime.allowed_service_accounts:
        raise _RefusedError(
            Reason.NOT_PERMITTED,
            f"serviceAccountName {account} is not among allowedServiceAccounts of FineTuneRuntime {name}; ask "
            f"its owner to add it, or {_ANEW} without serviceAccountName",
        )
    limits, resources = runtime.limits, spec.resources
    for field, limit, wanted, most in (
        ("resources.gpusPerNode", "gpusPerNode", resources.gpus_per_node, limits.gpus_per_node),
        ("resources.nodes", "nodes", resources.nodes, limits.nodes),
        (
            "activeDeadlineSeconds",
            "activeDeadlineSeconds",
            spec.active_deadline_seconds or 0,
            limits.active_deadline_seconds,
        ),
    ):
        if wanted > most:
            raise _RefusedError(
                Reason.NOT_PERMITTED,
                f"{field} is {wanted}, and FineTuneRuntime {name} allows at most {most}; ask its owner to raise "
                f"limits.{limit}, or {_ANEW} with at most {most} or another runtimeRef.name",
            )
    if runtime.allowed_uri_prefixes is not None:
        for field, uri in uris_by_field(spec).items():
            if not any(has_prefix(uri, prefix) for prefix in runtime.allowed_uri_prefixes):
                raise _RefusedError(
                    Reason.NOT_PERMITTED,
                    f"{field} {uri} lies below none of the allowedUriPrefixes of FineTuneRuntime {name}; ask "
                    f"its owner to add the prefix, or {_ANEW} with a URI below one of them",
                )


def _output_uri(runtime: FineTuneRuntimeSpec, spec: FineTuneJobSpec, job: JobIdentity, name: str) -> str:
    if spec.output.uri is not None:
        return spec.output.uri
    prefix = runtime.output_prefix
    if prefix is None:
        raise _RefusedError(
            Reason.INVALID_SPEC,
            f"output.uri is needed, because FineTuneRuntime {name} has no outputPrefix; {_ANEW} with a "
            "folder such as s3://bucket/name/",
        )
    uri = join_uri(prefix, job.namespace, job.name + "/")
    if not prefix.startswith("s3://") or len(uri) > MAX_URI_LENGTH:
        raise _RefusedError(
            Reason.INVALID_SPEC,
            f"output.uri is needed, because outputPrefix of FineTuneRuntime {name} is no s3:// folder or too "
            f"long; {_ANEW} with a folder such as s3://bucket/name/",
        )
    return uri


def _model_cache(runtime: FineTuneRuntimeSpec, spec: FineTuneJobSpec, name: str) -> ModelCache | None:
    """The runtime's cache, for a model that is downloaded; nobody gets at its files but through it."""
    cache = runtime.model_cache
    if cache is None:
        return None
    for field, uri in uris_by_field(spec).items():
        parsed = parse_uri(uri)
        if parsed.scheme == "pvc" and parsed.host == cache.claim_name:
            raise _RefusedError(
                Reason.NOT_PERMITTED,
                f"{field} {uri} lies on the volume of modelCache of FineTuneRuntime {name}, whose models are there for "
                f"jobs that may read their source; {_ANEW} with the model's own URI, or with another claim",
            )
    return None if parse_uri(spec.model.uri).scheme in MOUNTED else cache


def _template(runtime: FineTuneRuntimeSpec, spec: FineTuneJobSpec, runtime_name: str) -> RuntimeTemplate | None:
    """The runtime's own template that the job names; None where it names one of the library, or none by name."""
    wanted = spec.dataset.template.name
    if wanted is None or wanted in LIBRARY:
        return None
    own = {template.name: template for template in runtime.templates}
    if wanted in own:
        return own[wanted]
    alike = get_close_matches(wanted, [*own, *LIBRARY], n=1)
    hint = f" (did you mean {alike[0]}?)" if alike else ""
    raise _RefusedError(
        Reason.NOT_PERMITTED,
        f"dataset.template.name {wanted} is none of the library's templates{hint}, and FineTuneRuntime {runtime_name} "
        f"has {'none of its own' if not own else 'only ' + ', '.join(own)}; ask its owner to add it to templates, or "
        f"{_ANEW} with a name that is there",
    )


def _storage(runtime: FineTuneRuntimeSpec, uri: str) -> Storage | None:
    """The entry with the longest prefix that covers ``uri``; None means AWS or the hub."""
    fitting = [entry for entry in runtime.storage if has_prefix(uri, entry.prefix)]
    return max(fitting, key=lambda entry: len(entry.prefix), default=None)


def _dataset_storage(runtime: FineTuneRuntimeSpec, spec: FineTuneJobSpec) -> Storage | None:
    uris = {field: uri for field, uri in dataset_uris(spec).items() if parse_uri(uri).scheme not in MOUNTED}
    found = {field: (parse_uri(uri).scheme, _storage(runtime, uri)) for field, uri in uris.items()}
    # One entry for a role: stores of two schemes fit into it where all but one are the public ones.
    used: dict[str, tuple[str, Storage | None]] = {}
    for field, (scheme, entry) in found.items():
        first, other = used.setdefault(scheme, (field, entry))
        if other != entry:
            raise _in_another_store(field, first)
    own = [(field, entry) for field, entry in used.values() if entry is not None]
    if len(own) > 1:
        raise _in_another_store(own[1][0], own[0][0])
    return own[0][1] if own else None


def _in_another_store(field: str, first: str) -> _RefusedError:
    return _RefusedError(
        Reason.INVALID_SPEC,
        f"{field} lies in another store than {first}; put all files of the dataset into one store, and {_ANEW}",
    )
