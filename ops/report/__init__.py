"""Layer Report: what a run found, where people look: job summary, pull request, issue."""

from clients import interrupts

interrupts.quiet()
