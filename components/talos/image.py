"""Layer Talos: the image that the machines are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
import pulumiverse_talos as talos

from components import resource_failures

if TYPE_CHECKING:
    from config.settings import Site
    from config.settings import Talos as TalosSettings


class Image(pulumi.ComponentResource):
    """The schematic of the machines' image, known to the image factory."""

    schematic: talos.imagefactory.Schematic | None = None
    """None when the settings name the id of one that is registered already."""

    def __init__(
        self,
        name: str,
        settings: TalosSettings,
        site: Site,
        provider: talos.Provider,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Register the schematic at the site's image factory."""
        super().__init__("platform:talos:Image", name, None, opts)
        if settings.schematic_document is not None:
            on_error = resource_failures.explained(
                "the image factory's answer",
                lambda _, words: resource_failures.of_factory(site, settings, words),
            )
            self.schematic = talos.imagefactory.Schematic(
                name,
                schematic=settings.schematic_document,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    provider=provider,
                    hooks=pulumi.ResourceHookBinding(on_error=[on_error]),
                ),
            )
        self.register_outputs({"schematic": settings.schematic_id, "version": settings.tag})
