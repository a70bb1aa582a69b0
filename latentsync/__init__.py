"""latentsync: the same video, with lips that say other speech."""

__version__ = "0.1.0"
