"""pyVmomi, imported when somebody first uses it: as `pyvmomi.vim`, never `from ... import vim`.

It makes thousands of vSphere's types at its import. What uses them runs in hooks, so in updates
only: a preview does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyVim.connect import Disconnect, SmartConnect
    from pyVmomi import vim, vmodl

    MODEL: Any = vim

__all__ = ["MODEL", "Disconnect", "SmartConnect", "vim", "vmodl"]
"""MODEL is `vim` for those types that pyVmomi's annotations do not describe."""

if not TYPE_CHECKING:
    PLACES = {
        "Disconnect": ("pyVim.connect", "Disconnect"),
        "SmartConnect": ("pyVim.connect", "SmartConnect"),
        "MODEL": ("pyVmomi", "vim"),
        "vim": ("pyVmomi", "vim"),
        "vmodl": ("pyVmomi", "vmodl"),
    }

    def __getattr__(name: str) -> Any:  # noqa: ANN401 whatever it has
        """Give one of the names above; Python asks for each that this module does not have."""
        if name not in PLACES:
            raise AttributeError(name)
        module, its_name = PLACES[name]
        return getattr(import_module(module), its_name)
