"""The rehearsal layer: drives the stack through its life inside the lab, and measures it."""
