"""Files of weights: what they are, where they come from, and bringing them here once.

``catalog`` says what there is, ``ensure`` and ``prepare`` of :mod:`latentsync.weights.ensure`
bring it here. Nothing here imports torch, and huggingface_hub only once a hub is asked.
"""
