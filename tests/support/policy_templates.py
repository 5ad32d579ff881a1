"""Chat templates as policies have them, cut to what the wire shows: how turns are marked, and what is added or trimmed.

Each is written after the template of the public checkpoint that its name says, without tools and dates of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, Template

CHATML = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"""
QWEN25 = (
    """{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud."""
    """ You are a helpful assistant.<|im_end|>\n' }}{%- endif %}""" + CHATML
)
LLAMA31 = """{{- '<|begin_of_text|>' }}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n' }}
{{- 'Today Date: 26 Jul 2024\n\n' + system + '<|eot_id|>' }}{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""
MISTRAL_V1 = """{{ '<s>' }}{%- for m in messages %}{%- if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}
{%- else %}{{ ' ' + m.content + '</s> ' }}{%- endif %}{%- endfor %}"""
MISTRAL_V7 = """{{ '<s>' }}{%- for m in messages %}
{%- if m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}
{%- elif m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- else %}{{ m.content + '</s>' }}{%- endif %}{%- endfor %}"""
LLAMA2 = """{%- if messages[0].role == 'system' %}
{%- set opening = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{%- set messages = messages[1:] %}
{%- else %}{%- set opening = '' %}{%- endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{{- '<s>' + '[INST] ' + (opening if loop.first else '') + m.content | trim + ' [/INST]' }}
{%- else %}{{ ' ' + m.content | trim + ' </s>' }}{%- endif %}{%- endfor %}"""
GEMMA = """{{ '<bos>' }}{%- for m in messages %}{%- set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif %}"""
DEEPSEEK = """{{ '<\uff5cbegin\u2581of\u2581sentence\uff5c>' }}{%- for m in messages %}
{%- if m.role == 'system' %}{{ m.content }}{%- elif m.role == 'user' %}{{ '<\uff5cUser\uff5c>' + m.content }}
{%- else %}{{ '<\uff5cAssistant\uff5c>' + m.content + '<\uff5cend\u2581of\u2581sentence\uff5c>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\n' }}{%- endif %}"""
ZEPHYR = """{%- for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{%- endif %}"""
PHI4 = """{%- for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{%- endif %}"""


@dataclass(frozen=True)
class Policy:
    """A template, the token its answers end with, whether it takes a system message, and whether contents lose white
    space at their edges on the way (responses too, where the template puts some of its own there)."""

    template: str
    end: str
    system: bool = True
    trims: bool = False
    trims_response: bool = False

    def render(self, messages: list[dict[str, str]], generation_prompt: bool = True) -> str:
        return _compiled(self.template).render(messages=messages, add_generation_prompt=generation_prompt)


@cache
def _compiled(template: str) -> Template:
    return Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)  # as transformers compiles them


POLICIES = {
    "chatml": Policy(CHATML, "<|im_end|>"),
    "qwen2.5": Policy(QWEN25, "<|im_end|>"),
    "llama-3.1": Policy(LLAMA31, "<|eot_id|>", trims=True),
    "mistral-v1": Policy(MISTRAL_V1, "</s>", system=False, trims=True, trims_response=True),
    "mistral-v7": Policy(MISTRAL_V7, "</s>", trims=True, trims_response=True),
    "llama-2": Policy(LLAMA2, "</s>", trims=True, trims_response=True),
    "gemma": Policy(GEMMA, "<end_of_turn>", system=False, trims=True),
    "deepseek": Policy(DEEPSEEK, "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    "zephyr": Policy(ZEPHYR, "</s>", trims=True, trims_response=True),
    "phi-4": Policy(PHI4, "<|im_end|>"),
}
