"""The platform: settings in, layers in order, outputs out."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumiverse_talos as talos

import components.collector  # noqa: F401 first, for the imports that follow
from clients.omnictl import OmnictlError
from clients.talosctl import TalosctlError
from components import entrances, layers, lifecycle, notes
from components.failures import exit_when_told, tell
from components.gitops import generated as gitops
from components.hooks import end_waits_on_interrupt
from components.kubernetes.foundation import Definition
from components.sdk import be_quick
from components.stack_settings import load_from_pulumi, require_secret
from components.talos.image import Image
from components.talos.patch_files import PatchError
from components.vsphere.machines import Machines, VSphereInputs
from config.problems import SettingsError
from config.settings import Settings

ROOT = Path(__file__).parent
WRONG = (SettingsError, PatchError, TalosctlError, OmnictlError, layers.PublishedError)
"""What is told with a key and a fix before anything is made."""


def read_settings() -> tuple[Settings, list[Definition]]:
    """Read and check everything that can be wrong before a resource is registered."""
    asked = None if pulumi.runtime.is_dry_run() else notes.ask()
    try:
        settings = load_from_pulumi()
        way = lifecycle.of(settings)
        way.check(settings, ROOT)
        gitops.check(settings, ROOT)
        definitions = layers.published(settings)
        if not pulumi.runtime.is_dry_run():
            way.check_programs(settings)
    except WRONG as error:
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
    cluster = lifecycle.of(settings).build(
        settings, machines=machines, provider=provider, root=ROOT
    )
    cluster.finish(layers.build(settings, definitions, cluster=cluster.access, machines=machines))

    pulumi.export("endpoint", settings.access_url)
    for output, secret in cluster.secrets.items():
        pulumi.export(output, secret)
    pulumi.export("expires", cluster.access.expires)
    pulumi.export("addresses", entrances.addresses(settings.services))
    pulumi.export("next", entrances.next_step(settings.services, cluster.first_step))


if __name__ == "__main__":
    be_quick()
    exit_when_told()
    end_waits_on_interrupt()
    main()
