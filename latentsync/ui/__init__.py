"""The page of ``latentsync serve --ui``, a Gradio application on top of the client.

:mod:`latentsync.server.routes.page` mounts and protects it. Requires the extra ``ui``.
"""
