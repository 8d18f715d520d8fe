"""Chat templates of several kinds, in words of their own: how models are told of tools, and how they think aloud."""

from __future__ import annotations

from typing import Final

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.support.tokenizer_families import FRAME, make_family

__all__ = ["THINKING_TEMPLATES", "TOOL_TEMPLATES", "that_thinks", "with_tools"]

_ASK: Final = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_OFFER: Final = (
    "{% if tools %}<|im_start|>system\nYou can use:{% for t in tools %}\n{{ t | tojson }}{% endfor %}<|im_end|>\n"
    "{% endif %}"
)
_PLAIN: Final = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"

TOOL_TEMPLATES: Final = {
    # Each call between tags that are tokens of their own.
    "tags": _OFFER
    + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<answer>{{ m.content }}</answer><|im_end|>\n"
    "{% elif m.tool_calls %}<|im_start|>assistant\n{{ m.content }}{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": {{ c.function.name | tojson }}, "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% else %}" + _PLAIN + "{% endif %}{% endfor %}" + _ASK,
    # All calls as one list behind a special token; results as JSON strings.
    "list": _OFFER
    + "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>result\n{{ m.content | tojson }}<|im_end|>\n"
    "{% elif m.tool_calls %}<|im_start|>assistant\n[TOOL_CALLS][{% for c in m.tool_calls %}"
    "{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}]<|im_end|>\n{% else %}"
    + _PLAIN
    + "{% endif %}{% endfor %}"
    + _ASK,
    # A single call as bare JSON with another word for its arguments.
    "bare": _OFFER + "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{% set f = m.tool_calls[0].function %}"
    '<|im_start|>assistant\n{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}<|im_end|>\n'
    "{% else %}" + _PLAIN + "{% endif %}{% endfor %}" + _ASK,
    # Takes arguments as JSON text.
    "text": _OFFER + "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{% for c in m.tool_calls %}"
    "{{ 'call ' + c.function.name + '\n' + c.function.arguments + '\n' }}{% endfor %}done<|im_end|>\n"
    "{% else %}" + _PLAIN + "{% endif %}{% endfor %}" + _ASK,
    # An element for each argument.
    "elements": _OFFER
    + "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n{% for c in m.tool_calls %}"
    "<use {{ c.function.name }}>{% for k, v in c.function.arguments.items() %}<{{ k }}>"
    "{{ v if v is string else v | tojson }}</{{ k }}>{% endfor %}</use>{% endfor %}<|im_end|>\n"
    "{% else %}" + _PLAIN + "{% endif %}{% endfor %}" + _ASK,
}
"""Templates that know tools, by what a call looks like."""


def with_tools(template: str = FRAME) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tags around a call are tokens, but not special ones."""
    tokenizer = make_family("byte-level")
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<tool_call>", "</tool_call>")])
    tokenizer.chat_template = template
    return tokenizer


_LAST: Final = "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
_LAST_QUESTION: Final = _LAST + "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
_BARE: Final = "{{ m.content.split('</think>')[-1].lstrip('\n') }}"

THINKING_TEMPLATES: Final = {
    # A key and a switch; earlier thoughts are dropped, and the last turn has a block even where it is empty.
    "switched": _LAST_QUESTION + "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}<think>\n"
    "{{ (m.reasoning_content or '').strip('\n') }}\n</think>\n\n{% endif %}"
    + _BARE
    + "<|im_end|>\n{% else %}"
    + _PLAIN
    + "{% endif %}{% endfor %}"
    + _ASK.removesuffix("{% endif %}")
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # No switch: the generation prompt opens the thought, and the turn that was answered has it whole.
    "opened": _LAST_QUESTION + "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    + _BARE
    + "<|im_end|>\n{% else %}"
    + _PLAIN
    + "{% endif %}{% endfor %}"
    + _ASK.replace("assistant\n", "assistant\n<think>\n"),
    # The same, and thoughts are cut out of all that was answered.
    "cut": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    + _BARE
    + "<|im_end|>\n{% else %}"
    + _PLAIN
    + "{% endif %}{% endfor %}"
    + _ASK.replace("assistant\n", "assistant\n<think>\n"),
    # Knows nothing of thoughts.
    "plain": FRAME,
    # Another key and channels for tags; every thought stays.
    "channels": "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant{% if m.reasoning %}"
    "[THINK]{{ m.reasoning }}[/THINK]{% endif %}[SAY]{{ m.content }}<|im_end|>\n{% else %}"
    + _PLAIN
    + "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
}
"""Templates of models that think before they answer, by how they have it written."""


def that_thinks(template: str, family: str = "byte-level") -> PreTrainedTokenizerFast:
    """Make a tokenizer whose marks of a thought are tokens, some of them special ones."""
    tokenizer = make_family(family)
    tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]", "[SAY]"]})
    tokenizer.chat_template = template
    return tokenizer
