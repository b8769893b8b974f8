"""What the layers share: a step of the deployment that only waits.

Why not wait in an `after_*` hook of the resource that is waited for: the engine records that
resource even when the hook fails (pulumi/pkg, resource/deploy/step.go), so the next `pulumi up`
finds nothing to do and never waits again. A gate is a resource of its own which waits in
`before_*` hooks: when one fails or is killed, the gate is not recorded, and the next run waits
again. Its inputs say what it has seen through; a change of theirs closes it until it is seen again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from config.resource_types import GATE

if TYPE_CHECKING:
    from components.hooks import Hook


def in_order(*hooks: Hook) -> Hook:
    """Make one hook of several; one that fails stops those after it."""

    async def in_order(args: pulumi.ResourceHookArgs) -> None:
        for hook in hooks:
            await hook(args)

    return in_order


class Gate(pulumi.ComponentResource):
    """Opens when its hook returns; whoever depends on `opened` comes after that."""

    opened: pulumi.Output[pulumi.Resource]
    """The resource waited for, known once the gate is open. (The SDK takes a dependency on a
    component for one on its children, and a gate has none.)"""

    def __init__(  # noqa: PLR0913 a gate is its name, what it saw, what it waits for, and how
        self,
        name: str,
        seen: Mapping[str, Any],
        *,
        after: pulumi.Input[pulumi.Resource],
        on_create: Hook | None = None,
        on_update: Hook | None = None,
        in_previews: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Wait after `after`; `seen` are inputs: keys in camelCase, no secrets.

        With `in_previews` the hooks are called in previews too, and must not wait there.
        """
        how = pulumi.ResourceHookOptions(on_dry_run=True) if in_previews else None
        hooks = pulumi.ResourceHookBinding(
            before_create=(
                [pulumi.ResourceHook(f"{name}-first", on_create, how)] if on_create else None
            ),
            before_update=(
                [pulumi.ResourceHook(f"{name}-again", on_update, how)] if on_update else None
            ),
        )
        own = pulumi.ResourceOptions(depends_on=[after], hooks=hooks)
        merged = pulumi.ResourceOptions.merge(opts, own)
        super().__init__(GATE, name, dict(seen), merged)
        self.opened = pulumi.Output.all(self.urn, after).apply(lambda both: both[1])
        self.register_outputs({})
