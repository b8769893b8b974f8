"""Layer vSphere: whether this run makes the machines for the first time, as the engine tells.

The engine keeps no resource without its parent and its provider. So when it creates both of the
machines' in this run, its state knows no machine: none is there that could be changed. It calls a
resource's hook `before_create` only then, in a preview as in the deployment, before it answers the
program. Two witnesses, since `pulumi up --replace` creates one that is there again.
"""

from __future__ import annotations

import pulumi
from pulumi import ResourceHook, ResourceHookOptions


class FirstCreation:
    """Sees whether the engine creates all that the machines stand on."""

    def __init__(self, name: str) -> None:
        """Take the name of its hook, of which the engine takes each only once."""
        self._created: set[str] = set()

        async def seen(args: pulumi.ResourceHookArgs) -> None:
            self._created.add(args.urn)

        # In a preview too: a plan holds a deployment to what each resource depends on.
        self._hook = ResourceHook(name, seen, ResourceHookOptions(on_dry_run=True))

    @property
    def hooks(self) -> pulumi.ResourceHookBinding:
        """What each witness needs among its options."""
        return pulumi.ResourceHookBinding(before_create=[self._hook])

    async def is_witnessed_by(self, *witnesses: pulumi.Resource) -> bool:
        """Tell, once the engine has registered these, whether it has created them all just now."""
        urns = [await one.urn.future() for one in witnesses]
        return all(urn in self._created for urn in urns)
