"""The drift layer: what was changed behind the stack's back, and whose it is."""
