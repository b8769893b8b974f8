"""What the Pulumi engine tells: resources, the steps of a preview, and their words."""
