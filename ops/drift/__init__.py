"""The drift layer: what was changed without the stack, and who owns it."""
