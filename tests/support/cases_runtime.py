"""What the spec of a FineTuneRuntime may and may not say; part of :mod:`tests.support.cases`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from finetune_api.templates import LIBRARY
from tests.support.casekit import ABSENT, Case, Kind

__all__ = ["RUNTIME_CASES"]

RUNTIME: Final = Kind("FineTuneRuntime")


def _image() -> Iterator[Case]:
    loose = {"allowUnpinnedImage": True}
    message = "image must name a digest (…@sha256:…), or set allowUnpinnedImage: true on a test cluster"
    digest = "@sha256:" + "0" * 64
    yield RUNTIME.ok("the minimal runtime", {})
    yield RUNTIME.no("image", "no image", {"image": ABSENT}, "equired")
    yield RUNTIME.ok("a tag on a test cluster", {"image": "host:5000/a/b:tag", **loose})
    for image in ("trainer:1", "trainer@sha256:123", "a@sha256:" + "0" * 63, f"a{digest}0", f"a{digest[:-1]}G"):
        yield RUNTIME.no("image", f"unpinned {image}", {"image": image}, message)
    yield from RUNTIME.text("image", 512, lambda n: "i" * n, shortest=1, with_=loose)
    yield from RUNTIME.pattern("image", ["A/b:c"], ["-a", "a b", "a$b", "a\n"], with_=loose)
    yield from RUNTIME.flag("allowUnpinnedImage")
    yield from RUNTIME.items("imagePullSecrets", 0, 8, lambda i: {"name": f"s{i}"})
    yield from RUNTIME.name("imagePullSecrets", at="imagePullSecrets[0].name", wrap=lambda name: [{"name": name}])
    yield RUNTIME.no("imagePullSecrets[0].name", "empty reference", {"imagePullSecrets": [{}]}, "equired")


def _allowed() -> Iterator[Case]:
    yield from RUNTIME.items("allowedServiceAccounts", 0, 32, lambda i: f"a{i}")
    yield from RUNTIME.name("allowedServiceAccounts", at="allowedServiceAccounts[0]", wrap=lambda name: [name])
    yield from RUNTIME.items("allowedNamespaces", 0, 256, lambda i: f"n{i}")
    yield from RUNTIME.text(
        "allowedNamespaces", 63, lambda n: "n" * n, at="allowedNamespaces[0]", wrap=lambda name: [name]
    )
    yield from RUNTIME.items("allowedUriPrefixes", 0, 64, lambda i: f"s3://bucket/{i}/")
    yield from _prefix("allowedUriPrefixes", at="allowedUriPrefixes[0]", wrap=lambda prefix: [prefix])
    yield from _prefix("outputPrefix")


def _prefix(
    path: str, *, at: str = "", wrap: Callable[[str], Any] = lambda text: text, mounted: bool = True
) -> Iterator[Case]:
    extra = ["pvc://claim/", "configmap://"] if mounted else []
    yield from RUNTIME.text(path, 1024, lambda n: "s3://abcd"[:n].ljust(n, "x"), shortest=5, at=at, wrap=wrap)
    good = ["s3://", "s3://bucket", "s3://bucket/a/", "hf://org/", "https://host/x", *extra]
    bad = ["http://host/x", "file:///x", "s3://a b", "s3://a?b", "s3://a#b", "s3://a\\b", "s3://abc\n"]
    yield from RUNTIME.pattern(path, good, bad, at=at, wrap=wrap)


STAGES: Final = ("prepare", "train")


def _stages() -> Iterator[Case]:
    for stage in STAGES:
        yield from _node_selector(f"{stage}.nodeSelector")
        yield from _tolerations(f"{stage}.tolerations")
        yield from RUNTIME.name(f"{stage}.runtimeClassName")
        for resource in ("cpu", "memory", "ephemeralStorage"):
            path = f"{stage}.resources.{resource}"
            yield from RUNTIME.pattern(path, ["1", "500m", "1.5Gi", "20G"], ["", "1 Gi", "-1", "1Pi", "1Gi\n"])
            yield from RUNTIME.text(path, 32, lambda n: "1" * n)
    yield from RUNTIME.pattern(
        "gpuResourceName", ["amd.com/gpu", "nvidia.com/mig-1g.5gb"], ["gpu", "A.com/gpu", "a/b/c", "a/b\n"]
    )
    yield from RUNTIME.text("gpuResourceName", 253, lambda n: "a.com/".ljust(n, "x"))
    yield from RUNTIME.choice("sidecarInjection", "Declined", "Allowed")
    yield from RUNTIME.choice("progress", "Enabled", "Disabled")


def _node_selector(path: str) -> Iterator[Case]:
    key = "nodeSelector has a key that is no label; write it as in kubectl get nodes --show-labels"
    yield RUNTIME.ok(f"16 labels in {path}", {path: {f"example.com/{'x' * 60}{i:02}": "v" * 63 for i in range(16)}})
    yield RUNTIME.no(path, f"17 labels in {path}", {path: {f"l{i}": "" for i in range(17)}}, "at most 16 items")
    for bad in ("", "a b", "/a", "a/b/c", "-a", "x" * 64, "a/" + "x" * 64, "a" * 316 + "/b", "a\n"):
        yield RUNTIME.no(path, f"label {bad[:20]!r} in {path}", {path: {bad: "v"}}, key)
    at = f"{path}.gpu"
    yield from RUNTIME.text(path, 63, lambda n: "v" * n, at=at, wrap=lambda value: {"gpu": value})
    good, bad_values = ["", "a", "A-b_c.d"], ["-a", "a-", "a b", "a\n"]
    yield from RUNTIME.pattern(path, good, bad_values, at=at, wrap=lambda value: {"gpu": value})


def _tolerations(path: str) -> Iterator[Case]:
    def one(**fields: Any) -> dict[str, Any]:
        return {path: [fields]}

    at = f"{path}[0]"
    yield from RUNTIME.items(path, 0, 16, lambda i: {"key": f"k{i}"})
    yield RUNTIME.ok(f"{at} of everything", one(operator="Exists"))
    full = one(key="k", operator="Equal", value="v", effect="NoExecute", tolerationSeconds=0)
    yield RUNTIME.ok(f"{at} with all fields", full)
    yield from RUNTIME.text(path, 316, lambda n: "k" * n, at=f"{at}.key", wrap=lambda key: [{"key": key}])
    yield from RUNTIME.text(
        path, 63, lambda n: "v" * n, at=f"{at}.value", wrap=lambda value: [{"key": "k", "value": value}]
    )
    yield from RUNTIME.choice(
        path, "Exists", "Equal", at=f"{at}.operator", wrap=lambda op: [{"key": "k", "operator": op}]
    )
    yield from RUNTIME.choice(
        path,
        "NoSchedule",
        "PreferNoSchedule",
        "NoExecute",
        at=f"{at}.effect",
        wrap=lambda effect: [{"key": "k", "effect": effect}],
    )
    negative = one(key="k", effect="NoExecute", tolerationSeconds=-1)
    yield RUNTIME.no(f"{at}.tolerationSeconds", f"negative seconds in {at}", negative, "greater than or equal to 0")
    value = "tolerations[].value belongs to operator Equal; remove it"
    yield RUNTIME.no(f"{at}.value", f"{at} with a value and Exists", one(key="k", operator="Exists", value="v"), value)
    key = "tolerations[].key may only be left out with operator Exists; name the taint's key"
    yield RUNTIME.no(at, f"{at} without a key", one(value="v"), key)
    yield RUNTIME.no(at, f"{at} without a key and with Equal", one(operator="Equal", value="v"), key)
    seconds = "tolerations[].tolerationSeconds belongs to effect NoExecute; remove it or set that effect"
    for effect in ({}, {"effect": "NoSchedule"}):
        edits = one(key="k", tolerationSeconds=5, **effect)
        yield RUNTIME.no(f"{at}.tolerationSeconds", f"seconds in {at} with {effect or 'no effect'}", edits, seconds)


def _moved() -> Iterator[Case]:
    """Fields of earlier versions: refused where they say something, let through where they hold an old default."""

    def to_stages(field: str) -> str:
        return f"{field} has moved; write train.{field} (and prepare.{field})"

    old: dict[str, Any] = {
        "prepare": {"cpu": "1", "memory": "4Gi", "ephemeralStorage": "10Gi"},
        "train": {"cpu": "2", "memory": "8Gi", "ephemeralStorage": "20Gi"},
    }
    filled_in: dict[str, dict[str, Any]] = {
        "all defaults": {"nodeSelector": {}, "tolerations": [], "resources": old},
        "some default amounts": {"resources": {"train": {"cpu": "2", "ephemeralStorage": "20Gi"}}},
        "no amounts": {"resources": {}},
    }
    for title, edits in filled_in.items():
        yield RUNTIME.ok(f"{title} of an earlier version", edits)
    written: dict[str, dict[str, Any]] = {
        "an amount": {**old, "train": {**old["train"], "memory": "16Gi"}},
        "an amount of the other stage": {"prepare": {"cpu": "2"}},
        "an unknown amount": {"train": {"gpu": "2"}},
    }
    for title, resources in written.items():
        yield RUNTIME.no("resources", f"{title} where it was", {"resources": resources}, to_stages("resources"))
    many: dict[str, Any] = {f"s{i}": {} for i in range(3)}
    yield RUNTIME.no("resources", "three stages where they were", {"resources": many}, "at most 2 items")
    many_amounts = {"train": {f"a{i}": "1" for i in range(4)}}
    yield RUNTIME.no("resources.train", "four amounts where they were", {"resources": many_amounts}, "at most 3 items")
    yield from RUNTIME.text("resources.train.memory", 32, lambda n: "1" * n, reachable=False)
    selector = to_stages("nodeSelector")
    yield RUNTIME.no("nodeSelector", "a label where it was", {"nodeSelector": {"gpu": "a100"}}, selector)
    labels = {f"l{i}": "" for i in range(17)}
    yield RUNTIME.no("nodeSelector", "17 labels where they were", {"nodeSelector": labels}, "at most 16 items")
    yield from RUNTIME.text(
        "nodeSelector",
        63,
        lambda n: "v" * n,
        at="nodeSelector.gpu",
        wrap=lambda value: {"gpu": value},
        reachable=False,
    )
    tolerations = to_stages("tolerations")
    yield RUNTIME.no("tolerations", "a toleration where it was", {"tolerations": [{"key": "gpu"}]}, tolerations)
    yield from (case for case in _tolerations("tolerations") if case.field)
    name = to_stages("runtimeClassName")
    yield RUNTIME.no("runtimeClassName", "a RuntimeClass where it was", {"runtimeClassName": "nvidia"}, name)
    yield from RUNTIME.text("runtimeClassName", 253, lambda n: "n" * n, reachable=False)


def _storage() -> Iterator[Case]:
    def one(**fields: Any) -> dict[str, Any]:
        return {"storage": [{"prefix": "s3://bucket/", **fields}]}

    def at(field: str) -> tuple[str, Callable[[str], Any]]:
        return f"storage[0].{field}", lambda value: one(**{field: value})["storage"]

    yield from RUNTIME.items("storage", 0, 32, lambda i: {"prefix": f"s3://{'x' * 1015}{i:04}"})
    yield RUNTIME.no("storage[0].prefix", "no prefix", {"storage": [{}]}, "equired")
    yield RUNTIME.no(
        "storage",
        "the same prefix twice",
        {"storage": [{"prefix": "s3://bucket/"}, {"prefix": "s3://other/"}, {"prefix": "s3://bucket/"}]},
        "storage has two entries with the same prefix; remove one",
    )
    yield from _prefix("storage", at="storage[0].prefix", wrap=lambda prefix: [{"prefix": prefix}], mounted=False)
    for prefix in ("pvc://claim/", "configmap://"):
        yield RUNTIME.no(
            "storage[0].prefix",
            f"an entry for {prefix}",
            {"storage": [{"prefix": prefix}]},
            "storage[].prefix is s3://, hf:// or https://; volumes and ConfigMaps need no entry",
        )
    own = {"caBundle": "-----BEGIN CERTIFICATE-----"}
    yield RUNTIME.ok("certificates of a web server", {"storage": [{"prefix": "https://host/", **own}]})
    for other in ({"endpoint": "https://h"}, {"region": "eu"}):
        yield RUNTIME.no(
            "storage[0]",
            f"{next(iter(other))} of a web server",
            {"storage": [{"prefix": "https://host/", **other}]},
            "storage[].endpoint and region belong to s3:// and hf:// prefixes; an https:// one takes caBundle",
        )
    field, wrap = at("endpoint")
    yield from RUNTIME.text("storage", 512, lambda n: "https://".ljust(n, "h"), at=field, wrap=wrap)
    good = ["http://10.0.0.1:9000", "https://s3.example"]
    bad = [
        "s3.example",
        "ftp://h",
        "https://h/path",
        "https://u@h",
        "https://h?q",
        "https://h#f",
        "https://",
        "http://h\n",
    ]
    yield from RUNTIME.pattern("storage", good, bad, at=field, wrap=wrap)
    field, wrap = at("region")
    yield from RUNTIME.text("storage", 64, lambda n: "r" * n, at=field, wrap=wrap)
    yield from RUNTIME.pattern("storage", ["eu-central-1"], ["EU", "", "a b"], at=field, wrap=wrap)
    field, wrap = at("addressingStyle")
    yield from RUNTIME.choice("storage", "Auto", "Path", "Virtual", at=field, wrap=wrap)
    field, wrap = at("caBundle")
    begin = "-----BEGIN CERTIFICATE-----"
    yield from RUNTIME.text("storage", 16384, lambda n: begin.ljust(n, "A"), at=field, wrap=wrap)
    yield from RUNTIME.pattern("storage", [f"# root\n{begin}\nAA==\n"], ["", "/etc/ca.pem"], at=field, wrap=wrap)


def _model_cache() -> Iterator[Case]:
    yield RUNTIME.ok("a model cache", {"modelCache": {"claimName": "models", "maxSize": "500Gi"}})
    yield RUNTIME.no(
        "modelCache.claimName", "a model cache without a claim", {"modelCache": {"maxSize": "1Gi"}}, "equired"
    )
    yield from RUNTIME.name("modelCache.claimName")
    path, more = "modelCache.maxSize", {"modelCache.claimName": "models"}
    good = ["1M", "500G", "2T", "1Mi", "999999999Gi", "3Ti"]
    bad = ["0Gi", "500", "1.5Gi", "-1Gi", "1Ki", "1 Gi", "1gi", "0500Gi", "1Gi\n"]
    yield from RUNTIME.pattern(path, good, bad, with_=more)
    yield from RUNTIME.text(path, 12, lambda n: "1" * (n - 2) + "Gi", with_=more, reachable=False)


def _templates() -> Iterator[Case]:
    def one(**fields: Any) -> dict[str, Any]:
        return {"name": "urgency", "document": "name: urgency", **fields}

    yield from RUNTIME.items("templates", 0, 16, lambda i: one(name=f"t{i}"))
    yield RUNTIME.no(
        "templates",
        "two templates of one name",
        {"templates": [one(), one(name="other"), one()]},
        "templates has two entries with the same name; remove one",
    )
    for name in LIBRARY:
        yield RUNTIME.no(
            "templates[0].name",
            f"a template named {name}",
            {"templates": [one(name=name)]},
            "templates[].name is one of the library's, which means the same everywhere; choose another name",
        )
    for part in ("name", "document"):
        lacking = {key: value for key, value in one().items() if key != part}
        yield RUNTIME.no(f"templates[0].{part}", f"a template without {part}", {"templates": [lacking]}, "equired")

    def at(field: str) -> tuple[str, Callable[[str], Any]]:
        return f"templates[0].{field}", lambda text: [one(**{field: text})]

    field, wrap = at("name")
    yield from RUNTIME.text("templates", 64, lambda n: "t" * n, shortest=1, at=field, wrap=wrap)
    yield from RUNTIME.pattern(
        "templates", ["a", "a-1"], ["A", "1a", "-a", "a-", "a_b", "a.b", "a\n"], at=field, wrap=wrap
    )
    field, wrap = at("document")
    yield from RUNTIME.text("templates", 8192, lambda n: "d" * n, shortest=1, at=field, wrap=wrap)


def _rest_of_the_runtime() -> Iterator[Case]:
    yield from RUNTIME.integer("terminationGracePeriodSeconds", 1, 3600)
    yield from RUNTIME.flag("simulatedGpus")
    yield from RUNTIME.integer("limits.gpusPerNode", 0, 64)
    yield from RUNTIME.integer("limits.nodes", 1, 1024)
    yield from RUNTIME.integer("limits.activeDeadlineSeconds", 60, 31536000)
    yield from RUNTIME.integer("limits.pendingTimeoutSeconds", 1, 86400)
    yield from RUNTIME.integer("limits.stallTimeoutSeconds", 60, 86400)
    yield from RUNTIME.name("prepareQueueName", longest=63)


RUNTIME_CASES: Final[list[Case]] = [
    case
    for part in (_image, _allowed, _stages, _moved, _storage, _model_cache, _templates, _rest_of_the_runtime)
    for case in part()
]
