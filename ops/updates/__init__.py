"""The updates layer: which new versions are merged and deployed without a person."""
