"""lm-evaluation-harness itself, run over rows of ours: its model class, its task, its metrics.

The harness is handed texts alone and loads the model folder by itself, so that tokens, likelihoods, the choice that is
taken and what counts as right are all its own. Nothing is fetched: rows and model lie here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

__all__ = ["Harness"]

_TASK = "rows"


@dataclass(frozen=True, slots=True)
class Harness:
    """The harness with a model.

    Attributes
    ----------
    own
        Its class of Hugging Face models.
    """

    own: HFLM

    @classmethod
    def load(cls, folder: Path) -> Harness:
        """Let it load a model folder, in 32 bits on the CPU."""
        return cls(HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4))

    def choose(self, rows: Sequence[tuple[str, str]], choices: Sequence[str]) -> list[Mapping[str, Any]]:
        """Ask which of the choices follows each prompt.

        Returns
        -------
        list
            One a row, in order: ``acc`` and ``acc_norm`` (0 or 1), and ``likelihoods`` of the choices.
        """
        _, samples = self._run(rows, "multiple_choice", ["acc", "acc_norm"], choices=list(choices))
        return [{**one, "likelihoods": [float(sum_) for sum_, _ in one["filtered_resps"]]} for one in samples]

    def answers(self, rows: Sequence[tuple[str, str]]) -> list[float]:
        """Return the log-likelihood of each answer to its prompt, of which its ``perplexity`` is exp of minus the mean.

        That mean is one of whole answers, and its exp is more than a float holds for a model with random weights.
        """
        return [float(one["perplexity"]) for one in self._run(rows, "loglikelihood", ["perplexity"])[1]]

    def byte_perplexity(self, texts: Sequence[str]) -> float:
        """Return its perplexity of whole texts, by bytes."""
        results, _ = self._run([("", text) for text in texts], "loglikelihood_rolling", ["byte_perplexity"])
        return float(results["byte_perplexity,none"])

    def _run(
        self, rows: Sequence[tuple[str, str]], kind: str, metrics: list[str], *, choices: list[str] | None = None
    ) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        docs = Dataset.from_list([{"prompt": prompt, "answer": answer} for prompt, answer in rows])
        config: dict[str, Any] = {
            "task": _TASK,
            "custom_dataset": lambda **_: {"test": docs},
            "test_split": "test",
            "output_type": kind,
            "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_target": lambda doc: choices.index(doc["answer"]) if choices else doc["answer"],
            "metric_list": [
                {"metric": name, "aggregation": "weighted_perplexity" if kind.endswith("rolling") else "mean"}
                for name in metrics
            ],
            "metadata": {},
        }
        if choices:
            config["doc_to_choice"] = lambda _: choices
        found = evaluate(self.own, {_TASK: ConfigurableTask(config=config)}, bootstrap_iters=0)
        assert found is not None
        samples = sorted(found["samples"][_TASK], key=lambda one: one["doc_id"])
        return found["results"][_TASK], samples
