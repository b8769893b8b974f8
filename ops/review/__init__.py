"""The review layer: what a preview means, for people who have half a minute."""
