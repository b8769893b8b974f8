"""Layer Omni: the cluster template, validated by omnictl itself, without Omni.

omnictl decodes each patch as Talos does, and refuses what Omni would, but for what only the server
knows: which versions it lists, and who else has the machines.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clients.omnictl import OmnictlError, find_omnictl, run_omnictl, validate
from components.omni import template
from config import omni
from config.shown import escaped, looks_secret

if TYPE_CHECKING:
    from config.settings import Settings

LONGEST = 600


def with_omnictl(settings: Settings, root: Path) -> tuple[list[str], str]:
    """Validate the template; gives what is wrong, and a note where there is no omnictl for it.

    Each machine has an id of the right form in place of its own, which nobody knows before it is
    made.
    """
    section = omni.of(settings)
    try:
        omnictl = find_omnictl(root, section.tag)
    except OmnictlError as error:
        return [], f"note: omnictl has not checked the cluster template: {error}"
    text = template.render(settings, section, template.placeholders(settings), root)
    said = validate(text, partial(run_omnictl, program=omnictl))
    if not said:
        return [], ""
    if looks_secret(said):  # it repeats what it does not understand
        said = "its message is not shown: a file holds what looks like a secret"
    return [f"omnictl refuses the cluster template: {escaped(said[:LONGEST])}"], ""
