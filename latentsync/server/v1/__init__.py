"""The native API, ``/v1``: predictions, their events and output, uploads, models."""
