"""URIs: what parses, what never may, and prefixes that do not lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.uris import URI, HubRows, has_prefix, hub_rows, join_uri, parse_uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket/key/x.jsonl", URI("s3", "bucket", "key/x.jsonl")),
        ("s3://bucket/", URI("s3", "bucket", "")),
        ("s3://bucket/a//b", URI("s3", "bucket", "a//b")),
        ("hf://name", URI("hf", "", "name")),
        ("hf://org/name", URI("hf", "", "org/name")),
        ("hf://datasets/org/name/config@v1#train", URI("hf", "", "datasets/org/name/config@v1#train")),
        ("https://host/x", URI("https", "host", "x")),
        ("https://a.example:8443/a//b%20c/rows.csv", URI("https", "a.example:8443", "a//b%20c/rows.csv")),
        ("pvc://claim/", URI("pvc", "claim", "")),
        ("pvc://a.claim/in/rows.csv", URI("pvc", "a.claim", "in/rows.csv")),
        ("configmap://name/rows.jsonl", URI("configmap", "name", "rows.jsonl")),
        ("file:///data/rows 1.jsonl", URI("file", "", "/data/rows 1.jsonl")),
    ],
)
def test_a_uri_parses_and_prints_back(text: str, uri: URI) -> None:
    assert parse_uri(text) == uri
    assert str(uri) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rows.jsonl",
        "s3://bucket",
        "s3://bu/x",
        "s3:///x",
        "s3://user@bucket/x",
        "s3://bucket/x?versionId=1",
        "s3://bucket/x#y",
        "s3://bucket/a b",
        "s3://bucket/a\n",
        "s3://bucket/../x",
        "s3://bucket/x/..",
        "s3://bucket/./x",
        "hf://",
        "hf://org/name/file",
        "hf://org/name@v1",
        "hf://datasets/org/name/config/file",
        "hf://datasets/org/name@v1/../main",
        "hf://datasets/org/name#a/b",
        "hf://../name",
        "hf://org/..",
        "file://host/x",
        "file:///a/../b",
        "file:///a\nb",
        "pvc://claim//etc/passwd",
        "pvc://claim/a//b",
        "pvc://claim/../x",
        "pvc://Claim/x",
        "configmap://name/",
        "configmap://name/a/b",
        "configmap://name/..data",
        "http://host/x",
        "https://host",
        "https://host/",
        "https://host/folder/",
        "https://user@host/x",
        "https://user:pw@host/x",
        "https://HOST/x",
        "https://host:port/x",
        "https://host/x?y=1",
        "https://host/a/../x",
        "https://host/a/%2e%2e/x",
        "https://host/a/%2E./x",
        "https://host/a%2fb",
        "https://host/a%5cb",
        "https://host/50%",
        "https:///x",
        "S3://bucket/x",
    ],
)
def test_another_uri_is_refused_with_the_forms_that_work(text: str) -> None:
    with pytest.raises(ValueError, match="use s3://bucket/key, hf://org/name"):
        parse_uri(text)


def test_a_message_quotes_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(ValueError, match="is not a URI") as raised:
        parse_uri("x" * 100_000)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("s3://b/a", "c"), "s3://b/a/c"),
        (("s3://b/a/", "/c/", "d"), "s3://b/a/c/d"),
        (("s3://b/", "c/"), "s3://b/c/"),
        (("s3://b/a//", "c", "d/"), "s3://b/a//c/d/"),
        (("s3://b//", "c"), "s3://b//c"),
    ],
)
def test_joining_puts_one_slash_between_parts(parts: tuple[str, ...], joined: str) -> None:
    assert join_uri(*parts) == joined


@pytest.mark.parametrize(
    ("uri", "prefix", "covered"),
    [
        ("s3://team-a/x", "s3://team-a/", True),
        ("s3://team-a/x", "s3://team-a", True),
        ("s3://team-ab/x", "s3://team-a", False),
        ("s3://team-a/", "s3://team-a/", True),
        ("s3://team-a/data2/x", "s3://team-a/data", False),
        ("s3://team-a/data", "s3://team-a/data/", True),
        ("hf://org/name", "hf://org/", True),
        ("s3://org/name", "hf://org/", False),
        ("s3://team-a/data", "s3://team-a/data//", False),
        ("s3://team-a/data/x", "s3://team-a/data//", False),
        ("s3://team-a/data//x", "s3://team-a/data//", True),
        ("s3://any/thing", "s3://", True),
        ("hf://any/thing", "s3://", False),
        ("hf://datasets/org/name", "hf://", True),
        ("hf://datasets/org/name", "hf://datasets/org/", True),
        ("hf://datasets/org/name@v1", "hf://datasets/org/name", True),
        ("hf://datasets/org/name#test", "hf://datasets/org/name/", True),
        ("hf://datasets/org/name/config@a/b#test", "hf://datasets/org/name", True),
        ("hf://datasets/org/name-2@v1", "hf://datasets/org/name", False),
        ("hf://datasets/other@org/name", "hf://datasets/other@org", False),
        ("hf://datasets/org/name@v1#test", "hf://datasets/org/name@v1", True),
        ("hf://datasets/org/name@v1/x", "hf://datasets/org/name@v1", False),
        ("hf://datasets/org/name", "hf://datasets/org/name@v1", False),
    ],
)
def test_a_prefix_covers_what_lies_below_it(uri: str, prefix: str, covered: bool) -> None:
    assert has_prefix(uri, prefix) is covered


SEGMENT = st.from_regex(r"[a-z0-9._-]{1,8}", fullmatch=True).filter(lambda part: part not in {".", ".."})


@given(prefix=st.lists(SEGMENT, max_size=3), rest=st.lists(SEGMENT, min_size=1, max_size=3), slash=st.booleans())
def test_whatever_is_joined_below_a_prefix_is_covered_by_it(prefix: list[str], rest: list[str], slash: bool) -> None:
    base = "/".join(["s3://bucket", *prefix]) + ("/" if slash else "")
    assert has_prefix(join_uri(base, *rest), base)


@given(st.text(max_size=40))
def test_what_parses_has_no_climbing_segment_and_prints_back(text: str) -> None:
    for scheme in ("s3://bucket/", "hf://", "file:///"):
        try:
            uri = parse_uri(scheme + text)
        except ValueError:
            continue
        assert str(uri) == scheme + text
        assert not {".", ".."} & set(uri.path.split("/"))


@pytest.mark.parametrize(
    ("uri", "rows"),
    [
        ("hf://datasets/name", HubRows("name", None, None, None)),
        ("hf://datasets/org/name", HubRows("org/name", None, None, None)),
        (
            "hf://datasets/org/name/en@refs/convert/parquet#a.b",
            HubRows("org/name", "en", "refs/convert/parquet", "a.b"),
        ),
        ("hf://datasets/org/name@v1", HubRows("org/name", None, "v1", None)),
        ("hf://datasets/org/name#test", HubRows("org/name", None, None, "test")),
    ],
)
def test_the_uri_of_a_dataset_comes_apart_and_together(uri: str, rows: HubRows) -> None:
    assert hub_rows(uri) == rows
    assert str(rows) == uri


def test_other_uris_are_no_datasets_of_the_hub() -> None:
    assert hub_rows("hf://org/name") is None
    assert hub_rows("s3://datasets/org/name") is None
