"""The layers on the cluster: what each installs, and what they share."""
