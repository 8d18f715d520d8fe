"""What the spec of a FineTuneJob may and may not say; part of :mod:`tests.support.cases`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

from finetune_api.dataset import Encoding
from finetune_api.metrics import CHOICE_METRICS, METRICS
from finetune_api.templates import LIBRARY, OPEN_TEMPLATES, TEMPLATE_FIELDS, WORDLESS_TEMPLATES
from finetune_api.trust import WARNING_TYPES
from tests.support.casekit import ABSENT, Case, Edits, Kind, not_yet

__all__ = ["JOB_CASES"]

JOB: Final = Kind("FineTuneJob")
ONE_OF: Final = "dataset needs exactly one of uri, files and sources"


def _uri(
    path: str,
    example: str,
    *,
    with_: Edits | None = None,
    hub: bool = False,
    folder: str = "",
    rows: bool = False,
    web: bool = False,
) -> Iterator[Case]:
    more = with_ or {}
    splits = "#" in example
    another = "another " if splits else ""
    message = f"{path} must be a URI such as {example}, without '..', '?', {another}'#', '\\' or spaces"
    good = ["s3://abc/x/y.z", "s3://a-b.c1/ä/$&+,;=@", "s3://abc/...", "s3://abc/a..b/", "s3://abc/a\u00a0b"]
    good += ["hf://name", "hf://Org-1/name_2.x"] if hub else []
    good += ["pvc://claim/a/b.c", "pvc://a-b.c1/ä/"] if hub or rows else []
    good += ["configmap://a-b.c1/A_b-1.jsonl", "configmap://name/.x"] if rows else []
    if splits:
        good += [
            "hf://datasets/name",
            "hf://datasets/Org-1/name_2.x",
            "hf://datasets/org/name/en-US.2+3",
            "hf://datasets/org/name@refs/convert/parquet",
            "hf://datasets/org/name/config@v1.0#train",
            "hf://datasets/org/name#train_sft.a",
        ]
    far = ["pvc://claim", "pvc://Claim/x", "pvc:///x", "pvc://claim//x", "pvc://claim/a//b", "pvc://claim/../x"]
    far += ["configmap://name", "configmap://name/", "configmap://name/a/b", "configmap://name/..x", "configmap://-n/x"]
    bad = [
        *([] if folder else far),
        *(
            ["https://host/", "https://u@host/x", "https://host/%2e%2e/x", "http://host/x"]
            if web
            else ["https://host/x"]
        ),
        "file:///rows",
        "S3://abc/x",
        "s3://ab/x",
        "s3://ABC/x",
        "s3://-bc/x",
        "s3://abc/../x",
        "s3://abc/x/..",
        "s3://abc/./x",
        "s3://abc/x?y",
        "s3://abc/x#y",
        "s3://abc/x y",
        "s3://abc/x\\y",
        "s3://abc/x\n",
        "s3://user@abc/x",
        *(["hf://org/name/more", "hf://-org/name", "hf://org/.."] if hub else ["hf://org/name"]),
        *(
            [
                "hf://datasets/org/name/config/more",
                "hf://datasets/org/name@",
                "hf://datasets/org/name@a/../b",
                "hf://datasets/org/name#",
                "hf://datasets/org/name#tr-ain",
                "hf://datasets/org/name#train#test",
                "hf://datasets/org/name#train@v1",
                "hf://datasets/org/name[:10]",
            ]
            if splits
            else ["hf://datasets/org/name/config"]
        ),
        *([] if folder else ["s3://abc"]),
    ]
    for text in good:
        yield JOB.ok(f"{path}={text!r}", {path: text.rstrip("/") + folder, **more})
    for text in bad:
        yield JOB.no(path, f"{path}={text!r}", {path: text + folder, **more}, message)
    yield from JOB.text(
        path, 1024, lambda n: "s3://abc/".ljust(n - len(folder), "x")[:n] + folder, shortest=6, with_=more
    )


def _model() -> Iterator[Case]:
    yield JOB.no("model", "no model", {"model": ABSENT}, "equired")
    yield JOB.no("model", "model null", {"model": None}, "equired")
    yield JOB.no("model.uri", "no model.uri", {"model": {}}, "equired")
    yield from _uri("model.uri", "hf://org/name or s3://bucket/folder/", hub=True)
    yield from JOB.text("model.revision", 128, lambda n: "r" * n)
    yield from JOB.pattern("model.revision", ["main", "refs/pr/1", "v1.0_a-b"], ["", "a b", "a@b", "main\n"])
    yield JOB.no(
        "model.revision",
        "revision of an s3 model",
        {"model.uri": "s3://bucket/m/", "model.revision": "main"},
        "model.revision belongs to hf:// models only; remove it, or version the path itself",
    )
    yield JOB.no(
        "model.uri",
        "a dataset as model",
        {"model.uri": "hf://datasets/name"},
        "model.uri names a dataset; a model of the hub is hf://org/name",
    )
    yield from JOB.name("model.credentialsRef.name")
    yield JOB.no("model.adapter.uri", "no model.adapter.uri", {"model.adapter": {}}, "equired")
    yield from _uri("model.adapter.uri", "s3://bucket/folder/adapter/", hub=True)
    with_adapter = {"model.adapter.uri": "hf://org/adapter"}
    yield from JOB.text("model.adapter.revision", 128, lambda n: "r" * n, with_=with_adapter)
    yield from JOB.pattern("model.adapter.revision", ["main", "refs/pr/1"], ["", "a b", "main\n"], with_=with_adapter)
    yield from JOB.name("model.adapter.credentialsRef.name", with_=with_adapter)
    yield JOB.no(
        "model.adapter.revision",
        "revision of an s3 adapter",
        {"model.adapter": {"uri": "s3://bucket/a/", "revision": "main"}},
        "model.adapter.revision belongs to hf:// adapters only; remove it, or version the path itself",
    )
    yield JOB.ok("an adapter with credentials", {**with_adapter, "model.adapter.credentialsRef": {"name": "s"}})
    yield JOB.no(
        "model.adapter.credentialsRef.name",
        "model.adapter.credentialsRef without name",
        {**with_adapter, "model.adapter.credentialsRef": {}},
        "equired",
    )
    yield JOB.no(
        "model.credentialsRef.name", "model.credentialsRef without name", {"model.credentialsRef": {}}, "equired"
    )


def _dataset() -> Iterator[Case]:
    files = {"dataset.uri": ABSENT, "dataset.files.train": "s3://bucket/train.jsonl"}
    rows = "s3://bucket/rows.jsonl"
    rows_or_hub = f"{rows} or hf://datasets/org/name#split"
    split = {"dataset.split": {"trainPercent": 90, "validationPercent": 10, "testPercent": 0}}
    both = {"dataset.split": {"trainPercent": 90, "validationPercent": 0, "testPercent": 10}}
    one_of = "dataset needs exactly one of uri, files and sources"
    yield JOB.no("dataset", "no dataset", {"dataset": ABSENT}, "equired")
    yield from _uri("dataset.uri", rows_or_hub, rows=True, web=True)
    yield from _digest()
    yield from _sources()
    yield from _uri("dataset.files.train", rows_or_hub, rows=True, with_={"dataset.uri": ABSENT})
    yield from _uri("dataset.files.validation", rows_or_hub, rows=True, with_=files | both)
    yield from _uri("dataset.files.test", rows_or_hub, rows=True, with_=files | split)
    yield JOB.no("dataset.files.train", "no train file", {"dataset.uri": ABSENT, "dataset.files": {}}, "equired")
    yield JOB.ok("only a train file", files)
    whole = {"dataset.split": {"trainPercent": 100, "validationPercent": 0, "testPercent": 0}}
    yield JOB.ok("three files", files | {"dataset.files.validation": rows, "dataset.files.test": rows} | whole)
    yield JOB.no("dataset", "uri and files", {"dataset.files.train": rows}, one_of)
    yield JOB.no("dataset", "neither uri nor files", {"dataset.uri": ABSENT}, one_of)
    yield JOB.ok("three files without percents", files | {f"dataset.files.{p}": rows for p in ("validation", "test")})
    yield JOB.ok("a test file without percents", files | {"dataset.files.test": rows})
    sealed = (
        "dataset.split.testPercent must be absent or 0 with dataset.files.test, and above 0 without it where percents "
        "are given"
    )
    given = {"dataset.split": {"trainPercent": 80, "validationPercent": 10, "testPercent": 10}}
    yield JOB.no(
        "dataset.split.testPercent", "test file and percent", files | {"dataset.files.test": rows} | given, sealed
    )
    yield JOB.no(
        "dataset.split.testPercent",
        "percents without test rows",
        {"dataset.split": {"trainPercent": 90, "validationPercent": 10}},
        sealed,
    )
    yield JOB.no("dataset.split.testPercent", "no test rows at all", split, sealed)
    whole_hub, one_split = "hf://datasets/org/name/config@v1", "hf://datasets/org/name#train"
    yield JOB.ok("a dataset of the hub that may have test rows", split | {"dataset.uri": whole_hub})
    sources = [{"uri": rows}, {"uri": whole_hub}]
    yield JOB.ok("a source that may have test rows", split | {"dataset.uri": ABSENT, "dataset.sources": sources})
    yield JOB.no("dataset.split.testPercent", "no test rows beside a split", split | {"dataset.uri": one_split}, sealed)
    yield JOB.no(
        "dataset.split.testPercent",
        "no test rows beside sources by split",
        split | {"dataset.uri": ABSENT, "dataset.sources": [{"uri": rows}, {"uri": one_split}]},
        sealed,
    )
    yield JOB.no(
        "dataset.split.validationPercent",
        "validation file and percent",
        files | {"dataset.files.validation": rows} | given,
        "dataset.split.validationPercent must be absent or 0 with dataset.files.validation",
    )
    yield from JOB.choice("dataset.format", "Auto", "Jsonl", "Json", "Csv", "Tsv", "Parquet", "Arrow")
    yield from JOB.choice("dataset.encoding", *get_args(Encoding))
    yield from JOB.name("dataset.credentialsRef.name")
    yield JOB.no(
        "dataset.credentialsRef.name", "dataset.credentialsRef without name", {"dataset.credentialsRef": {}}, "equired"
    )
    yield from JOB.choice("dataset.nearDuplicates", "Report", "Drop")
    yield from JOB.choice("dataset.badRows.policy", "Drop", "Fail")
    yield from JOB.integer("dataset.badRows.maxPercent", 0, 100)


def _digest() -> Iterator[Case]:
    digest, web = "sha256:" + "a" * 64, "https://host:8443/rows.csv"
    needed = (
        "dataset.digest is needed with an https:// URI, since what lies there may change; set it to sha256: and what "
        "sha256sum says of the file"
    )
    one_file = "dataset.digest belongs to one file in dataset.uri; remove it"
    yield JOB.ok("a file from the web", {"dataset.uri": web, "dataset.digest": digest})
    yield JOB.ok("a file in S3 with its digest", {"dataset.digest": digest})
    yield JOB.no("dataset.digest", "a file from the web without digest", {"dataset.uri": web}, needed)
    folder = {"dataset.uri": "s3://bucket/rows/"}
    yield JOB.ok("a folder", folder)
    yield JOB.no("dataset.digest", "a folder with a digest", folder | {"dataset.digest": digest}, one_file)
    files = {"dataset.uri": ABSENT, "dataset.files.train": "s3://bucket/train.jsonl"}
    yield JOB.no("dataset.digest", "files with a digest", files | {"dataset.digest": digest}, one_file)
    hub = {"dataset.uri": "hf://datasets/org/name"}
    yield JOB.no("dataset.digest", "a dataset of the hub with a digest", hub | {"dataset.digest": digest}, one_file)
    bad = ["a" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 32]
    yield from JOB.pattern("dataset.digest", [], bad)
    yield JOB.no("dataset.digest", "a digest of 72", {"dataset.digest": "sha256:" + "a" * 65}, "71")


def _sources() -> Iterator[Case]:
    def one(**fields: Any) -> dict[str, Any]:
        return {"dataset.uri": ABSENT, "dataset.sources": [{"uri": "s3://bucket/a.jsonl", **fields}]}

    def at(field: str) -> tuple[str, Callable[[str], Any]]:
        return f"dataset.sources[0].{field}", lambda value: one(**{field: value})["dataset.sources"]

    absent = {"dataset.uri": ABSENT}
    digest, web = "sha256:" + "a" * 64, "https://host/rows.csv"
    yield JOB.ok(
        "two sources", {**absent, "dataset.sources": [{"uri": "s3://bucket/a/"}, {"uri": "pvc://claim/b.csv"}]}
    )
    yield JOB.ok("16 sources", {**absent, "dataset.sources": [{"uri": f"s3://bucket/{i}"} for i in range(16)]})
    many = [{"uri": f"s3://bucket/{i}"} for i in range(17)]
    yield JOB.no("dataset.sources", "17 sources", {**absent, "dataset.sources": many}, "at most 16 items")
    yield JOB.no("dataset.sources", "no source", {**absent, "dataset.sources": []}, "at least 1 item")
    yield JOB.no("dataset.sources[0].uri", "a source without URI", {**absent, "dataset.sources": [{}]}, "equired")
    yield JOB.no("dataset", "sources and uri", {"dataset.sources": [{"uri": "s3://bucket/a"}]}, ONE_OF)
    message = (
        "dataset.sources[].uri must be a URI such as s3://bucket/rows.jsonl or hf://datasets/org/name#split, without "
        "'..', '?', another '#', '\\' or spaces"
    )
    for text in ("s3://abc/../x", "http://host/x", "configmap://name/", "hf://org/name", "hf://datasets/a/b/c/d"):
        yield JOB.no("dataset.sources[0].uri", f"a source {text}", one(uri=text), message)
    field, wrap = at("uri")
    yield from JOB.text(
        "dataset.sources",
        1024,
        lambda n: "s3://abc/".ljust(n, "x")[:n],
        shortest=6,
        at=field,
        wrap=wrap,
        with_=absent,
    )
    yield JOB.ok("a source from the web", one(uri=web, digest=digest))
    yield JOB.no(
        "dataset.sources[0].digest",
        "a source from the web without digest",
        one(uri=web),
        "dataset.sources[].digest is needed with https://, and belongs to one file alone",
    )
    yield JOB.no(
        "dataset.sources[0].digest",
        "a folder of sources with a digest",
        one(uri="s3://bucket/a/", digest=digest),
        "dataset.sources[].digest is needed with https://, and belongs to one file alone",
    )
    yield JOB.ok("a source of the hub", one(uri="hf://datasets/org/name/config@v1#train"))
    yield JOB.no(
        "dataset.sources[0].digest",
        "a source of the hub with a digest",
        one(uri="hf://datasets/org/name", digest=digest),
        "dataset.sources[].digest is needed with https://, and belongs to one file alone",
    )
    yield JOB.no("dataset.sources[0].digest", "a source's digest in capitals", one(digest=digest.upper()), "match")
    yield JOB.no("dataset.sources[0].digest", "a source's digest of 72", one(digest=digest + "a"), "71")
    for weight in ("0.5", "1", "2.5", "100", "1e-3"):
        yield JOB.ok(f"a source with weight {weight}", one(weight=weight))
    bounds = 'dataset.sources[].weight must be above 0 and at most 100, as text such as "0.5"'
    for weight in ("0", "-1", "100.1", "1e-999"):
        yield JOB.no("dataset.sources[0].weight", f"a source with weight {weight}", one(weight=weight), bounds)
    yield JOB.no("dataset.sources[0].weight", "a weight that is no number", one(weight="half"), "match")
    yield JOB.no("dataset.sources[0].weight", "a weight of 25", one(weight="0." + "1" * 23), "24")
    yield JOB.no("dataset.sources[0].format", "a source's format", one(format="nonsense"), "Parquet")
    yield JOB.ok("a source with columns", one(columns={"text": "body"}, format="Csv"))
    key = "dataset.sources[].columns has an empty key or one above 128 characters; a key is the column's new name"
    yield JOB.no("dataset.sources[0].columns", "a source's empty key", one(columns={"": "x"}), key)
    yield JOB.no("dataset.sources[0].columns", "a source's long key", one(columns={"k" * 129: "x"}), key)
    seventeen = {f"c{i}": "x" for i in range(17)}
    yield JOB.no("dataset.sources[0].columns", "a source's 17 columns", one(columns=seventeen), "at most 16 items")
    field, _ = at("columns.text")
    yield JOB.no(field, "a source's empty column", one(columns={"text": ""}), "at least 1")
    yield JOB.no(field, "a source's long column", one(columns={"text": "c" * 129}), "128")


def _split() -> Iterator[Case]:
    def parts(train: int, validation: int, test: int) -> dict[str, Any]:
        return {"dataset.split": {"trainPercent": train, "validationPercent": validation, "testPercent": test}}

    message = (
        "dataset.split.trainPercent, validationPercent and testPercent must add up to 100; one that is left out beside "
        "another counts as 0, and all may be left out"
    )
    yield JOB.ok("no percents", {"dataset.split": {"seed": 1}})
    yield JOB.ok("train and test percents alone", {"dataset.split": {"trainPercent": 90, "testPercent": 10}})
    yield JOB.ok("the smallest parts", parts(1, 1, 98))
    yield JOB.ok("no validation", parts(99, 0, 1))
    yield JOB.ok("as much validation as can be", parts(1, 98, 1))
    yield JOB.no("dataset.split", "99 percent", parts(80, 10, 9), message)
    yield JOB.no("dataset.split", "101 percent", parts(80, 10, 11), message)
    yield JOB.no("dataset.split", "one part changed", {"dataset.split.trainPercent": 70}, message)
    yield from JOB.integer("dataset.split.trainPercent", 1, 100, ok=[])
    yield from JOB.integer("dataset.split.validationPercent", 0, 98, ok=[])
    yield from JOB.integer("dataset.split.testPercent", 0, 98, ok=[])
    yield from JOB.integer("dataset.split.seed", 0, 2147483647)
    yield JOB.ok("an order beside groups", {"dataset.split.orderBy": "day", "dataset.split.groupBy": "who"})
    yield JOB.no(
        "dataset.split",
        "an order and strata",
        {"dataset.split.orderBy": "day", "dataset.split.stratifyBy": "label"},
        "dataset.split.orderBy cuts by time, which leaves no choice for stratifyBy; remove one of them",
    )
    by = {"dataset.split.by": "part"}
    yield JOB.ok("parts by a column, percents of train alone", by | {"dataset.split.trainPercent": 100})
    yield JOB.ok("parts by a column, no test percent", parts(90, 10, 0) | by)
    yield JOB.no(
        "dataset.split.by",
        "parts by a column and by files",
        {"dataset.uri": ABSENT, "dataset.files.train": "s3://bucket/t.csv", **by},
        "dataset.split.by needs dataset.uri; dataset.files say themselves which part their rows are for",
    )
    yield JOB.ok(
        "early stopping where a column may give validation rows",
        parts(90, 0, 10) | by | {"training.earlyStopping.patience": 2},
    )
    for column in ("stratifyBy", "groupBy", "by", "orderBy"):
        yield from JOB.text(f"dataset.split.{column}", 128, lambda n: "ü" * n, shortest=1)


def _template() -> Iterator[Case]:
    inline = {"dataset.template": {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}}
    one_of = "dataset.template needs exactly one of name, inline, promptsource and configMapRef"
    yield JOB.no("dataset.template", "no template", {"dataset.template": ABSENT}, "equired")
    for name in LIBRARY:
        yield JOB.ok(f"template {name}", {"dataset.template.name": name})
    yield JOB.ok("a template of the runtime", {"dataset.template.name": "urgency"})
    yield JOB.ok(
        "all of a runtime's template",
        {"dataset.template": {"name": "urgency", "columns": {"a": "b"}, "paraphrases": "All", "choices": ["a", "b"]}},
    )
    yield from JOB.text("dataset.template.name", 64, lambda n: "t" * n, shortest=1)
    yield from JOB.pattern("dataset.template.name", ["a", "a-1"], ["A", "1a", "-a", "a-", "a_b", "a.b", "a\n"])
    yield JOB.ok("inline", inline)
    yield JOB.no("dataset.template", "an empty template", {"dataset.template": {}}, one_of)
    yield JOB.no("dataset.template", "name and inline", inline | {"dataset.template.name": "qa"}, one_of)
    for part, other in (("prompt", "completion"), ("completion", "prompt")):
        path = f"dataset.template.inline.{part}"
        with_ = {"dataset.template.name": ABSENT, f"dataset.template.inline.{other}": "{{ x }}"}
        yield from JOB.text(path, 8192, lambda n: "p" * n, shortest=1, with_=with_)
        yield JOB.no(path, f"no {part}", with_, "equired")
    source = "dataset.template.promptsource"
    asked = {"dataset.template": {"promptsource": {"uri": "s3://bucket/t.yaml", "name": "n"}}}
    yield JOB.ok("promptsource", asked)
    yield JOB.ok("choices beside promptsource", asked | {"dataset.template.choices": ["a", "b"]})
    yield JOB.no("dataset.template", "name and promptsource", asked | {"dataset.template.name": "qa"}, one_of)
    lacking = {"dataset.template": {"promptsource": {"uri": "s3://bucket/t.yaml"}}}
    yield JOB.no(f"{source}.name", "promptsource without name", lacking, "equired")
    one_place = f"{source} needs exactly one of uri and configMapRef"
    lacking = {"dataset.template": {"promptsource": {"name": "n"}}}
    yield JOB.no(source, "promptsource without a place", lacking, one_place)
    ref = {"name": "templates", "key": "t.yaml"}
    yield JOB.no(source, "promptsource with two places", asked | {f"{source}.configMapRef": ref}, one_place)
    yield JOB.ok(
        "promptsource in a ConfigMap", {"dataset.template": {"promptsource": {"name": "n", "configMapRef": ref}}}
    )
    own = {"dataset.template": {"configMapRef": ref}}
    yield JOB.ok("a template in a ConfigMap", own)
    yield JOB.ok(
        "its columns and wordings",
        {"dataset.template": {"configMapRef": ref, "columns": {"a": "b"}, "paraphrases": "All"}},
    )
    yield JOB.no("dataset.template", "name and configMapRef", own | {"dataset.template.name": "qa"}, one_of)
    for place in ("dataset.template.configMapRef", f"{source}.configMapRef"):
        with_ = {"dataset.template.name": ABSENT, f"{place}.key": "k"}
        with_ |= {f"{source}.name": "n"} if place.startswith(source) else {}
        yield from JOB.name(f"{place}.name", with_=with_)
        with_ = {k: v for k, v in with_.items() if not k.endswith(".key")} | {f"{place}.name": "n"}
        yield from JOB.pattern(
            f"{place}.key", ["a", ".a-B_1.yaml", "-", "1"], ["..a", "a/b", "a b", "a\n", "."], with_=with_
        )
        for part in ("name", "key"):
            lacks = {"dataset.template.name": ABSENT, f"{place}.{'key' if part == 'name' else 'name'}": "x"}
            lacks |= {f"{source}.name": "n"} if place.startswith(source) else {}
            yield JOB.no(f"{place}.{part}", f"{place} without {part}", lacks, "equired")
        yield from JOB.text(f"{place}.key", 253, lambda n: "k" * n, shortest=1, with_=with_)
    unnamed = {"dataset.template.name": ABSENT}
    named = unnamed | {f"{source}.name": "n"}
    yield from _uri(f"{source}.uri", "s3://bucket/templates.yaml", rows=True, with_=named)
    placed = unnamed | {f"{source}.uri": "s3://bucket/t.yaml"}
    yield from JOB.text(f"{source}.name", 253, lambda n: "p" * n, shortest=1, with_=placed)

    paraphrases = "dataset.template.paraphrases"
    worded = "dataset.template.paraphrases All needs a template that has several wordings; remove it"
    yield from JOB.choice(paraphrases, "Default", "All")
    yield JOB.no(
        paraphrases,
        "paraphrases of an inline one",
        {"dataset.template": inline["dataset.template"] | {"paraphrases": "All"}},
        worded,
    )
    for name in WORDLESS_TEMPLATES:
        yield JOB.no(paraphrases, f"paraphrases of {name}", {"dataset.template.name": name, paraphrases: "All"}, worded)

    columns = "dataset.template.columns"
    yield JOB.ok("columns", {columns: {"text": "utterance", "label": "intent"}})
    yield JOB.no(columns, "17 columns", {columns: {f"c{i}": "x" for i in range(17)}}, "at most 16 items")
    yield from JOB.text(
        columns, 128, lambda n: "c" * n, shortest=1, at=f"{columns}.text", wrap=lambda text: {"text": text}
    )
    yield JOB.ok("no columns", {columns: {}})
    strangers = ["utterance", "Text", "text ", "", "k" * 500]
    said = "dataset.template.columns names a field that template {} does not have; its fields are {}"
    for field in strangers:
        yield JOB.no(
            columns,
            f"a column for field {field[:9]!r}",
            {columns: {"text": "t", field: "x"}},
            said.format("intent", "text and label"),
        )
    for name, fields in TEMPLATE_FIELDS.items():
        named = {"dataset.template.name": name}
        yield JOB.ok(f"columns of {name}", named | {columns: dict.fromkeys(fields, "c")})
        told = said.format(name, ", ".join(fields[:-1]) + (" and " if fields[1:] else "") + fields[-1])
        yield JOB.no(columns, f"another's columns of {name}", named | {columns: {"stranger": "c"}}, told)
    yield JOB.no(
        columns,
        "columns of an inline template",
        inline | {columns: {"text": "t"}},
        "dataset.template.columns belongs to a template with fields; remove it, inline and promptsource use the "
        "columns' own names",
    )

    learn = "dataset.template.messages.learn"
    chat = {"dataset.template": {"name": "messages"}}
    for value in ("All", "Last"):
        yield JOB.ok(f"{learn}={value}", chat | {learn: value})
    named = {"dataset.template.name": "messages"}
    yield from JOB.text("dataset.template.messages.tools", 128, lambda n: "ü" * n, shortest=1, with_=named)
    yield JOB.no(learn, "another way to learn", chat | {learn: "First"}, "All", "Last")
    thinking = "dataset.template.messages.thinking"
    for value in ("Keep", "Drop"):
        yield JOB.ok(f"{thinking}={value}", chat | {thinking: value})
    yield JOB.no(thinking, "another way with thoughts", chat | {thinking: "Hide"}, "Keep", "Drop")
    belongs = "dataset.template.messages belongs to the template messages; remove it, or set name: messages"
    yield JOB.no("dataset.template.messages", "messages of another template", {learn: "All"}, belongs)
    yield JOB.no("dataset.template.messages", "messages of an inline template", inline | {learn: "All"}, belongs)

    choices = "dataset.template.choices"
    yield from JOB.items(choices, 2, 256, lambda i: f"{i:0128}")
    yield from JOB.text(
        choices, 128, lambda n: "ü" * n, shortest=1, at=f"{choices}[1]", wrap=lambda text: ["other", text]
    )
    yield JOB.no(
        choices,
        "the same choice twice",
        {choices: ["a", "b", "a"]},
        "dataset.template.choices must not repeat a choice; remove the duplicate",
    )


def _training() -> Iterator[Case]:
    yield from JOB.choice("training.method", "Full", "LoRA", also=["QLoRA"])
    message = not_yet("training.method QLoRA", "use LoRA")
    yield JOB.no("training.method", "QLoRA", {"training.method": "QLoRA"}, message)
    yield JOB.ok("training null counts as absent", {"training": None})
    yield from JOB.integer("training.epochs", 1, 1000)
    yield from JOB.integer("training.batchSize", 1, 65536)
    yield from JOB.integer("training.maxLength", 16, 1048576)
    yield from JOB.integer("training.seed", 0, 2147483647)
    yield from JOB.choice("training.precision", "Auto", "BFloat16", "Float32")
    yield from JOB.integer("training.lora.rank", 1, 512)
    yield from JOB.integer("training.lora.alpha", 1, 4096)
    targets = "training.lora.targetModules"
    yield from JOB.text(targets, 128, lambda n: "q" * n, shortest=1, at=f"{targets}[0]", wrap=lambda text: [text])
    yield from JOB.pattern(
        targets,
        ["q_proj", "layers.1?.*_proj"],
        ["a b", "(q|k)_proj", "q_proj\n"],
        at=f"{targets}[0]",
        wrap=lambda t: [t],
    )
    yield from JOB.items(targets, 0, 32, lambda i: f"layer{i}")
    yield JOB.no(targets, "no layer in the list", {targets: []}, "at least 1")
    yield JOB.no(
        targets,
        "a layer twice",
        {targets: ["q_proj", "q_proj"]},
        "training.lora.targetModules must not repeat a name; remove the duplicate",
    )
    yield from JOB.flag("training.lora.useRslora")
    yield from JOB.flag("training.lora.useDora")
    yield from JOB.choice("training.lora.initLoraWeights", "Kaiming", "Gaussian")
    yield JOB.no(
        "training.lora",
        "lora settings of a full tuning",
        {"training.method": "Full", "training.lora": {}},
        "training.lora belongs to method LoRA; remove it or set method: LoRA",
    )
    numbers = ["abc", "", "1e", ".5", "0x1", "1,5", "NaN", "inf", "2e-4\n", " 1"]
    rate = 'training.learningRate must be above 0 and at most 1, as text such as "2e-4"'
    yield from JOB.pattern("training.learningRate", ["2e-4", "1", "1.0", "+0.5", "1e-300", "1E-5"], numbers)
    yield from JOB.text("training.learningRate", 24, lambda n: "0." + "1" * (n - 2))
    for value in ("0", "0.0", "-2e-4", "1.0001", "1e-999"):
        yield JOB.no("training.learningRate", f"learning rate {value}", {"training.learningRate": value}, rate)
    yield JOB.no("training.learningRate", "learning rate as number", {"training.learningRate": 0.0002}, "string")
    drop = 'training.lora.dropout must be at least 0 and below 1, as text such as "0.05"'
    yield from JOB.pattern("training.lora.dropout", ["0", "0.05", "0.999"], numbers)
    yield from JOB.text("training.lora.dropout", 24, lambda n: "0." + "1" * (n - 2))
    for value in ("-0.1", "1", "1.5"):
        yield JOB.no("training.lora.dropout", f"dropout {value}", {"training.lora.dropout": value}, drop)
    yield from _schedule_and_optimizer(numbers)
    yield from JOB.integer("training.earlyStopping.patience", 1, 100)
    yield JOB.no("training.earlyStopping.patience", "no patience", {"training.earlyStopping": {}}, "equired")
    no_validation = {"dataset.split": {"trainPercent": 90, "validationPercent": 0, "testPercent": 10}}
    stopping = {"training.earlyStopping.patience": 2}
    yield JOB.no(
        "training.earlyStopping",
        "early stopping without validation rows",
        no_validation | stopping,
        "training.earlyStopping needs validation rows; raise dataset.split.validationPercent, or give "
        "dataset.files.validation",
    )
    files = {"train": "s3://bucket/t.csv", "validation": "s3://bucket/v.csv"}
    yield JOB.ok(
        "early stopping with a validation file",
        no_validation | stopping | {"dataset.uri": ABSENT, "dataset.files": files},
    )
    yield JOB.ok("early stopping with the default percents", stopping)
    hub = {"dataset.uri": "hf://datasets/org/name"}
    yield JOB.ok("early stopping where the hub may have validation rows", no_validation | stopping | hub)
    yield JOB.no(
        "training.earlyStopping",
        "early stopping with one split of the hub",
        no_validation | stopping | {"dataset.uri": "hf://datasets/org/name#train"},
        "training.earlyStopping needs validation rows; raise dataset.split.validationPercent, or give "
        "dataset.files.validation",
    )
    yield from JOB.choice("training.selectBy", "Auto", "Score", "Loss")
    yield JOB.no(
        "training.selectBy",
        "selection without validation rows",
        no_validation | {"training.selectBy": "Loss"},
        "training.selectBy needs validation rows; raise dataset.split.validationPercent, or give "
        "dataset.files.validation",
    )
    yield from JOB.integer("training.validation.everySteps", 1, 1000000000)
    yield from JOB.integer("training.validation.limit", 1, 10000000)
    yield JOB.no(
        "training.validation",
        "validations without validation rows",
        no_validation | {"training.validation.everySteps": 50},
        "training.validation needs validation rows; raise dataset.split.validationPercent, or give "
        "dataset.files.validation",
    )
    yield JOB.ok(
        "validations of a file",
        no_validation | {"training.validation.limit": 9, "dataset.uri": ABSENT, "dataset.files": files},
    )
    yield JOB.ok("checkpoint without an interval", {"training.checkpoint": {}})
    yield from JOB.integer("training.checkpoint.intervalSeconds", 30, 86400)


def _schedule_and_optimizer(numbers: list[str]) -> Iterator[Case]:
    yield from JOB.integer("training.maxSteps", 1, 1000000000)
    yield from JOB.choice("training.scheduler", "Cosine", "Linear", "Constant", "WSD")
    yield from JOB.choice("training.optimizer", "AdamW", "Adafactor", "AdamW8bit")
    warmup = 'training.warmupPercent must be at least 0 and below 100, as text such as "5"'
    decay = 'training.weightDecay must be at least 0 and at most 1, as text such as "0.01"'
    norm = 'training.maxGradNorm must be at least 0, which never clips, and at most 1000000, as text such as "1"'
    for field, message, good, bad in (
        ("warmupPercent", warmup, ["0", "5", "0.5", "99.9", "1e1"], ["-1", "100", "1e3"]),
        ("weightDecay", decay, ["0", "0.01", "1"], ["-0.01", "1.5"]),
        ("maxGradNorm", norm, ["0", "0.0", "1", "1e6"], ["-1", "1e7"]),
    ):
        path = f"training.{field}"
        yield from JOB.pattern(path, good, numbers)
        yield from JOB.text(path, 24, lambda n: "0." + "1" * (n - 2))
        for value in bad:
            yield JOB.no(path, f"{field} {value}", {path: value}, message)
        yield JOB.no(path, f"{field} as number", {path: 1}, "string")


def _evaluation() -> Iterator[Case]:
    yield from JOB.choice("evaluation.metric", "Auto", *METRICS)
    for name, metric in itertools.product(OPEN_TEMPLATES, CHOICE_METRICS):
        scored = {"evaluation.metric": metric, "dataset.template.name": name}
        message = (
            "evaluation.metric needs dataset.template.choices with this template for ChoiceAccuracy, "
            "ChoiceAccuracyNorm, MacroF1 and BalancedAccuracy; give them, or choose another metric"
        )
        yield JOB.no("evaluation.metric", f"{metric} without choices of {name}", scored, message)
        yield JOB.ok(f"{metric} with choices of {name}", scored | {"dataset.template.choices": ["a", "b"]})
    score = 'evaluation.minScore must be from 0 to 1, as text such as "0.9"; 90 percent are "0.9"'
    gain = 'evaluation.minGain must be from -1 to 1, as text such as "0.05"; 5 points are "0.05"'
    numbers = ["abc", "", "1e", ".5", "0x1", "1,5", "NaN", "inf", "2e-4\n", " 1"]
    for field, message, good, bad in (
        ("minScore", score, ["0", "0.9", "1", "1e-3"], ["-0.1", "1.01", "90"]),
        ("minGain", gain, ["-0.05", "0", "0.1", "-1", "1"], ["-1.1", "5"]),
    ):
        path = f"evaluation.{field}"
        yield from JOB.pattern(path, good, numbers)
        yield from JOB.text(path, 24, lambda n: "0." + "1" * (n - 2))
        for value in bad:
            yield JOB.no(path, f"{field} {value}", {path: value}, message)
            yield JOB.no(path, f"{field} {value} of ROUGE", {path: value, "evaluation.metric": "ROUGEL"}, message)
        yield JOB.ok(f"{field} of a perplexity", {path: "12.5", "evaluation.metric": "Perplexity"})
        yield JOB.no(path, f"{field} as number", {path: 1}, "string")
    yield JOB.ok(
        "a perplexity", {"evaluation.metric": "Perplexity", "evaluation.minScore": "9", "evaluation.minGain": "2"}
    )
    yield JOB.no(
        "evaluation.minScore", "90 of MacroF1", {"evaluation.metric": "MacroF1", "evaluation.minScore": "90"}, score
    )
    shown = {"evaluation.fewShot": 4}
    yield JOB.ok("all warnings refused", shown | {"evaluation.failOn": list(WARNING_TYPES)})
    yield from JOB.choice(
        "evaluation.failOn", *WARNING_TYPES, at="evaluation.failOn[0]", wrap=lambda text: [text], with_=shown
    )
    for warning in ("NotAboveFewShot", "NoFewShot"):
        yield JOB.no(
            "evaluation.failOn",
            f"{warning} without a few-shot baseline",
            {"evaluation.failOn": ["NoGain", warning]},
            "evaluation.failOn names a warning about the few-shot baseline, which is not measured; set "
            "evaluation.fewShot too",
        )
    yield JOB.no("evaluation.failOn", "no warning in the list", {"evaluation.failOn": []}, "at least 1")
    yield JOB.no(
        "evaluation.failOn",
        "a list of too many",
        {"evaluation.failOn": [*WARNING_TYPES, "NoGain"]},
        str(len(WARNING_TYPES)),
    )
    yield JOB.no(
        "evaluation.failOn",
        "a warning twice",
        {"evaluation.failOn": ["NoGain", "OneLabel", "NoGain"]},
        "evaluation.failOn must not repeat a warning; remove the duplicate",
    )
    yield from JOB.integer("evaluation.fewShot", 1, 64)
    yield JOB.no(
        "evaluation.fewShot",
        "fewShot over conversations",
        {"evaluation.fewShot": 4, "dataset.template": {"name": "messages"}},
        "evaluation.fewShot is not for template messages, whose rows are conversations already; leave it out",
    )
    yield from JOB.integer("evaluation.maxNewTokens", 1, 8192)
    yield from JOB.integer("evaluation.limit", 1, 10000000)
    yield from JOB.text(
        "evaluation.stop", 32, lambda n: "#" * n, shortest=1, at="evaluation.stop[0]", wrap=lambda text: [text]
    )
    yield JOB.ok("four stops", {"evaluation.stop": ["a", "b", "c", "d"]})
    yield JOB.no("evaluation.stop", "five stops", {"evaluation.stop": ["a", "b", "c", "d", "e"]}, "4")
    yield JOB.no(
        "evaluation.stop",
        "no stop in the list",
        {"evaluation.stop": []},
        "evaluation.stop is empty; remove it or give a text",
    )


def _output() -> Iterator[Case]:
    yield from _uri("output.uri", "s3://bucket/folder/", folder="/")
    message = "output.uri is a folder; end it with '/'"
    yield JOB.no("output.uri", "output without slash", {"output.uri": "s3://bucket/folder"}, message)
    yield from JOB.choice("output.ifExists", "Fail", "Reuse", "Overwrite")
    yield from JOB.choice("output.export", "Adapter", "Model", "Both")
    for value in ("Adapter", "Both"):
        message = "output.export Adapter or Both needs training.method LoRA; Full has no adapter"
        edits = {"training.method": "Full", "output.export": value}
        yield JOB.no("output.export", f"{value} of a full tuning", edits, message)
    yield JOB.ok("Model of a full tuning", {"training.method": "Full", "output.export": "Model"})
    yield from JOB.name("output.credentialsRef.name")
    yield JOB.no(
        "output.credentialsRef.name", "output.credentialsRef without name", {"output.credentialsRef": {}}, "equired"
    )


def _rest_of_the_job() -> Iterator[Case]:
    yield JOB.ok("the minimal job", {})
    yield from JOB.name("runtimeRef.name")
    yield from JOB.flag("suspend")
    yield from JOB.name("queueName", longest=63)
    yield from JOB.name("workloadPriorityClassName", longest=63, with_={"queueName": "team-a"})
    yield JOB.no(
        "workloadPriorityClassName",
        "a priority without a queue",
        {"workloadPriorityClassName": "high"},
        "workloadPriorityClassName orders a queue of Kueue, and queueName names none; set queueName too",
    )
    yield from JOB.integer("resources.gpusPerNode", 0, 64, ok=[0, 1])
    yield from JOB.integer("resources.nodes", 1, 1024, ok=[1])
    message = not_yet("resources.gpusPerNode above 1", "set 0 or 1")
    yield JOB.no("resources.gpusPerNode", "two GPUs", {"resources.gpusPerNode": 2}, message)
    message = not_yet("resources.nodes above 1", "set 1")
    yield JOB.no("resources.nodes", "two nodes", {"resources.nodes": 2}, message)
    yield from JOB.integer("backoffLimit", 0, 100)
    yield from JOB.integer("activeDeadlineSeconds", 60, 31536000)
    yield from JOB.integer("ttlSecondsAfterFinished", 0, 31536000)
    yield from JOB.name("serviceAccountName")


JOB_CASES: Final[list[Case]] = [
    case
    for part in (_model, _dataset, _split, _template, _training, _evaluation, _output, _rest_of_the_job)
    for case in part()
]
