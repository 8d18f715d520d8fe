"""Fixtures that several test folders share. None of them costs anything until a test asks for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.apiserver import ApiServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def bare_apiserver() -> Iterator[ApiServer]:
    """A real kube-apiserver without our CRDs, shared by the whole run."""
    with ApiServer.started() as server:
        yield server


@pytest.fixture(scope="session")
def apiserver(bare_apiserver: ApiServer) -> ApiServer:
    """The same server with the generated CRDs applied."""
    bare_apiserver.apply_crds()
    return bare_apiserver


@pytest.fixture
def new_namespace(bare_apiserver: ApiServer) -> Callable[[], str]:
    """Make a fresh namespace whenever it is called."""
    return lambda: bare_apiserver.create_namespace(f"test-{next(_numbers)}")


@pytest.fixture
def namespace(new_namespace: Callable[[], str]) -> str:
    """One fresh namespace for the test."""
    return new_namespace()
