"""The commands that check and show the settings of a stack file."""
