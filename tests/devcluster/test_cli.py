"""The command line, as scripts use it: exact output on standard output, messages on standard error."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "hack" / "devcluster" / "devcluster"


def devcluster(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", **env}
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_s3_prints_exports_that_a_shell_takes() -> None:
    done = devcluster("s3")
    lines = done.stdout.splitlines()
    assert [line.partition("=")[0].removeprefix("export ") for line in lines] == [
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ]
    told = subprocess.run(
        ["sh", "-c", f"{done.stdout}\necho $AWS_ENDPOINT_URL"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("http://10.77.0.2:")


def test_registry_and_kubeconfig_are_one_word() -> None:
    assert devcluster("registry").stdout == "10.77.0.2:5000\n"
    assert devcluster("kubeconfig", FINETUNE_DEVCLUSTER_HOME="/x").stdout == "/x/etc/admin.kubeconfig\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "nothing"], "no such part: nothing"),
        (["logs", "nothing"], "no such part: nothing"),
        (["images", "nothing"], "no such image: nothing"),
        (["gpus", "--", "-1"], "can't be negative"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = devcluster(*arguments, FINETUNE_DEVCLUSTER_CACHE=str(tmp_path), FINETUNE_DEVCLUSTER_HOME=str(tmp_path / "x"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
