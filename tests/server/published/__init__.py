"""Clients of the two queue contracts as people write them: plain scripts with requests."""
