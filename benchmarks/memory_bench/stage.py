"""The process that is measured: the prepare stage on the benchmark's files, as a pod runs it but for the storage.

    python -m benchmarks.memory_bench.stage FOLDER

Rows, tokenizer and output lie below FOLDER (``file://``), so no S3 server shares the memory that is counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from finetune_api.job import FineTuneJobSpec
from finetune_api.stage import JobIdentity, StageInput
from finetune_trainer.job.run import exit_code, run_stage
from finetune_trainer.process.console import Console
from finetune_trainer.process.environment import Environment
from finetune_trainer.process.notorch import hide_torch

__all__ = ["stage_input"]


def stage_input(folder: Path) -> StageInput:
    """Return what the operator would tell the pod."""
    spec = {
        "model": {"uri": f"file://{folder}/model/"},
        "dataset": {
            "uri": f"file://{next(folder.glob('rows.*'))}",
            "template": {"name": "topic"},
            "split": {"stratifyBy": "label"},
        },
        "training": {"method": "Full", "maxLength": 512},
        "output": {"uri": f"file://{folder}/out/"},
    }
    return StageInput(
        stage="prepare",
        job=JobIdentity(namespace="bench", name="memory", uid="bench-memory"),
        spec=FineTuneJobSpec.model_validate(spec, extra="forbid", context={"local": True}),
        output_uri=f"file://{folder}/out/",
    )


def main() -> int:
    """Run the stage; its log goes to standard output as JSON lines."""
    hide_torch()  # as `finetune-trainer stage prepare` does
    folder = Path(sys.argv[1])
    environment = Environment(credentials_dir=folder / "no-credentials", work_dir=folder)
    console = Console(job="bench/memory", stage="prepare", stream=sys.stdout, interactive=False)
    return exit_code(run_stage(stage_input(folder), environment=environment, console=console))


if __name__ == "__main__":
    sys.exit(main())
