"""A real S3 server (versitygw) for whoever needs one: on 127.0.0.1, on a free port, with a folder as its storage."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tests.support.guard import ending_with_us

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["S3Server", "free_port", "running_s3"]

ROOT = Path(__file__).resolve().parents[2]
ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey-canary"


@dataclass(frozen=True)
class S3Server:
    """A running server.

    ``folder`` holds one directory a bucket with the objects as plain files, so that a test can damage them.
    """

    endpoint: str
    folder: Path
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    def client(self) -> S3Client:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _binary() -> str:
    command = [sys.executable, str(ROOT / "hack/devcluster/devcluster"), "build", "versitygw"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"versitygw could not be built:\n{done.stderr}")
    return done.stdout.split()[-1]


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server over ``folder`` until the block ends."""
    storage = folder / "storage"
    storage.mkdir(parents=True)
    port = free_port()
    command = [_binary(), "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--port", f"127.0.0.1:{port}"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*ending_with_us(), *command, "posix", str(storage)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"versitygw did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.05)
        yield S3Server(endpoint=f"http://127.0.0.1:{port}", folder=storage)
    finally:
        process.terminate()
        process.wait(timeout=10)
