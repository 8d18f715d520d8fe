"""What the tests of this folder share: the requests that they make of the API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.apiserver import ApiServer


@dataclass(frozen=True)
class Objects:
    """Creates and changes our two kinds in one namespace; answers are (HTTP status, body)."""

    api: ApiServer
    namespace: str

    def path(self, kind: str, name: str = "", *, subresource: str = "", dry_run: bool = False) -> str:
        """URL path of a collection or an object."""
        path = "/apis/finetune.dev/v1alpha1"
        path += f"/namespaces/{self.namespace}/finetunejobs" if kind == "FineTuneJob" else "/finetuneruntimes"
        path += f"/{name}" if name else ""
        path += f"/{subresource}" if subresource else ""
        return path + "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")

    def create(
        self, spec: Mapping[str, Any], *, kind: str = "FineTuneJob", name: str = "case", dry_run: bool = False
    ) -> tuple[int, Any]:
        """POST an object."""
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        return self.api.request("POST", self.path(kind, dry_run=dry_run), body)

    def patch(
        self, name: str, patch: Mapping[str, Any], *, subresource: str = "", dry_run: bool = False
    ) -> tuple[int, Any]:
        """Merge-patch a FineTuneJob."""
        path = self.path("FineTuneJob", name, subresource=subresource, dry_run=dry_run)
        return self.api.request("PATCH", path, patch, content_type="application/merge-patch+json")


@pytest.fixture
def objects(apiserver: ApiServer, namespace: str) -> Objects:
    """Our kinds in a fresh namespace."""
    return Objects(apiserver, namespace)


@pytest.fixture(scope="session")
def shared_objects(apiserver: ApiServer) -> Objects:
    """Our kinds in a namespace that many dry runs share."""
    return Objects(apiserver, apiserver.create_namespace("dry-runs"))
