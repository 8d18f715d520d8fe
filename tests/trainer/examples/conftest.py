"""One set of buckets and one hub for all examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.examples import Examples
from tests.support.hubserver import running_hub
from tests.support.s3server import S3Server


@pytest.fixture(scope="session")
def examples(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    with running_hub() as hub:
        served = Examples(s3, hub, tmp_path_factory.mktemp("examples"))
        served.serve_models()
        yield served
