"""Call a latentsync server, on this machine, on Cerebrium or on Modal::

    with Client("https://api.cerebrium.ai/v4/p-xxxxxxxx/latentsync", token) as client:
        prediction = client.predict(video="face.mp4", audio="speech.wav")
    prediction.save("out/result.mp4")

A server of one's own also takes jobs, which nobody has to wait for::

    with Client("http://127.0.0.1:8000", token) as client:
        job = client.submit(video="face.mp4", audio="speech.wav")
        client.wait(job).raise_for_status()
        client.download(job, "out/result.mp4")
"""

from __future__ import annotations

from latentsync.client.asynchronous import AsyncClient
from latentsync.client.blocking import Client
from latentsync.client.job import (
    Job,
    JobError,
    JobEvent,
    JobPage,
    JobStatus,
    WebhookDelivery,
)
from latentsync.client.on_modal import ModalClient
from latentsync.client.patience import Patience
from latentsync.client.prediction import Prediction
from latentsync.client.request import Media, Options

__all__ = [
    "AsyncClient",
    "Client",
    "Job",
    "JobError",
    "JobEvent",
    "JobPage",
    "JobStatus",
    "Media",
    "ModalClient",
    "Options",
    "Patience",
    "Prediction",
    "WebhookDelivery",
]
