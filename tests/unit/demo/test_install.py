"""Where the demo runs, and what it hands to the chart."""

from __future__ import annotations

import pytest

from hack.demo.install import Images, S3Access, Target, chart_values

NEEDED = ("REGISTRY", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
S3 = S3Access(endpoint="http://s3:7070", access_key="key", secret_key="hush", region="us-east-1")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", *NEEDED):
        monkeypatch.delenv(name, raising=False)


def test_without_a_kubeconfig_the_demo_uses_the_development_cluster() -> None:
    assert Target.detect() == Target(own_cluster=False, registry=None)


def test_a_cluster_of_the_users_own_is_used_with_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", *NEEDED):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("REGISTRY", "registry.example.com/team/")
    assert Target.detect() == Target(own_cluster=True, registry="registry.example.com/team")


@pytest.mark.parametrize("missing", NEEDED)
def test_a_half_given_cluster_ends_with_what_is_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in ("KUBECONFIG", *NEEDED):
        if name != missing:
            monkeypatch.setenv(name, "x")
    with pytest.raises(SystemExit, match=f"set {missing} too"):
        Target.detect()


def test_the_chart_gets_both_images_by_digest_and_no_secret() -> None:
    images = Images(operator="r/operator@sha256:aa", trainer="r/trainer@sha256:bb")
    values = chart_values(images, S3, cpu="1", memory="1Gi", simulated_gpus=True)
    assert values["image"] == {"repository": "r/operator", "digest": "sha256:aa"}
    assert values["runtime"]["image"] == {"repository": "r/trainer", "digest": "sha256:bb"}
    assert "hush" not in str(values)
