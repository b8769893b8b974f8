"""vCenter: its machines, its content library, and what a killed run left in it."""
