"""Jobs that survive anything: recorded before they are answered, run by workers, finished once.

``store`` records, ``line`` hands recorded jobs to workers through a durable queue, ``worker`` runs
them in a process of its own per device, ``files`` keeps their media and results. Nothing here knows
HTTP or models: the runner does the work.
"""
