"""What the commands share: how they end at a Ctrl-C, and how they call the engine."""
