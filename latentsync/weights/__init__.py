"""Weights files: their catalog, download and verification.

``ensure`` and ``prepare`` of :mod:`latentsync.weights.ensure` download the files of the catalog.
Nothing here imports torch; huggingface_hub is imported only for requests to a hub.
"""
