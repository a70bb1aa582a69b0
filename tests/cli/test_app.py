"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest
from typer.testing import CliRunner, Result

import latentsync
from latentsync.cli import app as cli
from latentsync.cli import options
from latentsync.errors import InvalidField
from latentsync.settings import Settings
from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO
from tests.engine_builders import replace_builders
from tests.ports import free_port
from tests.server.clips import write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, KEY, REPOSITORY, answers, process, serving_engine, wait_until


def square_engine(_name: str, _settings: Settings, _check: object) -> SquareEngine:
    return SquareEngine()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("LATENTSYNC_", "CEREBRIUM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LATENTSYNC_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("LATENTSYNC_DATA_DIR", str(tmp_path / "data"))
    replace_builders(monkeypatch, {"draft": ("tests.cli.test_app", "square_engine")})


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("media") / "with blanks, 'quotes' and 中文"
    video, audio = write_clip(folder / "my clip.mp4"), write_speech(folder / "say (1).wav")
    return ["--video", str(video), "--audio", str(audio)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_engine(tmp_path_factory.mktemp("server"), SquareEngine()) as url:
        yield url


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.commands, list(arguments), env=environment)


def one_line(result: Result) -> str:
    """Return the single line on stderr; there must be no other."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_version_and_help() -> None:
    assert run("--version").stdout == f"latentsync {latentsync.__version__}\n"


def test_help_is_whole_in_80_columns() -> None:
    whole = CliRunner().invoke(cli.commands, ["--help"], terminal_width=80).stdout
    commands = re.findall(r"^  (\w+)  ", whole.split("Commands:")[1], re.MULTILINE)
    assert {"serve", "worker", "run", "predict", "submit", "list", "weights"} <= set(commands)
    of_weights = [("weights", name) for name in ("list", "pull", "verify")]
    for command in ((), *((name,) for name in commands), *of_weights):
        said = CliRunner().invoke(cli.commands, [*command, "--help"], terminal_width=80)
        assert said.exit_code == 0, said.output
        assert max(map(len, said.stdout.splitlines())) <= 80
        _, _, listed = said.stdout.partition("Commands:")
        assert "..." not in listed  # of a sentence that is cut off


@pytest.mark.processes
def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentsync", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"latentsync {latentsync.__version__}\n"


def test_run_makes_a_video_and_says_what_it_did(media: list[str], tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "out put.mp4"
    result = run("run", *media, "--output", str(output), "--seed", "11", "--speaker", "0:3,4")
    assert result.exit_code == 0, result.output
    with av.open(output) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    summary = result.stdout.splitlines()
    assert summary[0] == f"{output}: 0.40 s, 10 frames, 96x64, engine square 1, seed 11"
    assert "write" in summary[-1]
    assert list((tmp_path / "work").glob("*/*")) == []


ODD = "is 97x64 pixels; its frames were extended to 98x64, because H.264 needs even sides."


def test_a_warning_of_the_run_is_one_line_of_the_summary(
    url: str, media: list[str], tmp_path: Path
) -> None:
    odd = write_clip(tmp_path / "odd.mp4", width=97)
    given = ["--video", str(odd), *media[2:], "--output", str(tmp_path / "o.mp4")]
    here = run("run", *given)
    there = run("predict", "--url", url, *given, "--token", KEY)
    for result, field in ((here, "video"), (there, "video_base64")):
        assert (result.exit_code, result.stderr) == (0, "")
        _, warning, stages, *_ = result.stdout.splitlines()
        assert warning == f"warning: {field} {ODD}"
        assert "generate" in stages


def test_run_takes_a_symlink_and_a_relative_path(
    media: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.mp4").symlink_to(media[1])
    monkeypatch.chdir(tmp_path)
    result = run("run", "--video", "link.mp4", "--audio", media[3], "--output", "out.mp4")
    assert result.exit_code == 0, result.output
    assert Path("out.mp4").is_file()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--guidance-scale", "0.5", "guidance_scale is 0.5"),
        ("--inference-steps", "51", "inference_steps is 51"),
        ("--seed", "-2", "seed is -2"),
        ("--speaker", "left", "speaker is 'left'"),
        ("--speaker", "0:9,9,1,1", "speaker holds"),
    ],
)
def test_a_wrong_option_is_one_clear_line_and_exit_code_2(
    media: list[str], tmp_path: Path, option: str, value: str, said: str
) -> None:
    result = run("run", *media, "--output", str(tmp_path / "o.mp4"), option, value)
    assert result.exit_code == 2
    assert said in one_line(result)


def test_a_missing_option_is_a_usage_error() -> None:
    result = run("run", "--video", "x")
    assert result.exit_code == 2
    assert "--output" in result.stderr
    for command in (["run"], ["predict", "--url", "http://127.0.0.1:9"]):
        result = run(*command, "--video", "x", "--output", "o.mp4")
        assert result.exit_code == 2
        assert "--audio, or --segments" in one_line(result)


@pytest.fixture
def talk(media: list[str], tmp_path: Path) -> list[str]:
    """The clip and two segments, one with a file next to the list of them."""
    speech = tmp_path / "talk" / "ann.wav"
    speech.parent.mkdir()
    speech.write_bytes(Path(media[3]).read_bytes())
    entries: list[dict[str, object]] = [
        {"audio": "ann.wav", "end_s": 0.2, "speaker": {"frame": 0, "point": [3, 4]}},
        {"audio": media[3], "start_s": 0.2, "end_s": 0.4, "audio_start_s": 0.1},
    ]
    path = speech.with_name("segments.json")
    path.write_text(json.dumps(entries))
    return [*media[:2], "--segments", str(path)]


def test_segments_come_from_a_file_and_are_in_the_summary(
    url: str, talk: list[str], tmp_path: Path
) -> None:
    for command in (["run"], ["predict", "--url", url, "--token", KEY]):
        output = tmp_path / f"{command[0]}.mp4"
        result = run(*command, *talk, "--no-keep-sound", "--output", str(output))
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[1] == "segments: 0.00 to 0.20 s, 0.20 to 0.40 s"
        assert output.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sync-mode", "remap"], "remap"),
        (["--audio", "x.wav"], "shared audio is not used"),
        (["--segments", "none.json"], "none.json: No such file"),
    ],
)
def test_segments_that_cannot_work_are_one_clear_line(
    talk: list[str], tmp_path: Path, options: list[str], said: str
) -> None:
    for command in (["run"], ["predict", "--url", "http://127.0.0.1:9"]):
        result = run(*command, *talk, "--output", str(tmp_path / "o.mp4"), *options)
        assert result.exit_code == 2
        assert said in one_line(result)


def test_a_missing_recording_of_a_segment_is_named(talk: list[str], tmp_path: Path) -> None:
    Path(talk[3]).with_name("ann.wav").unlink()
    for command in (["run"], ["predict", "--url", "http://127.0.0.1:9"]):
        result = run(*command, *talk, "--output", str(tmp_path / "o.mp4"))
        assert result.exit_code in (1, 2)
        assert "segments.0.audio" in one_line(result)


def test_a_recording_of_a_segment_is_never_overwritten(talk: list[str], tmp_path: Path) -> None:
    (tmp_path / "talk" / "ann.mp4").symlink_to("ann.wav")
    for command in (["run"], ["predict", "--url", "http://127.0.0.1:9"]):
        result = run(*command, *talk, "--output", str(tmp_path / "talk" / "ann.mp4"))
        assert result.exit_code == 2
        assert "one of the sources" in one_line(result)


def test_a_failed_run_is_one_clear_line_and_exit_code_1(media: list[str], tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    result = run("run", "--video", str(text), *media[2:], "--output", str(tmp_path / "o.mp4"))
    assert result.exit_code == 1
    assert "video" in one_line(result)
    assert not (tmp_path / "o.mp4").exists()


def test_a_missing_file_is_one_clear_line(media: list[str], tmp_path: Path) -> None:
    result = run("run", "--video", "no.mp4", *media[2:], "--output", str(tmp_path / "o.mp4"))
    assert result.exit_code == 1
    assert "video" in one_line(result)


def test_an_address_of_another_kind_is_no_missing_file(media: list[str], tmp_path: Path) -> None:
    result = run("run", "--video", "ftp://a/b", *media[2:], "--output", str(tmp_path / "o.mp4"))
    assert result.exit_code != 0
    assert "http" in one_line(result)


def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_uid: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    result = run("weights", "list")
    assert result.exit_code == 2
    assert "set HOME, or LATENTSYNC_DATA_DIR and LATENTSYNC_WEIGHTS_DIR" in one_line(result)


def test_a_private_address_is_refused_here_too(media: list[str], tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/clip.mp4"
    result = run("run", "--video", address, *media[2:], "--output", str(tmp_path / "o.mp4"))
    assert result.exit_code == 1
    assert "video" in one_line(result)


@pytest.mark.parametrize(
    ("name", "said"),
    [("file/o.mp4", "not a folder"), ("folder.mp4", "is a folder"), ("o.avi", r"ends in .mp4")],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_run(
    media: list[str], tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    for command in (["run"], ["predict", "--url", "http://127.0.0.1:9"]):
        result = run(*command, *media, "--output", str(tmp_path / name))
        assert result.exit_code == 2
        assert said in one_line(result)


def test_a_source_is_never_overwritten(media: list[str], tmp_path: Path) -> None:
    source = tmp_path / "same.mp4"
    source.write_bytes(Path(media[1]).read_bytes())
    (tmp_path / "link.mp4").symlink_to(source)
    for name in ("same.mp4", "link.mp4"):
        output = str(tmp_path / name)
        result = run("run", "--video", str(source), *media[2:], "--output", output)
        assert result.exit_code == 2
        assert "one of the sources" in one_line(result)
    assert source.read_bytes() == Path(media[1]).read_bytes()


def test_a_wrong_setting_is_named(media: list[str], tmp_path: Path) -> None:
    result = run("run", *media, "--output", str(tmp_path / "o.mp4"), LATENTSYNC_MAX_FPS="many")
    assert result.exit_code == 2
    assert "LATENTSYNC_MAX_FPS is 'many'" in one_line(result)


def test_predict_asks_a_server_with_the_key_of_the_environment(
    url: str, media: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "o.mp4"
    keys = f"{KEY}, another"  # as a server in the same shell takes them
    result = run("predict", "--url", url, *media, "--output", str(output), LATENTSYNC_API_KEY=keys)
    assert result.exit_code == 0, result.output
    assert output.read_bytes()[4:8] == b"ftyp"
    assert "10 frames" in result.stdout
    assert KEY not in result.output


def test_predict_says_the_servers_error(url: str, media: list[str], tmp_path: Path) -> None:
    output = str(tmp_path / "o.mp4")
    result = run("predict", "--url", url, *media, "--output", output, "--token", "wrong")
    assert result.exit_code == 1
    assert "token" in one_line(result)
    result = run("predict", "--url", "nowhere", *media, "--output", output)
    assert result.exit_code == 2
    assert "url is 'nowhere'" in one_line(result)


@pytest.mark.parametrize(
    ("options", "environment", "said"),
    [
        ([], {}, "requires a key: set LATENTSYNC_API_KEY, or give --token."),
        (["--token", "wrong"], {"LATENTSYNC_API_KEY": KEY}, "refused the key of --token."),
        ([], {"LATENTSYNC_API_KEY": "wrong"}, "refused the key of LATENTSYNC_API_KEY."),
        ([], {"LATENTSYNC_TOKEN": "wrong"}, "refused the key of LATENTSYNC_TOKEN."),
        (
            [],
            {"CEREBRIUM_API_KEY": KEY, "LATENTSYNC_API_KEY": "wrong"},
            "CEREBRIUM_API_KEY is set as well, and was not used.",
        ),
    ],
)
def test_a_refused_key_is_reported_with_the_variable_to_set(
    url: str, media: list[str], options: list[str], environment: dict[str, str], said: str
) -> None:
    result = run("predict", *media, "--output=o.mp4", "--url", url, *options, **environment)
    assert result.exit_code == 1
    assert said in one_line(result)
    assert KEY not in result.output


@pytest.mark.parametrize("name", ["LATENTSYNC_API_KEY", "LATENTSYNC_TOKEN", "CEREBRIUM_API_KEY"])
def test_a_key_may_have_its_new_and_its_earlier_names(
    url: str, media: list[str], tmp_path: Path, name: str
) -> None:
    output = str(tmp_path / "o.mp4")
    result = run("predict", "--url", url, *media, "--output", output, **{name: KEY})
    assert result.exit_code == 0, result.output
    assert KEY not in result.output


def test_an_unreachable_server_is_reported_with_what_to_check(media: list[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = run("predict", "--url", url, *media, "--output", "o.mp4")
    assert result.exit_code == 1
    assert one_line(result) == (
        f"Error: {url} cannot be reached: Connection refused. "
        "Does the server run, and is its address (--url or LATENTSYNC_URL) right?"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto", "auto"),
        ("12:320,180", {"frame": 12, "point": [320, 180]}),
        ("0:1.5,2", {"frame": 0, "point": [1.5, 2]}),
        ("12:100,80,400,380", {"frame": 12, "box": [100, 80, 400, 380]}),
    ],
)
def test_speaker_texts(text: str, value: object) -> None:
    assert options.parse_speaker(text) == value


@pytest.mark.parametrize("text", ["", "12", "12:", "12:1", "12:1,2,3", "-1:1,2", "1:1,2,3,4,5"])
def test_other_speaker_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="FRAME:X,Y"):
        options.parse_speaker(text)


def test_serve_refuses_to_start_without_a_key() -> None:
    for keys in ("", " , "):
        result = run("serve", LATENTSYNC_API_KEY=keys)
        assert result.exit_code == 2
        assert "Set LATENTSYNC_API_KEY to" in one_line(result)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "a.example"])
def test_serve_without_auth_stays_on_loopback(host: str) -> None:
    result = run("serve", "--no-auth", "--host", host)
    assert result.exit_code == 2
    assert "loopback" in one_line(result)


@pytest.mark.parametrize("command", [["serve", "--no-auth", "--port=0"], ["worker"]])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("STORAGE_URL", "nonsense://bucket", "LATENTSYNC_STORAGE_URL begins with nonsense://"),
        ("DATABASE_URL", "sqlite:////proc/none/jobs.db", "/proc/none cannot be used: No such file"),
        (
            "DATABASE_URL",
            "postgresql+psycopg://me:secret@127.0.0.1:1/jobs",
            "The jobs database cannot be used: connection failed",
        ),
    ],
)
def test_what_keeps_a_process_from_starting_is_one_line(
    command: list[str], name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"LATENTSYNC_{name}", value)
    result = CliRunner().invoke(cli.commands, command)
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert said in result.stderr
    assert "secret" not in result.stderr


def test_serve_says_how_to_get_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = run("serve", "--ui", "--no-auth")
    assert result.exit_code == 2
    assert "pip install -e '.[ui]'" in one_line(result)


@pytest.mark.parametrize("command", [["serve", "--no-auth"], ["worker"]])
@pytest.mark.parametrize(
    ("folder", "variable"),
    [
        ("WORK_DIR", "WORK_DIR"),
        ("DATA_DIR", "DATA_DIR"),
        ("STORAGE_URL", "STORAGE_URL"),
    ],
)
def test_a_folder_that_cannot_be_used_is_named_with_its_variable(
    command: list[str],
    folder: str,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(f"LATENTSYNC_{folder}", str(tmp_path / "file" / "inside"))
    result = CliRunner().invoke(cli.commands, command)
    assert result.exit_code == 3
    assert result.stderr == (
        f"Error: {tmp_path}/file/inside cannot be used: Not a directory. "
        f"LATENTSYNC_{variable} names another folder.\n"
    )


@pytest.mark.parametrize("command", [["serve", "--no-auth"], ["worker"]])
def test_an_sqlite_that_is_too_old_keeps_a_process_from_starting(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    result = CliRunner().invoke(cli.commands, command)
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "SQLite 3.36.0" in result.stderr
    assert "3.37 or later" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_with_a_key_and_ends_on_a_signal(number: signal.Signals) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ("-m", "latentsync", "serve", "--port", str(port))
    with process(*arguments, LATENTSYNC_API_KEYS="other", LATENTSYNC_API_KEY=KEY) as server:
        wait_until(lambda: answers(url))
        assert httpx.post(f"{url}/predict", json={}).status_code == 401
        assert httpx.post(f"{url}/predict", json={}, headers=AUTH).status_code == 422
        server.send_signal(number)
        assert server.wait(timeout=60) == 0
        assert server.stdout is not None
        assert "Traceback" not in server.stdout.read()


@pytest.mark.processes
def test_serve_says_what_runs_where_and_without_auth_asks_for_no_key(tmp_path: Path) -> None:
    with process("-m", "latentsync", "serve", "--no-auth", "--port", "0") as server:
        assert server.stdout is not None
        said = ""
        while (found := re.search(r"listening on (http://127\.0\.0\.1:\d+) ", said)) is None:
            line = server.stdout.readline()
            assert line, said
            said += line
        assert f"jobs database: sqlite:///{tmp_path}/data/jobs.db" in said
        assert f"files: {tmp_path}/data/files" in said
        assert "a worker process of this server runs the jobs" in said
        assert httpx.post(f"{found[1]}/predict", json={}).status_code == 422


def test_a_port_in_use_is_reported_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", "--no-auth", "--port", port)
    assert result.exit_code == 3
    assert f"Port {port} of 127.0.0.1 is in use by another program." in one_line(result)
    assert "--port" in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("203.0.113.5", "--host 203.0.113.5 is not an address of this machine"),
        ("2001:db8::5", "--host 2001:db8::5 is not an address of this machine"),
        ("a..example", "--host 'a..example' cannot be resolved"),
        ("", "--host '' cannot be resolved"),
    ],
)
def test_a_host_that_is_not_this_machine_is_one_line(host: str, said: str, tmp_path: Path) -> None:
    result = run("serve", "--host", host, "--port", "0", LATENTSYNC_API_KEY=KEY)
    assert result.exit_code == 3
    assert said in one_line(result)
    assert not (tmp_path / "data").exists()


def test_an_unknown_host_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:  # the real one asks for it over the network
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    result = run("serve", "--host", "nosuch.invalid", "--port", "0", LATENTSYNC_API_KEY=KEY)
    assert result.exit_code == 3
    assert "--host 'nosuch.invalid' cannot be resolved" in one_line(result)


def test_a_server_with_keys_in_both_variables_says_that_it_takes_both() -> None:
    both = {"LATENTSYNC_API_KEY": "new", "LATENTSYNC_API_KEYS": "old"}
    warning, error = run("serve", "--host", "203.0.113.5", **both).stderr.splitlines()
    assert warning.startswith("Warning: LATENTSYNC_API_KEY and LATENTSYNC_API_KEYS are both set")
    assert error.startswith("Error: ")


@pytest.mark.parametrize(
    "command",
    [
        ["serve", "--no-auth", "--host", "localhost", "--ui"],
        ["worker"],
        ["run", "--video", "no.mp4", "--audio", "no.wav", "--output", "o.mp4"],
        [
            "predict",
            "--url",
            "x",
            "--video",
            "http://a/v",
            "--audio",
            "http://a/a",
            "--output=o.mp4",
        ],
        ["list", "--url", "nowhere"],
        ["weights", "list"],
    ],
)
def test_a_misspelt_setting_is_warned_of_once(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)  # so that serve ends
    misspelt = {"LATENTSYNC_MAX_FSP": "60", "LATENTSYNC_DATABASE_URL": "sqlite:////proc/none/x.db"}
    said = run(*command, **misspelt).stderr.splitlines()
    warnings = [line for line in said if line.startswith("Warning: ")]
    assert warnings == [
        "Warning: LATENTSYNC_MAX_FSP is not a setting of latentsync and has no effect; "
        "did you mean LATENTSYNC_MAX_FPS?"
    ]
    assert said[0] == warnings[0]


def test_the_worker_of_a_server_leaves_warning_to_the_server() -> None:
    misspelt = {"LATENTSYNC_MAX_FSP": "60", "LATENTSYNC_DATABASE_URL": "sqlite:////proc/none/x.db"}
    assert "Warning" not in run("worker", "--with-parent", **misspelt).stderr


@pytest.mark.processes
def test_an_interrupted_run_reports_it_and_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "o.mp4"
    command = [sys.executable, "-m", "latentsync", "run", "--output", str(output)]
    running = subprocess.Popen(
        [*command, "--video", str(DEMO_VIDEO), "--audio", str(DEMO_AUDIO)],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list((tmp_path / "work").glob("p-*/r-*")))
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGINT
    assert said.strip().splitlines()[-1] == "Stopped; nothing was written."
    assert not output.exists()
    assert list((tmp_path / "work").glob("p-*")) == []
