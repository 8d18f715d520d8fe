"""Looks at every answer of the data before the first row is used, and says how the column is read; pure.

Between the rows (``data/table.py`` hands each of them over in its first pass) and :func:`~.fields.project`, which takes
what is found here for every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.text.template.catalog import MESSAGES, PromptTemplate
from finetune_trainer.text.template.fields import field_value, row_choices
from finetune_trainer.text.template.labels import Answers, FoundLabels, GivenChoices, Remark, open_answer
from finetune_trainer.text.template.row_answers import RowAnswers

__all__ = ["AnswerSurvey"]


class AnswerSurvey:
    """The answer column of a template, looked at as a whole."""

    def __init__(self, template: PromptTemplate) -> None:
        fields = {field.name: field for field in template.fields}
        self._answer = fields.get(template.answer or "")
        self._choices = fields.get("choices") if template.choice_source == "row" else None
        self._judge: GivenChoices | FoundLabels | RowAnswers | None = None
        if self._answer is None or template.name == MESSAGES:
            return
        column = self._answer.column
        if template.choices is not None:
            given_by = f"the choices of template {template.name}" if template.own_choices else None
            self._judge = GivenChoices(tuple(c.strip() for c in template.choices), column, given_by)
        elif template.choice_source == "labels":
            self._judge = FoundLabels(column, str(template.name))
        elif self._choices is not None:
            self._judge = RowAnswers(column)

    def add(self, where: str, values: Mapping[str, Any]) -> None:
        """Look at a row; one that lacks its answer or its choices is passed over, it will be a bad row."""
        if self._judge is None or self._answer is None:
            return
        try:
            value = field_value(self._answer, values)
            if isinstance(value, list | dict):
                return
            if isinstance(self._judge, RowAnswers):
                assert self._choices is not None  # noqa: S101  # the judge of rows with choices
                choices, names = row_choices(field_value(self._choices, values), self._choices.column)
                self._judge.add(where, value, choices, names)
            else:
                self._judge.add(where, value)
        except ValueError:
            return

    def judge(self) -> tuple[Answers, Remark | None]:
        """Return how answers are read, and what is worth a word about it.

        Raises
        ------
        StageError
            DatasetInvalid: the column can't be read in one way; names the value and its line.
        """
        if self._judge is None:
            return open_answer, None
        answers = self._judge.judge()
        return answers, self._judge.describe()
