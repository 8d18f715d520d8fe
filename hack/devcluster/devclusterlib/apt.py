"""Debian packages: what the tool needs from them, and installing what is missing.

Only `up` and `images` call this. Where it can't install (not root, no apt), it says what to install by hand.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .shell import DevclusterError, run

# What to look for -> the package that brings it. A path means a file that is not on the PATH.
CLUSTER = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "mount": "mount",
    "openssl": "openssl",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def missing(needed: dict[str, str]) -> list[str]:
    """The packages whose file or command isn't there."""
    # /usr/sbin is not on every root's PATH (a plain `su` keeps the user's).
    search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return sorted(
        {
            package
            for what, package in needed.items()
            if not (Path(what).exists() if what.startswith("/") else shutil.which(what, path=search))
        }
    )


def ensure(needed: dict[str, str]) -> None:
    """Installs what is missing; a fast no-op when all is there."""
    packages = missing(needed)
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0:
        raise DevclusterError(f"missing packages: {names}; run devcluster as root or install them")
    if shutil.which("apt-get") is None:
        raise DevclusterError(f"no apt-get here (Debian or Ubuntu is needed); missing: {names}")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=env)
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], env=env)
