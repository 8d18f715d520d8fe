"""Loads a tuned model and answers rows; the model folder is the first argument, the rows come as JSON lines on stdin.

Usage, in a copy of the folder at output.uri:

    head -8 predictions.jsonl | python classify.py model/

The rows are lines of predictions.jsonl: {"prompt": ..., "expected": ...}. Everything else is plain transformers.
"""

import json
import os
import sys

from transformers import pipeline

rows = [json.loads(line) for line in sys.stdin]
prompts = [row["prompt"] for row in rows]
generate = pipeline("text-generation", model=sys.argv[1])
answers = generate([[{"role": "user", "content": prompt}] for prompt in prompts], max_new_tokens=16, do_sample=False)

# What all prompts begin with is shown once.
shared = os.path.commonprefix(prompts).rpartition("\n")[0] if len(rows) > 1 else ""  # noqa: RUF071  # no paths: by letters
print(shared)
right = 0
for row, answer in zip(rows, answers, strict=True):
    said = answer[0]["generated_text"][-1]["content"]
    right += said == row["expected"]
    note = "" if said == row["expected"] else f"   (expected: {row['expected']})"
    print(" ".join(row["prompt"][len(shared) :].split()), said + note)
print(f"{right} of {len(rows)} answers are as expected")
