"""What the same image needs for the same model without this project: a pod that imports, fetches, loads, runs once.

The program below runs inside the pod and prints a JSON line at each point.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hack.demo.install import S3Access

__all__ = ["BARE_STAGES", "bare_moments", "bare_pod"]

BARE_STAGES: Final = (
    "applied",
    "pod created",
    "pod scheduled",
    "container started",
    "interpreter started",
    "libraries imported",
    "model fetched",
    "model loaded",
    "first forward",
)

PROGRAM: Final = """
import json, os, time
def say(event, when=None):
    print(json.dumps({"event": event, "when": when or time.time()}), flush=True)
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
say("container started", time.time() - age)
say("interpreter started")
import boto3, torch
from botocore.config import Config
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
say("libraries imported")
bucket, prefix, folder = os.environ["MODEL_BUCKET"], os.environ["MODEL_PREFIX"], "/workspace/model"
os.makedirs(folder)
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
    s3.download_file(bucket, item["Key"], os.path.join(folder, os.path.basename(item["Key"])))
say("model fetched")
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
say("model loaded")
batch = tokenizer(["What is this message about? My printer says that it has no paper."] * 16, return_tensors="pt")
with torch.inference_mode():
    model(**batch)
say("first forward")
"""


def bare_pod(
    *,
    name: str,
    namespace: str,
    image: str,
    s3: S3Access,
    secret: str,
    bucket: str,
    prefix: str,
    limits: dict[str, str],
) -> dict[str, Any]:
    """Return the pod; it has the operator's security context, volumes and amounts, and the image of the trainer."""
    plain = {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_DEFAULT_REGION": s3.region,
        "MODEL_BUCKET": bucket,
        "MODEL_PREFIX": prefix,
        "HOME": "/tmp",  # noqa: S108 - an emptyDir of this pod alone
    }
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "bare",
                    "image": image,
                    "command": ["python", "-c", PROGRAM],
                    "env": [
                        *({"name": key, "value": value} for key, value in plain.items()),
                        # In whole cores, rounded up, as the operator's pods have it.
                        {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                        *({"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}} for key in keys),
                    ],
                    "resources": {"requests": limits, "limits": limits},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - as above
                        {"name": "workspace", "mountPath": "/workspace"},
                    ],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "workspace", "emptyDir": {}}],
        },
    }


def bare_moments(lines: list[str]) -> dict[str, float]:
    """Moments that the program tells."""
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return {entry["event"]: float(entry["when"]) for entry in entries}
