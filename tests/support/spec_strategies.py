"""Hypothesis strategies for specs that the CRD accepts, with hostile text wherever a user may write text."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from finetune_api.templates import TEMPLATE_FIELDS

HOSTILE = (
    "{{7*7}}",
    "${jndi:ldap://x}",
    "$(FINETUNE_POD_UID)",
    "$$HOME",
    '"\n  hostNetwork: true',
    "!!python/object/apply:os.system ['id']",
    "'; rm -rf / #",
    "\\u0024(X)",
    "%s%n",
    "\x1b[31m",
    "- name: trainer",
)

# XML-free plain text of any script; surrogates can't travel through an API server.
_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
text = st.sampled_from(HOSTILE) | _ANY
name = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
key = st.from_regex(r"[A-Za-z0-9$(){}'\";:=,@!_.-]{1,20}", fullmatch=True).filter(lambda k: k not in (".", ".."))
s3_file = st.builds("s3://{}-data/{}".format, name, key)
s3_folder = st.builds("s3://{}-data/{}/".format, name, key)


def _optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value


_secret = _optional(st.builds(lambda n: {"name": n}, name))
_template = st.one_of(
    st.fixed_dictionaries({"inline": st.fixed_dictionaries({"prompt": text, "completion": text})}),
    st.sampled_from(["intent", "qa", "raw"]).flatmap(
        lambda name: st.fixed_dictionaries(
            {"name": st.just(name), "columns": st.dictionaries(st.sampled_from(TEMPLATE_FIELDS[name]), text)}
        )
    ),
).flatmap(
    lambda base: st.builds(
        lambda choices: {**base, "choices": choices}, _optional(st.lists(text, min_size=2, max_size=5, unique=True))
    )
)

specs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"uri": s3_folder, "credentialsRef": _secret}),
        "dataset": st.fixed_dictionaries({"uri": s3_file, "credentialsRef": _secret, "template": _template}),
        "training": st.fixed_dictionaries(
            {
                "epochs": st.integers(1, 1000),
                "learningRate": _optional(st.sampled_from(["2e-4", "0.001", "1"])),
                "batchSize": _optional(st.integers(1, 65536)),
                "seed": st.integers(0, 2147483647),
            }
        ),
        "output": st.fixed_dictionaries({"uri": s3_folder, "credentialsRef": _secret}),
        "resources": st.fixed_dictionaries({"gpusPerNode": st.integers(0, 1)}),
        "backoffLimit": st.integers(0, 100),
        "activeDeadlineSeconds": _optional(st.integers(60, 31536000)),
        "ttlSecondsAfterFinished": st.integers(0, 31536000),
        "serviceAccountName": _optional(name),
        "queueName": _optional(name),
    }
).map(_without_none)
