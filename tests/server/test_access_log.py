"""What the log of a real server says of the calls it has answered."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from latentsync.jobs.models import JobStatus
from latentsync.jobs.store import Finished
from latentsync.server.middleware import ANONYMOUS
from tests.jobs.farm import farm
from tests.ports import free_port
from tests.server.live import answers, process, wait_until

pytestmark = pytest.mark.processes

NAME = "0f1e2d3c4b5a.mp4"


def test_the_log_does_not_contain_secret_names(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with farm(tmp_path) as behind:
        [job] = behind.service.submit([behind.submission()], ANONYMOUS)
        key = f"results/{job.id}/{NAME}"
        (tmp_path / "video").write_bytes(b"video")
        behind.service.files.put(tmp_path / "video", key)
        begun = behind.service.store.begin(job.id, "w")
        assert begun is not None
        behind.service.store.finish(begun, Finished(JobStatus.SUCCEEDED, result_key=key))
        folders = {
            name: str(getattr(behind.settings, name))
            for name in ("data_dir", "work_dir", "weights_dir")
        }
    variables = {f"LATENTSYNC_{name.upper()}": folder for name, folder in folders.items()}
    command = ("serve", "--no-auth", "--no-worker", "--port", str(port))
    with process("-m", "latentsync", *command, **variables) as server:
        wait_until(lambda: answers(url))
        for path in (f"/outputs/{job.id}/{NAME}", f"/static/results/{job.id}/{NAME}"):
            assert httpx.get(url + path).content == b"video"
            assert httpx.head(f"{url}{path}?again").status_code == 200
        server.terminate()
        log, _ = server.communicate(timeout=60)
    assert f'"GET /outputs/{job.id}/*** HTTP/1.1" 200' in log
    assert f'"HEAD /static/results/{job.id}/***?again HTTP/1.1" 200' in log
    assert '"GET /health HTTP/1.1" 200' in log
    assert NAME.removesuffix(".mp4") not in log
