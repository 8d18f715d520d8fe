"""The network namespace that holds the whole cluster, and the one link between it and the machine.

Called by `up` before any part starts, and by `down` after all are gone. There is deliberately no default route in the
namespace: a pod that tries to reach the outside gets "network is unreachable" at once instead of a time-out, and
nothing can leave the machine.
"""

from __future__ import annotations

import shutil

from .settings import (
    CLUSTER_CIDR,
    LINK_PREFIX,
    MACHINE_IP,
    NETNS,
    NETNS_FILE,
    NODE_IP,
    SERVICE_CIDR,
    VETH_MACHINE,
    VETH_NODE,
)
from .shell import DevclusterError, output, run

# Not "ip netns exec": that mounts a fresh /sys without the cgroup mounts, and the kubelet then finds none.
ENTER = ("nsenter", f"--net={NETNS_FILE}")


def is_up() -> bool:
    """Whether the namespace exists, is a real one (not a stale file) and has its address on a link that is up."""
    if run([*ENTER, "true"], check=False).returncode != 0:
        return False
    inside = run([*ENTER, "ip", "-4", "-o", "address", "show", "dev", VETH_NODE, "up"], check=False).stdout
    outside = run(["ip", "-4", "-o", "address", "show", "dev", VETH_MACHINE, "up"], check=False).stdout
    return NODE_IP in inside and MACHINE_IP in outside


def ensure() -> None:
    if is_up():
        return
    remove()
    _refuse_foreign_routes()
    run(["ip", "netns", "add", NETNS])
    run(["ip", "link", "add", VETH_MACHINE, "type", "veth", "peer", "name", VETH_NODE, "netns", NETNS])
    run(["ip", "address", "add", f"{MACHINE_IP}/{LINK_PREFIX}", "dev", VETH_MACHINE])
    run(["ip", "link", "set", VETH_MACHINE, "up"])
    inside = ("ip", "-n", NETNS)
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "address", "add", f"{NODE_IP}/{LINK_PREFIX}", "dev", VETH_NODE])
    run([*inside, "link", "set", VETH_NODE, "up"])
    # A connection from the node itself to a Service needs some route before kube-proxy's rules can turn it around.
    run([*inside, "route", "add", SERVICE_CIDR, "via", MACHINE_IP, "src", NODE_IP])
    for target in (CLUSTER_CIDR, SERVICE_CIDR):
        run(["ip", "route", "add", target, "via", NODE_IP, "dev", VETH_MACHINE])
    # Loaded by the kernel on demand on most machines; where it is a module, nothing else would load it.
    if shutil.which("modprobe"):
        run(["modprobe", "br_netfilter"], check=False)
    for setting in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
        name, value = setting.split("=")
        run([*ENTER, "sh", "-c", f"echo {value} > /proc/sys/{name.replace('.', '/')}"])


def _refuse_foreign_routes() -> None:
    """The three ranges are private ones that a company network may use as well; taking them over would cut it off."""
    for target in (MACHINE_IP, CLUSTER_CIDR.split("/", maxsplit=1)[0], SERVICE_CIDR.split("/", maxsplit=1)[0]):
        taken = [
            line
            for line in output(["ip", "-4", "route", "show", "to", "match", target]).splitlines()
            if line and not line.startswith(("default", "0.0.0.0/0"))
        ]
        if taken:
            raise DevclusterError(f"this machine already routes {target}, which the cluster would use: {taken[0]}")


def remove() -> None:
    """Deletes the link (its routes go with it) and the namespace (its iptables rules and pod links go with it)."""
    if shutil.which("ip") is None:
        return  # nothing was ever made here
    run(["ip", "link", "delete", VETH_MACHINE], check=False)
    run(["ip", "netns", "delete", NETNS], check=False)
    # A namespace file whose mount is gone (after a restart of the machine) is just a file that nothing else removes.
    if NETNS_FILE.exists():
        run(["umount", "-l", str(NETNS_FILE)], check=False)
        NETNS_FILE.unlink(missing_ok=True)
