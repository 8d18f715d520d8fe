"""A file of PromptSource as its users have them, with every construct of the format; written for these tests."""

from __future__ import annotations

from typing import Final

__all__ = ["FILE"]

FILE: Final = """\
dataset: tickets
subset: null
templates:
  0b1e5c1a-0000-4000-8000-000000000001: !Template
    answer_choices: refund ||| broken ||| question
    id: 0b1e5c1a-0000-4000-8000-000000000001
    jinja: "What does the customer want?\\n\\n{{text}}\\n\\nOne of {{ answer_choices | join(\\", \\") }}.\\
      \\ |||\\n{{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: by_number
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000002: !Template
    answer_choices: '{{ first }} ||| {{ second }}'
    id: 0b1e5c1a-0000-4000-8000-000000000002
    jinja: '{{ text }}

      Is it {{ answer_choices[0] }} or {{ answer_choices[1] }}?

      |||

      {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages: []
      metrics: [Accuracy]
      original_task: true
    name: of_the_row
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000003: !Template
    answer_choices: null
    id: 0b1e5c1a-0000-4000-8000-000000000003
    jinja: "{% if label == 1 %}\\nWhat is wrong in: {{ text }}\\n|||\\n{{ note }}\\n{% endif %}"
    metadata: !TemplateMetadata
      choices_in_prompt: null
      languages: []
      metrics: [ROUGE, BLEU]
      original_task: false
    name: only_broken
    reference: from a test
  0b1e5c1a-0000-4000-8000-000000000004: !Template
    answer_choices: null
    id: 0b1e5c1a-0000-4000-8000-000000000004
    jinja: '{{ ["Tell", "Say", "Explain"] | choice }} what it is: {{ text }} ||| {{ answers | most_frequent | choice }}'
    metadata: !TemplateMetadata {choices_in_prompt: false, languages: [en], metrics: [Other], original_task: true}
    name: drawn
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000005: !Template
    answer_choices: null
    id: 0b1e5c1a-0000-4000-8000-000000000005
    jinja: '{% set said = [] %}{% for name, value in zip(table.names, table["values"]) %}{% if said.append(name ~
      "=" ~ value) %}{% endif %}{% endfor %}{{ said | join("; ") }} ||| {{ table.names | length }}'
    metadata: !TemplateMetadata {}
    name: zipped
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000006: !Template
    answer_choices: no ||| yes
    id: 0b1e5c1a-0000-4000-8000-000000000006
    jinja: '{{ text }} Urgent? ||| {% if urgent %}{{ answer_choices[-1] }}{% else %}{{ answer_choices[0] }}{% endif %}'
    metadata: !TemplateMetadata {choices_in_prompt: false}
    name: from_the_end
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000007: !Template
    answer_choices: null
    id: 0b1e5c1a-0000-4000-8000-000000000007
    jinja: "Repeat: {{ text }} ||| {{ text }}"
    name: twice
    reference: ''
  0b1e5c1a-0000-4000-8000-000000000008: !Template
    answer_choices: null
    id: 0b1e5c1a-0000-4000-8000-000000000008
    jinja: "Once more: {{ text }} ||| {{ text }}"
    name: twice
    reference: ''
"""
