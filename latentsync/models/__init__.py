"""The networks of LatentSync: torch modules whose state-dict names are the published ones."""
