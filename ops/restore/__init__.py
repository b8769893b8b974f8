"""Layer Restore: a backup from its storage, checked, and back into the platform."""
