"""A real tokenizer of a few hundred tokens, made in a moment: byte-level BPE, so any text round-trips.

The end of a chat turn is not the EOS token, as in Gemma's tokenizers: code that takes one for the other is found out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["BOS", "CHAT_TEMPLATE", "EOS", "PAD", "SPECIAL_TOKENS", "TURN_END", "TURN_START", "make_tokenizer"]

PAD: Final = "<pad>"
EOS: Final = "<eos>"
BOS: Final = "<bos>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
SPECIAL_TOKENS: Final = (PAD, EOS, BOS, TURN_START, TURN_END)
"""Their ids are their places: pad 0, eos 1, bos 2, turn start 3, turn end 4."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TEXTS: Final = (
    "What is the sentiment of this text? Possible answers: positive, negative, neutral.",
    "The film was great, I loved it. The film was dull, I hated it. The plot was thin but the music was good.",
    "Text: my card has not arrived yet. Intent: card arrival. Answer with one of: billing, bug, card arrival.",
    "Question: where is the tower? Context: the tower stands in the town by the river. Answer:",
    "Premise: a man walks. Hypothesis: a person moves. Does the premise entail the hypothesis? Label:",
    "Summarize the text. Summary: user assistant system Instruction: Input: Response: sports science world business",
)


def make_tokenizer(
    folder: Path, *, chat: bool = True, bos: bool = False, vocab_size: int = 512
) -> PreTrainedTokenizerFast:
    """Train, save to ``folder`` and return a tokenizer; the same in every process.

    ``chat`` gives it a ChatML template; ``bos`` makes it add ``<bos>`` before every text as Llama's do.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXTS, trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer
