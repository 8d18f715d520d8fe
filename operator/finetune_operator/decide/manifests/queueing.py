"""Which queue of Kueue a stage's Job stands in, and how the Job says so.

Pure. Kueue takes a Job that has its label and is suspended, and sets ``spec.suspend`` to false where it admits it. From
its creation on that field and the pod template are Kueue's: whoever writes them too starts pods that nobody has
admitted, or ends those that somebody has. So a Job is never moved to another queue; the next one of its stage stands
there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from finetune_api import GROUP
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName
from finetune_api.runtime import ResolvedRuntime

__all__ = ["ANNOTATION_QUEUE", "LABEL_PRIORITY", "LABEL_QUEUE", "Queue", "queue_of"]

LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label of a Job with the LocalQueue that it stands in."""

LABEL_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
"""Label of a Job with its WorkloadPriorityClass."""

ANNOTATION_QUEUE: Final = f"{GROUP}/queue"
"""Annotation of a Job with the queue that the operator made it for: Kueue and policies may write the labels."""


class Queue(NamedTuple):
    """A LocalQueue, and the WorkloadPriorityClass of what stands in it."""

    name: str
    priority: str | None = None

    def __str__(self) -> str:
        return self.name if self.priority is None else f"{self.name}/{self.priority}"

    @property
    def labels(self) -> dict[str, str]:
        """What Kueue reads of a Job."""
        return {LABEL_QUEUE: self.name} | ({LABEL_PRIORITY: self.priority} if self.priority else {})


def queue_of(spec: FineTuneJobSpec, runtime: ResolvedRuntime, stage: StageName) -> Queue | None:
    """Return the queue of a stage's Job; None where nothing has to admit it."""
    if spec.queue_name is None:
        return None
    name = (runtime.prepare_queue_name if stage == "prepare" else None) or spec.queue_name
    return Queue(name, spec.workload_priority_class_name)
