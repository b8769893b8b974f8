"""Configuration: what an operator can set, checked as a whole before anything is touched.

`load_file` reads a stack file, `parse` values at hand; components/stack_settings.py reads the
running stack. All give a `Settings`, or raise a `SettingsError` with every problem.
"""

from config.problems import Problem, SettingsError
from config.reading import parse
from config.settings import Settings
from config.stack_file import load_file

__all__ = ["Problem", "Settings", "SettingsError", "load_file", "parse"]
