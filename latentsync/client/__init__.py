"""Client of a latentsync server, self-hosted or on Cerebrium or Modal::

    with Client("https://api.cerebrium.ai/v4/p-xxxxxxxx/latentsync", token) as client:
        prediction = client.predict(video="face.mp4", audio="speech.wav")
    prediction.save("out/result.mp4")

A self-hosted server also accepts jobs::

    with Client("http://127.0.0.1:8000", token) as client:
        job = client.submit(video="face.mp4", audio="speech.wav")
        client.wait(job).raise_for_status()
        client.download(job, "out/result.mp4")

A video can have several speakers, each with its own recording::

    segments = [
        Segment("ann.wav", start_s=0.5, speaker={"frame": 0, "point": [320, 180]}),
        Segment("ben.wav", start_s=4, speaker={"frame": 0, "point": [960, 180]}),
    ]
    job = client.submit("two.mp4", segments=segments)
"""

from latentsync.client._http import RetryPolicy
from latentsync.client._payload import Media, Options, Segment
from latentsync.client.client import AsyncClient, Client
from latentsync.client.modal import ModalClient
from latentsync.client.models import (
    Job,
    JobError,
    JobEvent,
    JobPage,
    JobStatus,
    Prediction,
    WebhookDelivery,
)

Patience = RetryPolicy  # its former name

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
    "RetryPolicy",
    "Segment",
    "WebhookDelivery",
]
