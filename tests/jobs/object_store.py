"""An S3 server of one's own: ``python -m tests.jobs.object_store PORT BUCKET``.

It is moto behind a real port, and it checks signatures. The key and its secret come from the
environment. A line on its standard input makes it deaf or lets it listen again; it ends when that
input does.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from tests.jobs.farm import REPOSITORY
from tests.ports import free_port

KEY, SECRET = "key-of-the-tests", "secret-of-the-tests/+=0123456789"
BUCKET = "bucket"
_AWAY, _BACK = "away", "back"


class ObjectStore:
    """A server with one bucket.

    Attributes:
        url: where it listens.
        environment: variables by which a process finds it and is let in.
        process: of the server.
    """

    def __init__(self, port: int, bucket: str, key: str, secret: str) -> None:
        self._bucket = bucket
        self._key, self._secret = key, secret
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.url,
            # Nothing of the machine's own account, should there be one.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, str(port), bucket],
            cwd=REPOSITORY,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def await_start(self) -> None:
        """Wait until it listens."""
        self._await_answer()

    def go_away(self) -> None:
        """Refuse connections; what is stored stays."""
        self._tell(_AWAY)

    def come_back(self) -> None:
        """Listen again."""
        self._tell(_BACK)

    def stored(self) -> set[str]:
        """Return the keys of everything in the bucket."""
        return {path.split("/", 1)[1] for path in self._client().find(self._bucket)}

    def empty(self) -> None:
        """Remove everything from the bucket."""
        client = self._client()
        for path in client.find(self._bucket):
            client.rm_file(path)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def _client(self) -> Any:
        from s3fs import S3FileSystem

        return S3FileSystem(
            key=self._key,
            secret=self._secret,
            endpoint_url=self.url,
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self._await_answer()

    def _await_answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n", "the server of objects ended"


_opened: list[Any] = []  # s3fs has no types


@contextmanager
def object_store(
    bucket: str = BUCKET, key: str = KEY, secret: str = SECRET
) -> Iterator[ObjectStore]:
    """Run a server with an empty bucket."""
    store = ObjectStore(free_port(), bucket, key, secret)
    try:
        store.await_start()
        yield store
    finally:
        _close_clients()
        store.close()


def forget_clients() -> None:
    """Let this process's file stores be opened anew: a client keeps what it was let in with."""
    from s3fs import S3FileSystem

    _opened.extend(S3FileSystem._cache.values())
    S3FileSystem.clear_instance_cache()


def _close_clients() -> None:
    """Close the connections of all file stores.

    s3fs itself waits for a tenth of a second only: on a busy machine some would stay open.
    """
    from fsspec.asyn import sync

    forget_clients()
    for files in _opened:
        client = getattr(files, "_s3creator", None)
        if client is not None:
            sync(files.loop, client.__aexit__, None, None, None, timeout=30)
    _opened.clear()


def _prepare(bucket: str) -> None:
    """Make the bucket and the one user who may do anything, and check everybody from now on."""
    from moto import settings
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends

    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, "us-east-1")
    users = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    users.create_user(region_name="us-east-1", user_name="tests")
    all_actions = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    may = {"Version": "2012-10-17", "Statement": [all_actions]}
    users.put_user_policy("tests", "all", json.dumps(may))
    access_key = users.create_access_key("tests")
    access_key.access_key_id = os.environ["AWS_ACCESS_KEY_ID"]
    access_key.secret_access_key = os.environ["AWS_SECRET_ACCESS_KEY"]
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0


def _serve(port: int) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)
    while True:
        server = make_server("127.0.0.1", port, app, threaded=True)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        _say_done()
        _wait_for(_AWAY)
        server.shutdown()
        thread.join()
        server.server_close()
        _say_done()
        _wait_for(_BACK)


def _wait_for(word: str) -> None:
    line = sys.stdin.readline()
    if line.strip() != word:
        os._exit(0)  # whoever started this is gone


def _say_done() -> None:
    sys.stdout.write("done\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _prepare(sys.argv[2])
    _serve(int(sys.argv[1]))
