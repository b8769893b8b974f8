"""Layer Report: what a run found, where people look: job summary, pull request, issue."""

from commands import interrupts

interrupts.quiet()
