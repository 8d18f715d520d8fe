"""The card's Python: loads what was exported and answers one prompt as the scores were taken. Pure text."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_api.metrics import CHOICE_METRICS
from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.uris import hub_rows
from finetune_trainer.output.serving import Serving
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.stop import plain_line_ends

__all__ = ["base_name", "hub_id", "snippet"]

_DTYPES = {"Float32": "float32", "BFloat16": "bfloat16"}


def hub_id(uri: str, scheme: str) -> str | None:
    """``org/name`` of a Hub URI, None for any other."""
    if not uri.startswith(scheme) or (scheme == "hf://" and uri.startswith("hf://datasets/")):
        return None
    if (rows := hub_rows(uri)) is not None:
        return rows.repo
    return "/".join(uri.removeprefix(scheme).strip("/").split("/")[:2])


def base_name(uri: str) -> str:
    """What an adapter names as its base: a Hub id, a folder, else the URI itself."""
    if uri.startswith("file://"):
        return str(Path(uri.removeprefix("file://")))
    return hub_id(uri, "hf://") or uri


def snippet(stage_input: StageInput, report: StageReport, *, serving: Serving, prepared: Prepared) -> str:
    """Return a code block that defines ``answer(prompt)``."""
    merged = "model" in {artifact.name for artifact in report.artifacts or []}
    folder = "model/" if merged else "adapter/"
    dtype = f"torch.{_DTYPES.get((report.resolved and report.resolved.precision) or '', 'float32')}"
    choosing = prepared.metric in CHOICE_METRICS
    own = choosing and len(prepared.choice_sets) > 1
    body = _choosing(serving, prepared) if choosing else _generating(serving, prepared)
    uri = stage_input.spec.model.uri
    turns = ", or a list of turns as under `messages`" if serving.chat else ""
    others = ", `choices` the row's as under `choices`" if own else ""
    load = _load_model(folder, dtype) if merged else _load_adapter(folder, dtype, uri)
    if serving.decoder_start:
        load = load.replace("ForCausalLM", "ForSeq2SeqLM")
    if serving.asking.way == "Renamed":
        load = f"from tokenizers import Tokenizer\n{load}"
    return f"""```python
{serving.asking.imports()}import torch
{load}

{serving.asking.code(choices=own, separator=prepared.separator)}


{body}


print(answer("..."{', ["...", "...."]' if own else ""}))
```

`prompt` is a text as `predictions.jsonl` has it under `prompt`{turns}{others}."""


def _load_model(folder: str, dtype: str) -> str:
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}", dtype={dtype}).eval()
"""


def _load_adapter(folder: str, dtype: str, uri: str) -> str:
    rest = f"""model.generation_config = GenerationConfig.from_pretrained("{folder}")  # not the base's
"""
    if base_name(uri) != uri:
        return f"""from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoPeftModelForCausalLM.from_pretrained("{folder}", dtype={dtype}).eval()  # with its base
{rest}"""
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

tokenizer = AutoTokenizer.from_pretrained("{folder}")
base = AutoModelForCausalLM.from_pretrained("path/to/the/base/model", dtype={dtype})
model = PeftModel.from_pretrained(base, "{folder}").eval()
{rest}"""


def _generating(serving: Serving, prepared: Prepared) -> str:
    """Greedy decoding; the text is cut as it was before it was compared."""
    settings, said = "attention_mask=torch.ones_like(asked)", "output[0, asked.shape[1] :]"
    if serving.decoder_start:
        said = f"output[0, {len(serving.decoder_start)} :]"
    elif (most := serving.most_positions) is not None:
        room = f"max(1, min({prepared.max_new_tokens}, {most + 1} - asked.shape[1]))"
        settings = f"{settings}, max_new_tokens={room}"
    cuts = ""
    for stop in dict.fromkeys(map(plain_line_ends, prepared.stop)):
        text = "text" if stop.strip() else "text.lstrip()"
        cuts += f"    text = {text}.split({json.dumps(stop, ensure_ascii=False)})[0]\n"
    ends = ", ".join(map(str, serving.end_ids))
    of_tokens, of_text = _after_thought(serving, prepared)
    return f"""def answer(prompt):
    asked = torch.tensor([ids(prompt)])
    output = model.generate(asked, {settings})
    said = [token for token in {said}.tolist() if token not in [{ends}]]
{of_tokens}    text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
{of_text}    text = text.replace("\\r\\n", "\\n").replace("\\r", "\\n")
{cuts}    return text.strip()"""


def _after_thought(serving: Serving, prepared: Prepared) -> tuple[str, str]:
    """Lines that leave the answer alone: of its tokens, or of its text; empty where models answer at once."""
    if prepared.thoughts is None:
        return "", ""
    begins, inner = "", "    "
    if opening := prepared.thoughts.opening:
        begins = f"    if tokenizer.decode(said).lstrip().startswith({json.dumps(opening, ensure_ascii=False)}):\n"
        inner = "        "
    if not serving.thought_end:
        closing = json.dumps(prepared.thoughts.closing, ensure_ascii=False)
        return "", f"{begins}{inner}text = text.partition({closing})[2]  # what follows the thought\n"
    end, size = list(serving.thought_end), len(serving.thought_end)
    found = f"{inner}ends = [i + {size} for i in range(len(said)) if said[i : i + {size}] == {end}]\n"
    return f"{begins}{found}{inner}said = said[ends[0] :] if ends else []  # what follows the thought\n", ""


def _choosing(serving: Serving, prepared: Prepared) -> str:
    """The most likely choice, by the tokens that were scored."""
    end = list(prepared.end_ids) if prepared.score_end_tokens else []
    by_length = " / len(choice)" if prepared.metric == "ChoiceAccuracyNorm" else ""
    score = """@torch.no_grad()
def likelihood(asked, tail):
    logits = model(torch.tensor([asked + tail])).logits[0, len(asked) - 1 : -1].float()
    return sum(logits.log_softmax(-1)[range(len(tail)), tail]).item()
"""
    if start := list(serving.decoder_start):
        score = f"""@torch.no_grad()
def likelihood(asked, tail):
    answer = torch.tensor([{start} + tail[:-1]])
    logits = model(torch.tensor([asked]), decoder_input_ids=answer).logits[0, {len(start) - 1} :].float()
    return sum(logits.log_softmax(-1)[range(len(tail)), tail]).item()
"""
    if len(prepared.choice_sets) > 1:
        ends = f" + {end}" if end else ""
        return f"""{score}

def answer(prompt, choices):  # the row's own
    asked = ids(prompt)
    return max(choices, key=lambda choice: likelihood(asked, tail(choice){ends}){by_length})"""
    one = prepared.choice_sets[0]
    lines = "\n".join(
        f"    {json.dumps(text, ensure_ascii=False)}: {[*tokens, *end]},"
        for text, tokens in zip(one.texts, one.ids, strict=True)
    )
    return f"""choices = {{  # with their tokens, as they were scored
{lines}
}}


{score}

def answer(prompt):
    asked = ids(prompt)
    return max(choices, key=lambda choice: likelihood(asked, choices[choice]){by_length})"""
