"""The tests that compute, with the numerical libraries held to what older processors can do.

``python -m tests.processors [limit ...]``, which is ``make processors``; all limits by default.
"""
