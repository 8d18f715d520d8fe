"""``FineTuneJob.spec.dataset``: the rows, how they are cut and how they become prompts.

Split from :mod:`finetune_api.job` for size; :mod:`finetune_api.sources` says where the rows lie.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from finetune_api.base import ConfigMapKey, Digest, Rule, SecretRef, SpecModel
from finetune_api.sources import ROWS, Column, DatasetFiles, DatasetSource, Uri, own_parts, uri_rule
from finetune_api.templates import TEMPLATE_FIELDS, WORDLESS_TEMPLATES, TemplateKey, TemplateName
from finetune_api.uris import HUB_ROWS, PLACED_URI, ROWS_URI

__all__ = [
    "BadRows",
    "Dataset",
    "DatasetFiles",
    "DatasetSource",
    "Encoding",
    "InlineTemplate",
    "Messages",
    "Percents",
    "PromptSource",
    "Split",
    "Template",
    "Uri",
    "uri_rule",
]

Encoding = Literal[
    "UTF-8",
    "UTF-16",
    "UTF-16LE",
    "UTF-16BE",
    "UTF-32",
    "Windows-1250",
    "Windows-1251",
    "Windows-1252",
    "Windows-1254",
    "ISO-8859-1",
    "ISO-8859-2",
    "ISO-8859-15",
    "KOI8-R",
    "Shift_JIS",
    "EUC-JP",
    "EUC-KR",
    "GB18030",
    "Big5",
]
"""Names of the IANA registry that Python knows too."""


class InlineTemplate(SpecModel):
    """A prompt template of the user's own, in sandboxed Jinja."""

    prompt: str = Field(min_length=1, max_length=8192, description="Jinja text; the columns of the row are variables.")
    completion: str = Field(min_length=1, max_length=8192, description="Jinja text of the expected answer.")


class Messages(SpecModel):
    """What is learned of a conversation."""

    learn: Literal["All", "Last"] = Field(
        "All",
        description="All answers of a conversation are learned, but those with weight 0, or the last alone. "
        "Validation and test score the last.",
    )
    tools: Column | None = Field(
        None,
        description="The column with the tools that a row offers. Absent: tools or functions, where there is one.",
    )
    thinking: Literal["Keep", "Drop"] = Field(
        "Keep",
        description="Keep learns what is thought before an answer together with it, Drop the answers alone. "
        "Scored is the answer.",
    )


class PromptSource(SpecModel):
    """A prompt out of a file of PromptSource, which stays as it is."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule(
            "uri", PLACED_URI, "dataset.template.promptsource.uri", example="s3://bucket/templates.yaml", optional=True
        ),
        Rule(
            cel="has(self.uri) != has(self.configMapRef)",
            message="dataset.template.promptsource needs exactly one of uri and configMapRef",
            check=lambda p: (p.uri is None) != (p.config_map_ref is None),
        ),
    )

    uri: Uri | None = Field(
        None, description="The file, such as s3://bucket/templates.yaml; read with dataset.credentialsRef."
    )
    config_map_ref: ConfigMapKey | None = Field(None, description="The key of a ConfigMap that holds the file.")
    name: str = Field(min_length=1, max_length=253, description="Name of the prompt in it, or its id.")


def _fields_of(name: TemplateName, fields: tuple[str, ...]) -> Rule:
    """Refuse columns for fields that a template hasn't; by lookups, which cost the same however long a key is."""
    known = " and ".join(filter(None, (", ".join(fields[:-1]), fields[-1])))
    return Rule(
        cel=f"!has(self.columns) || !has(self.name) || self.name != '{name}' || "
        f"size(self.columns) == {list(fields)}.filter(f, f in self.columns).size()",
        message=f"dataset.template.columns names a field that template {name} does not have; its fields are {known}",
        check=lambda t: t.columns is None or t.name != name or set(t.columns) <= set(fields),
        field="columns",
    )


class Template(SpecModel):
    """How a row becomes a prompt and an expected completion."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.messages) || (has(self.name) && self.name == 'messages')",
            message="dataset.template.messages belongs to the template messages; remove it, or set name: messages",
            check=lambda t: t.messages is None or t.name == "messages",
            field="messages",
        ),
        Rule(
            cel="(has(self.name) ? 1 : 0) + (has(self.inline) ? 1 : 0) + (has(self.promptsource) ? 1 : 0) + "
            "(has(self.configMapRef) ? 1 : 0) == 1",
            message="dataset.template needs exactly one of name, inline, promptsource and configMapRef",
            check=lambda t: sum(x is not None for x in (t.name, t.inline, t.promptsource, t.config_map_ref)) == 1,
        ),
        Rule(
            cel="!has(self.choices) || self.choices.all(c, self.choices.exists_one(d, d == c))",
            message="dataset.template.choices must not repeat a choice; remove the duplicate",
            check=lambda t: t.choices is None or len(set(t.choices)) == len(t.choices),
            field="choices",
        ),
        Rule(
            cel="!has(self.columns) || has(self.name) || has(self.configMapRef)",
            message="dataset.template.columns belongs to a template with fields; remove it, inline and promptsource "
            "use the columns' own names",
            check=lambda t: t.columns is None or t.name is not None or t.config_map_ref is not None,
            field="columns",
        ),
        Rule(
            cel="self.paraphrases == 'Default' || has(self.configMapRef) || "
            f"(has(self.name) && !(self.name in {list(WORDLESS_TEMPLATES)}))",
            message="dataset.template.paraphrases All needs a template that has several wordings; remove it",
            check=lambda t: (
                t.paraphrases == "Default"
                or t.config_map_ref is not None
                or (t.name is not None and t.name not in WORDLESS_TEMPLATES)
            ),
            field="paraphrases",
        ),
        *(_fields_of(name, fields) for name, fields in TEMPLATE_FIELDS.items()),
    )

    name: TemplateKey | None = Field(
        None, description="A template of the library, for example intent, or one of the FineTuneRuntime's templates."
    )
    inline: InlineTemplate | None = Field(None, description="A template of your own.")
    config_map_ref: ConfigMapKey | None = Field(
        None, description="A template document of your own, in the form of the library's, out of a ConfigMap."
    )
    promptsource: PromptSource | None = Field(None, description="A prompt out of a file of PromptSource.")
    messages: Messages | None = Field(None, description="Settings of the template messages.")
    columns: dict[str, Column] | None = Field(
        None,
        max_length=16,
        description="Maps the template's fields to columns of the data, for example text: utterance.",
    )
    choices: list[Annotated[str, Field(min_length=1, max_length=128)]] | None = Field(
        None,
        min_length=2,
        max_length=256,
        description="The possible answers. Absent: from the template, else the label set found in train, else none.",
    )
    paraphrases: Literal["Default", "All"] = Field(
        "Default",
        description="All words the prompt of each train row in one of the template's ways, chosen by split.seed and "
        "the row; validation and test rows have the default one.",
    )

    @property
    def learns_all(self) -> bool:
        """Whether every answer of a conversation is learned."""
        return (self.messages or Messages()).learn == "All"

    @property
    def file(self) -> tuple[str, str] | None:
        """The field that names a file with the template, and the file's URI; None where none does."""
        if self.config_map_ref is not None:
            return "dataset.template.configMapRef", self.config_map_ref.uri
        if self.promptsource is None:
            return None
        if self.promptsource.config_map_ref is not None:
            return "dataset.template.promptsource.configMapRef", self.promptsource.config_map_ref.uri
        return "dataset.template.promptsource.uri", self.promptsource.uri or ""


class Percents(NamedTuple):
    """Shares of the rows, in percent; together 100."""

    train: int
    validation: int
    test: int


class Split(SpecModel):
    """How the rows are cut into train, validation and test. Columns are those of the data, before templating."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(!has(self.trainPercent) && !has(self.validationPercent) && !has(self.testPercent)) || "
            "(has(self.trainPercent) ? self.trainPercent : 0) + "
            "(has(self.validationPercent) ? self.validationPercent : 0) + "
            "(has(self.testPercent) ? self.testPercent : 0) == 100",
            message="dataset.split.trainPercent, validationPercent and testPercent must add up to 100; one that is "
            "left out beside another counts as 0, and all may be left out",
            check=lambda s: not s.has_percents or sum(s.given_percents) == 100,
        ),
        Rule(
            cel="!has(self.orderBy) || !has(self.stratifyBy)",
            message="dataset.split.orderBy cuts by time, which leaves no choice for stratifyBy; remove one of them",
            check=lambda s: s.order_by is None or s.stratify_by is None,
        ),
    )

    train_percent: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Share of the rows to learn from. With all three percents absent: 80/10/10; 90 beside one of "
        "files.validation and files.test, and 10 for the other; 100 beside both.",
    )
    validation_percent: int | None = Field(
        None, ge=0, le=98, description="Share of the rows to watch during training. Absent or 0 with files.validation."
    )
    test_percent: int | None = Field(
        None, ge=0, le=98, description="Share of the sealed rows. Absent or 0 with files.test, and only then."
    )
    seed: int = Field(42, ge=0, le=2147483647, description="Another seed gives another split.")
    stratify_by: Column | None = Field(None, description="Keep the shares of this column's values equal in all parts.")
    group_by: Column | None = Field(None, description="Rows with the same value here stay in one part.")

    by: Column | None = Field(
        None,
        description="Column that says train, validation or test of each row.",
    )
    order_by: Column | None = Field(
        None,
        description="Column of numbers or ISO dates; the newest rows are tested.",
    )

    @property
    def given_percents(self) -> tuple[int, int, int]:
        """Percents of train, validation and test as they are given, absent ones as 0."""
        return self.train_percent or 0, self.validation_percent or 0, self.test_percent or 0

    @property
    def has_percents(self) -> bool:
        """Whether any percent is given."""
        return any(p is not None for p in (self.train_percent, self.validation_percent, self.test_percent))


class BadRows(SpecModel):
    """What to do with rows that can't be used: no JSON, a missing column, an empty completion."""

    policy: Literal["Drop", "Fail"] = Field("Drop", description="Drop counts them; Fail ends the job at the first.")
    max_percent: int = Field(
        5, ge=0, le=100, description="With Drop: more bad rows than this, in the whole or in any one part, end the job."
    )


class Dataset(SpecModel):
    """The rows, how they are cut and how they become prompts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("uri", ROWS_URI, "dataset.uri", example=ROWS, optional=True),
        Rule(
            cel="(has(self.uri) ? 1 : 0) + (has(self.files) ? 1 : 0) + (has(self.sources) ? 1 : 0) == 1",
            message="dataset needs exactly one of uri, files and sources",
            check=lambda d: (d.uri is not None) + (d.files is not None) + (d.sources is not None) == 1,
        ),
        Rule(
            cel="!has(self.uri) || !self.uri.startsWith('https://') || has(self.digest)",
            message="dataset.digest is needed with an https:// URI, since what lies there may change; set it to "
            "sha256: and what sha256sum says of the file",
            check=lambda d: d.uri is None or not d.uri.startswith("https://") or d.digest is not None,
            field="digest",
        ),
        Rule(
            cel="!has(self.digest) || (has(self.uri) && !self.uri.endsWith('/') && !self.uri.startsWith('hf://'))",
            message="dataset.digest belongs to one file in dataset.uri; remove it",
            check=lambda d: d.digest is None or not (d.uri is None or d.uri.endswith("/") or d.uri.startswith("hf://")),
            field="digest",
        ),
        Rule(
            cel="!has(self.files) || !has(self.split.by)",
            message="dataset.split.by needs dataset.uri; dataset.files say themselves which part their rows are for",
            check=lambda d: d.files is None or d.split.by is None,
            field="split.by",
        ),
        Rule(
            cel=f"has(self.split.by) || {own_parts('self')} ? true : (has(self.files) && has(self.files.test)) ? "
            "(!has(self.split.testPercent) || self.split.testPercent == 0) : (has(self.split.testPercent) ? "
            "self.split.testPercent > 0 : (!has(self.split.trainPercent) && !has(self.split.validationPercent)))",
            message="dataset.split.testPercent must be absent or 0 with dataset.files.test, and above 0 without it "
            "where percents are given",
            check=lambda d: (
                d.split.by is not None or d.has_own_parts or (d.percents.test == 0) == bool(d.files and d.files.test)
            ),
            field="split.testPercent",
        ),
        Rule(
            cel="!has(self.files) || !has(self.files.validation) || !has(self.split.validationPercent) || "
            "self.split.validationPercent == 0",
            message="dataset.split.validationPercent must be absent or 0 with dataset.files.validation",
            check=lambda d: not (d.files and d.files.validation) or d.percents.validation == 0,
            field="split.validationPercent",
        ),
    )

    uri: Uri | None = Field(
        None,
        description="All rows: a file such as s3://bucket/rows.jsonl; a folder that ends in '/', whose files are read "
        "in the order of their keys; pvc://claim/path or configmap://name/key of the job's namespace; "
        "https://host/rows.jsonl with digest; or hf://datasets/org/name[/config][@revision][#split].",
    )
    digest: Digest | None = Field(
        None, description="Digest (sha256:...) that the file in uri must have. Needed with https://."
    )
    files: DatasetFiles | None = Field(None, description="Files for data that is split already.")
    sources: list[DatasetSource] | None = Field(
        None, min_length=1, max_length=16, description="Several datasets that are read in this order and mixed."
    )
    format: Literal["Auto", "Jsonl", "Json", "Csv", "Tsv", "Parquet", "Arrow"] = Field(
        "Auto",
        description="Auto goes by the ending of the URI: .jsonl, .json, .csv, .tsv, .parquet, .arrow or .feather, each "
        "also with .gz or .zst behind it.",
    )
    encoding: Encoding | None = Field(
        None, description="Of the text in the files. Absent: UTF-8, or what a byte order mark says."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN, for reading the rows."
    )
    template: Template = Field(description="How a row becomes a prompt and an expected completion.")
    split: Split = Field(Split(), description="How the rows are cut into train, validation and test.")
    near_duplicates: Literal["Report", "Drop"] = Field(
        "Report",
        description="Train rows that nearly repeat a sealed one: Report counts them, Drop leaves them out.",
    )
    bad_rows: BadRows = Field(BadRows(), description="What to do with rows that can't be used.")

    @property
    def has_own_parts(self) -> bool:
        """Whether the parts may be those of a dataset of the hub, which only reading it tells."""
        uris = [self.uri] if self.uri is not None else [source.uri for source in self.sources or ()]
        return any(uri.startswith(HUB_ROWS) and "#" not in uri for uri in uris)

    @property
    def percents(self) -> Percents:
        """How the rows of ``uri``, or of ``files.train``, are cut, with nothing left open."""
        if self.split.has_percents:
            return Percents(*self.split.given_percents)
        validation, test = (
            0 if self.files and given else 10
            for given in ((self.files and self.files.validation), (self.files and self.files.test))
        )
        return Percents(100 - validation - test, validation, test)
