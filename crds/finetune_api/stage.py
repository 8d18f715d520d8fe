"""What a stage is told: the one document that travels from the operator into the pod, as an environment variable.

It holds no secret: credentials are mounted by kubelet. The trainer builds the same document itself in a local run.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_api.base import ApiModel, Digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName
from finetune_api.runtime import ModelCache, ResolvedStorage
from finetune_api.templates import RuntimeTemplate

__all__ = ["JobIdentity", "StageInput"]


class JobIdentity(ApiModel):
    """Which FineTuneJob a stage works for."""

    namespace: str = Field(max_length=63, description="Namespace, empty in a local run.")
    name: str = Field(max_length=63, description="Name.")
    uid: str = Field(max_length=64, description="UID; owner of the output folder.")


class StageInput(ApiModel):
    """All that a stage needs besides credentials."""

    version: Literal[1] = Field(1, description="Version of this document.")
    stage: StageName = Field(description="Which stage to run.")
    includes_prepare: bool = Field(False, description="True for the single stage of a CPU job: train prepares too.")
    job: JobIdentity = Field(description="Whose stage it is.")
    spec: FineTuneJobSpec = Field(description="The job's spec as the API server stored it.")
    spec_digest: Digest | None = Field(
        None,
        description="Digest of the spec by the operator, given back in the report.",
    )
    output_uri: str = Field(max_length=1024, description="Where the results go.")
    storage: ResolvedStorage = Field(ResolvedStorage(), description="How the stores are reached.")
    template: RuntimeTemplate | None = Field(None, description="The runtime's template that the spec names.")
    template_source: str | None = Field(
        None, description="Text of the file that dataset.template names, in a rerun; absent: it is read there."
    )
    model_cache: ModelCache | None = Field(None, description="The volume that keeps weights is mounted.")
    prepared_digest: Digest | None = Field(None, description="Digest that prepare reported; train checks it.")
    grace_seconds: int | None = Field(
        None, ge=1, description="Seconds between SIGTERM and SIGKILL; state has to be saved in them."
    )
    stall_seconds: int | None = Field(
        None, ge=1, description="Seconds without any sign of progress after which the stage ends as Stalled."
    )
    short_report: bool = Field(
        False, description="Report in at most 700 bytes, because an earlier report did not arrive whole."
    )
    simulated_gpus: bool = Field(False, description="The CPU computes in place of a GPU that nothing backs.")
    image: str | None = Field(None, max_length=512, description="The image that runs, for the manifest.")
