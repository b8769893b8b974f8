"""Layer Report: what a run found, where people look: job summary, pull request, issue."""
