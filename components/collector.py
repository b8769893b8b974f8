"""Lets Python's collector of what is unused run rarely, in a process that imports this.

The program ends after seconds, and hardly anything that it makes is unused before its end. Most of
it is made by imports, where the collector would run more than a hundred times: so `__main__.py`
imports this before all else of the project.
"""

from __future__ import annotations

import gc

gc.set_threshold(100_000, 50, 50)
