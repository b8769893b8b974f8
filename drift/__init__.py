"""The drift layer: what was changed behind the stack's back, and whose it is."""

from commands import interrupts

interrupts.quiet()
