"""Runs every recorded array of a reference folder through the package and says how far off it is.

``python -m tests.parity --reference DIR``; the layout of DIR is in ``folder.py``.
"""
