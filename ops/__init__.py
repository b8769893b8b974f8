"""The operator's tools, behind one command: `python -m ops`."""

from clients import interrupts

interrupts.quiet()
