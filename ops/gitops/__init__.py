"""The command that writes what Argo CD reads from this repository."""
