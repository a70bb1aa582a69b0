"""What the runner logs of a run reaches its caller as plain lines, and nothing else does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from latentsync import runner
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from latentsync.worker.runner_main import LINE_CHARS, LINES_MAX, plain, report_lines
from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine

RUNNER = logging.getLogger("latentsync.runner")


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "latentsync")
    caplog.set_level(logging.DEBUG, RUNNER.name)


def test_the_stages_of_a_run_are_told_in_their_order_without_a_place(tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "face.mp4"), write_speech(tmp_path / "speech.wav")
    request = RunRequest(
        video=PathSource(video, "video"),
        audio=PathSource(audio, "audio"),
        options=RunOptions(),
    )
    settings = Settings(allowed_roots=(tmp_path,), work_dir=tmp_path / "work")
    told: list[str] = []
    with report_lines(told.append):
        runner.run(request, tmp_path / "out.mp4", settings=settings, pipeline=SquareEngine())
    assert [line.split(":")[0] for line in told] == ["fetch", "probe", "read", "generate", "write"]
    assert "generated the frames with square in" in told[3]
    assert "/" not in "".join(told)


def test_only_the_runner_is_heard_from_info_on_and_only_within_the_block() -> None:
    told: list[str] = []
    with report_lines(told.append):
        RUNNER.info("one %d", 1)
        RUNNER.debug("too small")
        logging.getLogger("latentsync.media.fetch").warning("another logger")
        RUNNER.warning("two")
    RUNNER.info("after the block")
    assert told == ["one 1", "two"]


def test_lines_are_bounded_in_number_and_length() -> None:
    told: list[str] = []
    with report_lines(told.append):
        for _ in range(LINES_MAX + 5):
            RUNNER.info("x" * 2 * LINE_CHARS)
    assert [len(line) for line in told] == [LINE_CHARS] * LINES_MAX


def test_a_traceback_stays_in_the_process() -> None:
    told: list[str] = []
    with report_lines(told.append):
        try:
            raise ValueError("secret")
        except ValueError:
            RUNNER.exception("it failed")
    assert told == ["it failed"]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("read '/srv/private/a.mp4' in 2 s", "read '… in 2 s"),
        ("from https://name:word@host/a?token=b now", "from … now"),
        ("s3://bucket/key", "…"),
        ("data:video/mp4;base64,AAAA here", "… here"),
        ("one\r\ntwo\x1b[31m\tthree", "one two [31m three"),
        ("25.00 fps, 1/2 of 512x512", "25.00 fps, 1/2 of 512x512"),
    ],
)
def test_a_line_is_one_line_without_places(said: str, line: str) -> None:
    assert plain(said) == line
