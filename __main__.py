"""The platform: settings in, layers in order, outputs out."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumiverse_talos as talos

from clients.talosctl import TalosctlError, check_talosctl
from components import entrances, layers, notes
from components.failures import exit_when_told, tell
from components.gitops import generated as gitops
from components.hooks import end_waits_on_interrupt
from components.kubernetes.foundation import Definition
from components.sdk import be_quick
from components.stack_settings import load_from_pulumi, require_secret
from components.talos.cluster import Cluster
from components.talos.identity import Identity
from components.talos.image import Image
from components.talos.inputs import TalosInputs
from components.talos.nodes import Nodes
from components.talos.patch_files import PatchError, check_patch_files
from components.vsphere.machines import Machines, VSphereInputs
from config.problems import SettingsError
from config.settings import Settings

ROOT = Path(__file__).parent


def read_settings() -> tuple[Settings, list[Definition]]:
    """Read and check everything that can be wrong before a resource is registered."""
    asked = None if pulumi.runtime.is_dry_run() else notes.ask()
    try:
        settings = load_from_pulumi()
        check_patch_files(settings, ROOT)
        gitops.check(settings, ROOT)
        definitions = layers.published(settings)
        if not pulumi.runtime.is_dry_run():
            check_talosctl(settings.talos.tag)
    except (SettingsError, PatchError, TalosctlError, layers.PublishedError) as error:
        raise tell(str(error)) from None
    finally:
        notes.tell(asked)
    return settings, definitions


def main() -> None:
    """Build the platform."""
    settings, definitions = read_settings()
    password = require_secret("vspherePassword")
    name = settings.cluster.name

    provider = talos.Provider("talos", image_factory_url=f"https://{settings.site.image_factory}")
    image = Image(name, settings.talos, settings.site, provider)
    machines = Machines("machines", VSphereInputs.of(settings), password, image.schematic)
    identity = Identity(name, settings.talos, settings.machines, provider)
    inputs = TalosInputs.of(settings)
    nodes = Nodes(
        name,
        inputs,
        machines=machines,
        identity=identity,
        provider=provider,
        registry_password=(
            None if settings.talos.registry_login is None else require_secret("registryPassword")
        ),
        root=ROOT,
    )
    machines.keep_apart(nodes.virtual_machines)
    cluster = Cluster(
        name,
        inputs,
        identity=identity,
        nodes=nodes,
        provider=provider,
        # With the machines everything in the cluster is gone: nothing of it is deleted one by one.
        opts=pulumi.ResourceOptions(deleted_with=machines),
    )
    layers.build(settings, definitions, cluster=cluster, machines=machines)

    pulumi.export("endpoint", settings.endpoint)
    pulumi.export("kubeconfig", cluster.kubeconfig)
    pulumi.export("talosconfig", identity.talosconfig)
    pulumi.export("expires", cluster.expires)
    pulumi.export("addresses", entrances.addresses(settings.services))
    pulumi.export("next", entrances.next_step(settings.services))


if __name__ == "__main__":
    be_quick()
    exit_when_told()
    end_waits_on_interrupt()
    main()
