"""What people look for among the settings and do not find: what stands in its place, if anything.

Said beside the known keys, so that nobody guesses on, and no similar key is taken for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PATCHES = "docs/patches.md has the patch of Talos that does it"


class Missing(NamedTuple):
    """Keys of the same meaning, and what to do instead; `below` is a part of their path."""

    way: str
    below: frozenset[str]
    keys: str


ANYWHERE = frozenset[str]()
MISSING = (
    Missing(
        f"a further network card is an entry of the machine's `networks`; for a VLAN on a card "
        f"{PATCHES}",
        frozenset({"machines"}),
        "interfaces networkInterfaces nics vlan vlans",
    ),
    Missing(
        "a virtual machine needs none: the switch below it has several uplinks, which vSphere's "
        "teaming of the port group uses",
        frozenset({"machines"}),
        "bond bonds",
    ),
    Missing(
        "a card's only route is to its own network; for another one docs/patches.md has the patch "
        "of Talos",
        frozenset({"networks"}),
        "gateway gateway4 route routes",
    ),
    Missing(
        "the provider makes no machine of a library's image in one, and Storage DRS would move "
        "etcd's disks: name one of its datastores, and exclude the machines from Storage DRS "
        "(docs/site-requirements.md)",
        frozenset({"machines", "site"}),
        "datastoreCluster datastoreClusterId storagePod",
    ),
    Missing(
        "all machines are in one: site.resourcePool, or the cluster's root",
        frozenset({"machines"}),
        "resourcePool",
    ),
    Missing(
        "all machines have one: site.storagePolicy",
        frozenset({"machines", "dataDisks"}),
        "storagePolicy storagePolicyId",
    ),
    Missing(
        "a machine's disks are in one datastore: the machine's `datastore`, or site.datastore",
        frozenset({"dataDisks"}),
        "datastore",
    ),
    Missing(
        "the proxy is `network.proxy`: for machines and the pods that go outside",
        ANYWHERE,
        "env environment httpProxy httpsProxy noProxy proxy",
    ),
    Missing(
        "images come from `talos.mirrors`, with `talos.registryLogin`; charts from the service's "
        "`repository`, definitions from `site.definitions`",
        ANYWHERE,
        "mirror mirrors registries registryAuth registryMirrors",
    ),
    Missing(
        "authorities that machines and services trust are `site.trustedRoots`",
        ANYWHERE,
        "ca caBundle caCertificate caCertificates certificateAuthority trustedRoots",
    ),
    Missing(
        "volumes of vSphere itself are not built, and why is in docs/decisions/"
        "0029-volumes-of-applications.md; pods can claim the machines' data disks: "
        "`localVolumes`",
        frozenset({"services"}),
        "csi persistentVolumes storage storageClass volumes vsphereCsi",
    ),
    Missing(
        "a receiver's address or key is a secret of the stack, set with `pulumi config set "
        "--secret`: `python -m ops check` says which (docs/monitoring.md)",
        frozenset({"receivers"}),
        "apiUrl integrationKey routingKey serviceKey url urlFile webhookUrl",
    ),
    Missing(
        "Omni is brought back to a backup by hand: docs/procedures/omni.md",
        frozenset({"omni"}),
        "bootstrap bootstrapSpec clusterUuid restore snapshot",
    ),
    Missing(
        "a class takes any machine that fits; platform:machines lists this cluster's own",
        frozenset({"omni"}),
        "machineClass machineClasses machines",
    ),
    Missing(
        "Omni makes the cluster's keys and keeps them",
        frozenset({"omni"}),
        "pki secretsBundle talosconfig",
    ),
    Missing(
        "cert-manager proves names by `dns`: Cloudflare, RFC 2136, Route 53 or a solver's webhook; "
        "other ways are not built. A server of one's own is `acme.directory` with `issuer: acme`",
        frozenset({"certManager"}),
        "accessKeyId acmeServer directory directoryUrl route53 server solver solvers webhook",
    ),
)


def way(path: Sequence[str | int]) -> str | None:
    """Say what stands in the place of a key that is none; None when nothing is known of it."""
    key = _plain(str(path[-1]))
    for one in MISSING:
        if key in map(_plain, one.keys.split()) and (not one.below or one.below & {*path[:-1]}):
            return one.way
    return None


def _plain(key: str) -> str:
    return key.replace("-", "").replace("_", "").casefold()
