"""The page for people who would rather look than read; it works through the client.

:mod:`latentsync.server.routes.page` lets browsers in. Needs the extra ``ui``.
"""
