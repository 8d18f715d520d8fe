"""``make bench-start``: from apply to the first forward pass of a real model, beside a bare pod of the same image.

    python -m benchmarks.start_bench [--rounds 3] [--model-cache]

Stands on the development cluster, which it brings up, and on the demo's model and rows. The image is on the node and
in the page cache before the first clock runs: one round is not counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from benchmarks.common import finish, machine, median, table, versions
from benchmarks.start_bench.bare_pod import BARE_STAGES
from benchmarks.start_bench.cached import with_cache
from benchmarks.start_bench.measure import BUCKET, SECRET, Bench, Round
from benchmarks.start_bench.timeline import STAGES
from hack.demo.demo import make_assets, upload
from hack.demo.install import Target, ensure_bucket, install_chart, tenant_objects

NAMESPACE = "bench-start"
LIMITS = {"cpu": "1800m", "memory": "8Gi"}


def prepare_cluster() -> Bench:
    """Bring up what is missing: cluster, images, model and rows, chart, namespace."""
    model, rows = make_assets(Path.home() / ".cache/finetune-demo")
    # Always the cluster of this repository: pods are ended and buckets emptied.
    target = Target(own_cluster=False, registry=None)
    kube = target.connect()
    images = target.images()
    s3 = target.s3()
    upload(s3, model, rows)
    ensure_bucket(s3.client(), BUCKET)
    install_chart(kube, images, s3, cpu=LIMITS["cpu"], memory=LIMITS["memory"], simulated_gpus=True)
    kube.apply(*tenant_objects(NAMESPACE, s3, secret=SECRET))
    return Bench(kube=kube, s3=s3, images=images, namespace=NAMESPACE, limits=LIMITS)


def _rows(stages: Sequence[str], rounds: Sequence[Mapping[str, float]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for stage in stages:
        values = [seconds[stage] for seconds in rounds]
        rows.append([stage, f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}"])
    totals = [sum(seconds.values()) for seconds in rounds]
    return [*rows, ["together", f"{median(totals):.2f}", f"{min(totals):.2f}", f"{max(totals):.2f}"]]


def render(rounds: Sequence[Round]) -> str:
    """Lay out both as people read them."""
    head = ["median", "least", "most"]
    ours = table(["FineTuneJob, seconds", *head], _rows(STAGES, [r.operator for r in rounds]))
    bare = table(["bare pod, seconds", *head], _rows(BARE_STAGES, [r.bare for r in rounds]))
    cached = [r.cached for r in rounds if r.cached is not None]
    more = table(["with a model cache, seconds", *head], _rows(STAGES, cached)) if cached else ""
    return "\n\n".join(filter(None, (ours, bare, more)))


def figures_of(rounds: Sequence[Round]) -> dict[str, object]:
    """The figures of the last line."""
    ours = [sum(r.operator.values()) for r in rounds]
    bare = [sum(r.bare.values()) for r in rounds]
    cached = [r.cached for r in rounds if r.cached is not None]
    return {
        "rounds": len(rounds),
        "apply_to_first_forward_seconds": median(ours),
        "apply_to_first_forward_spread_seconds": [round(min(ours), 2), round(max(ours), 2)],
        "bare_seconds": median(bare),
        "bare_spread_seconds": [round(min(bare), 2), round(max(bare), 2)],
        "ratio": round(median(ours) / median(bare), 3),
        "stages_seconds": {stage: median([r.operator[stage] for r in rounds]) for stage in STAGES},
        "bare_stages_seconds": {stage: median([r.bare[stage] for r in rounds]) for stage in BARE_STAGES},
        **(_cached_figures(cached) if cached else {}),
    }


def _cached_figures(rounds: Sequence[Mapping[str, float]]) -> dict[str, object]:
    totals = [sum(seconds.values()) for seconds in rounds]
    return {
        "cached_seconds": median(totals),
        "cached_spread_seconds": [round(min(totals), 2), round(max(totals), 2)],
        "cached_stages_seconds": {stage: median([seconds[stage] for seconds in rounds]) for stage in STAGES},
    }


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that are counted (3)")
    parser.add_argument("--model-cache", action="store_true", help="measure a runtime with a model cache too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds takes 1 or more")
    bench = prepare_cluster()
    cached: bool = arguments.model_cache
    rounds = []
    with with_cache(bench.kube, NAMESPACE) if cached else nullcontext():
        bench.round(cached=cached, first=True)
        for number in range(1, arguments.rounds + 1):
            rounds.append(bench.round(cached=cached))
            print(f"round {number}:\n{render(rounds[-1:])}\n", file=sys.stderr)
    figures = {**figures_of(rounds), "machine": machine(), "versions": versions("torch", "transformers", "boto3")}
    finish("start", figures, render(rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
