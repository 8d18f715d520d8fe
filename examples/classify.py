"""Loads a tuned model and answers one row; the model folder is the first argument, the row comes as JSON on stdin.

The row is a line of predictions.jsonl: {"prompt": ..., "expected": ...}. Everything else is plain transformers.
"""

import json
import sys

from transformers import pipeline

row = json.loads(sys.stdin.readline())
generate = pipeline("text-generation", model=sys.argv[1])
answer = generate([{"role": "user", "content": row["prompt"]}], max_new_tokens=16, do_sample=False)
print("prompt:  ", row["prompt"])
print("answer:  ", answer[0]["generated_text"][-1]["content"])
print("expected:", row["expected"])
