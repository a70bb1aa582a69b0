"""Durable jobs: stored before the request is answered, queued, run by workers, finished once.

``store`` keeps the jobs, ``queue`` hands them to workers through DBOS, ``storage`` keeps media and
results. This package knows neither HTTP nor models; :mod:`latentsync.worker` runs the jobs.
"""
