"""The page in a real browser, with a real server and the draft engine: ``make browser``."""

from __future__ import annotations

import re
import shutil
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from tests.server.live import AUTH, KEY
from tests.server.queues import offering
from tests.ui.service import page_server
from tests.without_packages import children_without

# A browser, a server and a worker share the machine, so the limits are generous.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

ASSETS = Path(__file__).resolve().parents[2] / "assets"
VIDEO, AUDIO = ASSETS / "demo_video.mp4", ASSETS / "demo_audio.wav"
_DESKTOP, _PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
_TIMEOUT_MS = 120_000
_MAKING = re.compile(r"Step 5 of 6: generating the frames, frame \d+ of 161")
# Evaluated in the page itself, which may be ahead of the test.
_PAUSED_AFTER_A_SECOND = """() => {
  if (document.querySelector("#player [data-part=result]").currentTime <= 1) return false;
  document.querySelector("#player [data-part=play]").click();
  return true;
}"""
_BOTH_REST_AT_THE_SAME_PICTURE = """() => {
  const [source, result] = document.querySelectorAll("#player video");
  const stand = source.paused && result.paused && !source.seeking && result.currentTime > 1;
  return stand && Math.abs(source.currentTime - result.currentTime) < 0.1;
}"""
# What a foreign page may try: read responses, and submit as a form does.
_TRY_ALL = """async (server) => {
  const body = JSON.stringify({ video_url: "https://e.com/v", audio_url: "https://e.com/a" });
  const form = new FormData();
  for (const medium of ["video", "audio"]) form.append(medium, new Blob(["a"]), "a");
  const outcomes = [];
  for (const options of [
    {},
    { mode: "no-cors" },
    { method: "POST", body, headers: { "Content-Type": "application/json" } },
    { method: "POST", body, mode: "no-cors" },
    { method: "POST", body: new Blob([body]), mode: "no-cors" },
    { method: "POST", body: form, mode: "no-cors" },
  ]) {
    const answer = fetch(server + "v1/predictions", options);
    outcomes.push(await answer.then((answer) => answer.type, () => "failed"));
  }
  return outcomes;
}"""
_POST_FORM = """(server) => {
  document.body.innerHTML = `<form method="post" enctype="multipart/form-data"
    action="${server}v1/predictions"><input name="video_url" value="https://e.com/v">
    <input name="audio_url" value="https://e.com/a"></form>`;
  document.forms[0].submit();
}"""
_READY = "#player video[data-part=result]"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the page and a worker."""
    with page_server(tmp_path_factory.mktemp("page")) as url:
        yield f"{url}/"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The system's browser, with the demo's face before its camera and a beep in its microphone."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    seen = _write_camera(tmp_path_factory.mktemp("camera") / "face.mjpeg")
    arguments = [
        "--no-sandbox",  # containers run as root, without a sandbox
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={seen}",
        "--host-resolver-rules=MAP *.example 127.0.0.1",  # names whose owner points them here
    ]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def _write_camera(target: Path) -> Path:
    with av.open(VIDEO) as source, av.open(target, "w", format="mjpeg") as camera:
        stream = camera.add_stream("mjpeg", rate=25)
        stream.width = stream.height = 512
        stream.pix_fmt = "yuvj420p"
        for frame in source.decode(video=0):
            camera.mux(stream.encode(frame.reformat(format="yuvj420p")))
        camera.mux(stream.encode(None))
    return target


@pytest.fixture(params=[_DESKTOP, _PHONE], ids=["desktop", "phone"])
def screen(request: pytest.FixtureRequest) -> dict[str, int]:
    """The size of a screen."""
    size: dict[str, int] = request.param
    return size


class Visit:
    """An opened page and what it asked for while it was open."""

    def __init__(self, page: Any, url: str, host: str | None = None) -> None:
        self.page = page
        self.outside: list[str] = []
        self.refused: list[str] = []  # by the page's own policy, before anything is sent
        self.faults: list[str] = []
        page.set_default_timeout(_TIMEOUT_MS)
        page.on("request", lambda sent: self._note(sent.url, host or url))
        page.on("requestfailed", lambda sent: self._note_refused(sent.url, sent.failure))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.goto(url)

    def _note(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.outside.append(asked)

    def _note_refused(self, asked: str, why: str | None) -> None:
        if why is not None and "csp" in why.lower():
            self.refused.append(asked)

    def give_key(self) -> None:
        self.page.fill("#key", KEY)
        self.page.keyboard.press("Enter")
        self.page.wait_for_selector("#make")

    def choose(self, video: Path, audio: Path = AUDIO) -> None:
        self.page.set_input_files("#video input[type=file]", video)
        self.page.set_input_files("#audio input[type=file]", audio)
        self.page.wait_for_selector("#video video")
        self.page.wait_for_selector("#audio button[aria-label=Play]")

    def wait_for(self, words: str) -> str:
        """Wait until the status says so; return all of it."""
        self.page.get_by_text(re.compile(words)).first.wait_for()
        said: str = self.page.inner_text("#status")
        return said


@pytest.fixture
def visit(chromium: Any, url: str) -> Iterator[Visit]:
    """A visit on a desktop, the key given; nothing of it may have gone wrong."""
    context = chromium.new_context(viewport=_DESKTOP)
    visit = Visit(context.new_page(), url)
    visit.give_key()
    yield visit
    context.close()
    assert visit.outside == []
    assert visit.faults == []


def test_a_video_is_made_watched_and_downloaded(
    chromium: Any, url: str, screen: dict[str, int], tmp_path: Path
) -> None:
    context = chromium.new_context(viewport=screen, has_touch=screen is _PHONE)
    visit = Visit(context.new_page(), url)
    page = visit.page
    visit.give_key()
    visit.choose(VIDEO)
    page.click("#make")
    making = page.locator("#status .ls-status", has_text=_MAKING)
    making.locator("progress:not([value='0']):not([value='100'])").wait_for()
    visit.wait_for("Ready. 6.4 s, 512 x 512, made with Draft")
    page.wait_for_selector("#curve svg >> nth=1")

    page.get_by_role("button", name="Play both").click()
    page.wait_for_function(_PAUSED_AFTER_A_SECOND)
    page.wait_for_function(_BOTH_REST_AT_THE_SAME_PICTURE)
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "result.mp4")
    with av.open(tmp_path / "result.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 161

    assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    assert visit.outside == []
    assert visit.faults == []


def test_warnings_stand_next_to_the_result(visit: Visit, tmp_path: Path) -> None:
    odd = tmp_path / "odd.mp4"
    _write_odd(odd)
    visit.choose(odd)
    visit.page.click("#make")
    said = visit.wait_for("Ready. ")
    assert "Please note:" in said
    warnings = visit.page.locator("#status .ls-warnings li").all_inner_texts()
    assert len(warnings) == 2
    assert "301x301 pixels" in warnings[0]
    assert "no usable face of the speaker in " in warnings[1]
    visit.page.screenshot(path=tmp_path / "warnings.png", full_page=True)


def _write_odd(target: Path) -> None:
    """Write the demo's face with odd sides, followed by pictures without any."""
    with av.open(VIDEO) as source, av.open(target, "w") as written:
        stream = written.add_stream("libx264", rate=25)
        stream.width = stream.height = 301
        stream.pix_fmt = "yuv444p"  # 4:2:0 has even sides only
        for number, frame in enumerate(source.decode(video=0)):
            picture = frame.reformat(301, 301, "rgb24").to_ndarray()
            shown = picture if number < 40 else picture * 0
            written.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            if number == 60:
                break
        written.mux(stream.encode(None))


def test_a_clicked_face_is_the_one_that_speaks(visit: Visit) -> None:
    page = visit.page
    visit.choose(VIDEO)
    page.get_by_text("Several people?").click()
    page.get_by_role("button", name="Show faces").click()
    visit.wait_for("1 face found here")
    picture = page.locator("#preview img")
    page.wait_for_function("document.querySelector('#preview img')?.naturalWidth > 0")
    box = picture.bounding_box()
    assert box is not None
    picture.click(position={"x": box["width"] / 2, "y": box["height"] * 0.55})
    page.locator("#faces label.selected", has_text="Face 1").wait_for()
    picture.click(position={"x": 4, "y": box["height"] - 4})
    page.locator("#faces label.selected", has_text="clicked point").wait_for()
    page.click("#make")
    said = visit.wait_for("That did not work")
    assert "matches no usable face in frame 0" in said


def test_video_and_speech_may_be_recorded(visit: Visit) -> None:
    page = visit.page
    page.context.grant_permissions(["camera", "microphone"])
    page.click("#video [aria-label='Capture from camera']")
    page.get_by_text("Click to Access Webcam").click()
    page.locator("#video").get_by_text("Record", exact=True).click()
    page.wait_for_timeout(2000)  # as long as is recorded
    with page.expect_response("**/gradio_api/upload*"):
        page.locator("#video").get_by_text("Stop", exact=True).click()
    page.click("#audio [aria-label='Record audio']")
    page.locator("#audio").get_by_text("Record", exact=True).click()
    page.wait_for_timeout(1500)  # as long as is recorded
    with page.expect_response("**/gradio_api/upload*"):
        page.locator("#audio button", has_text="Stop").locator("visible=true").click()
    page.wait_for_selector("#audio button[aria-label=Play]")
    page.click("#make")
    assert "512 x 512, made with Draft" in visit.wait_for("Ready")


@pytest.fixture
def long_speech(tmp_path: Path) -> Path:
    """Speech so long that a test can act while the job runs."""
    target = tmp_path / "long.wav"
    with wave.open(str(AUDIO)) as speech, wave.open(str(target), "wb") as written:
        written.setparams(speech.getparams())
        written.writeframes(speech.readframes(speech.getnframes()) * 5)
    return target


def test_a_running_video_is_canceled(visit: Visit, long_speech: Path) -> None:
    visit.choose(VIDEO, long_speech)
    visit.page.click("#make")
    visit.wait_for("Step \\d of 6")
    visit.page.click("#cancel")
    visit.wait_for("Canceled. This video will not be made")
    visit.page.locator("#jobs label.selected", has_text=": canceled").wait_for()
    visit.page.locator("#cancel").wait_for(state="hidden")


def test_a_video_is_deleted_once_it_is_confirmed(visit: Visit, long_speech: Path) -> None:
    visit.choose(VIDEO, long_speech)
    visit.page.click("#make")
    visit.wait_for("Step \\d of 6")
    listed = visit.page.locator("#jobs label")
    number = listed.count()
    visit.page.once("dialog", lambda dialog: dialog.dismiss())
    visit.page.click("#delete")
    visit.wait_for("Step \\d of 6")
    assert listed.count() == number
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.page.click("#delete")
    visit.wait_for("Deleted from the server")
    visit.page.locator("#delete").wait_for(state="hidden")
    assert listed.count() == number - 1


def test_invalid_input_is_explained(visit: Visit, tmp_path: Path) -> None:
    visit.page.click("#make")
    visit.wait_for("Choose or record a video first")
    text = tmp_path / "letter.mp4"
    text.write_text("Dear Sir or Madam")
    visit.choose(text)
    visit.page.click("#make")
    said = visit.wait_for("Choose another file, or save it as MP4")
    assert str(tmp_path) not in said
    assert "Traceback" not in said


def test_only_engines_that_can_run_are_offered(visit: Visit) -> None:
    visit.page.click("#options button")
    visit.page.get_by_text("Automatic: on this server Draft").wait_for()
    offered = visit.page.locator("#engine input[type=radio]")
    values = [one.get_attribute("value") for one in offered.all()]
    with httpx.Client(headers=AUTH) as client:
        models = client.get(f"{visit.page.url}v1/models").json()["models"]
    assert values == ["server", *(one["id"] for one in models if one["available"])]


def test_where_the_servers_engine_cannot_run_another_is_chosen_and_makes_the_video(
    chromium: Any, tmp_path: Path, long_speech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children_without(tmp_path / "site", monkeypatch)
    lacking = {"LATENTSYNC_ENGINE": "latentsync-1.6"}
    with page_server(tmp_path, "--no-auth", needed="/v1/models", **lacking) as url:
        context = chromium.new_context(viewport=_DESKTOP)
        visit = Visit(context.new_page(), f"{url}/")
        visit.page.click("#options button")
        visit.page.locator("#engine input[value=draft]:checked").wait_for()
        assert visit.page.locator("#engine input[type=radio]").count() == 1
        visit.choose(VIDEO, long_speech)
        visit.page.click("#make")
        visit.wait_for("Step \\d of 6")
        visit.page.click("#cancel")
        visit.wait_for("Canceled. This video will not be made")
        context.close()
        assert visit.faults == []


def test_jobs_are_found_again_after_a_reload(visit: Visit, long_speech: Path) -> None:
    visit.choose(VIDEO, long_speech)
    visit.page.click("#make")
    visit.wait_for("Step \\d of 6")
    visit.page.reload()
    visit.wait_for("Step \\d of 6")  # chosen again because it still runs
    visit.page.get_by_text("Log and timings").click()
    visit.page.locator("#log li", has_text="probe: video 512x512").wait_for()
    visit.wait_for("Ready")
    visit.page.wait_for_selector(_READY)
    visit.page.locator("#player").get_by_role("button", name="Play", exact=True).wait_for()
    visit.page.locator("#log tr", has_text="generating the frames").wait_for()


def test_everything_is_reached_with_the_keyboard(visit: Visit) -> None:
    page = visit.page
    names = ["Forget my key", "Several people?", "Options", "Make the video", "Refresh the list"]
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        text = page.evaluate("document.activeElement.innerText")
        reached += [name for name in names if text.startswith(name)]
        if len(reached) == len(names):
            break
    assert reached == names
    page.get_by_role("button", name="Make the video").focus()
    page.keyboard.press("Enter")
    visit.wait_for("Choose or record a video first")


@pytest.mark.parametrize(("path", "shown"), [("docs", ".swagger-ui .opblock"), ("redoc", "h1")])
def test_the_description_of_the_api_is_shown_without_other_hosts(
    chromium: Any, url: str, path: str, shown: str
) -> None:
    context = chromium.new_context()
    visit = Visit(context.new_page(), f"{url}{path}", url)
    visit.page.locator(shown).first.wait_for()
    visit.page.wait_for_load_state("networkidle")
    context.close()
    assert visit.outside == visit.refused
    assert visit.faults == []


def test_an_open_page_does_not_hold_up_the_end_of_the_server(chromium: Any, tmp_path: Path) -> None:
    grace = {"LATENTSYNC_SHUTDOWN_GRACE_S": "120"}
    with page_server(tmp_path, "--no-worker", **grace) as url:
        context = chromium.new_context()
        visit = Visit(context.new_page(), f"{url}/")
        with visit.page.expect_response("**/gradio_api/heartbeat/*"):  # its stream is open
            visit.give_key()
        ends_at = time.monotonic()
    assert time.monotonic() - ends_at < 40
    context.close()


@pytest.fixture(scope="module")
def open_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with the page that asks for no key and has no worker."""
    folder = tmp_path_factory.mktemp("open")
    with page_server(folder, "--no-worker", "--no-auth") as url:
        yield f"{url}/"


@pytest.mark.parametrize("name", ["evil.example", "localhost", "127.0.0.1"])
def test_a_page_from_elsewhere_gets_nothing_of_a_server_without_a_key(
    chromium: Any, open_url: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "page.html").write_text("<!doctype html><title>Elsewhere</title><body>")
    context = chromium.new_context()
    page = context.new_page()
    statuses: list[int] = []
    page.on("response", lambda got: got.url.startswith(open_url) and statuses.append(got.status))
    with offering(tmp_path) as elsewhere:
        address = f"{elsewhere}/page.html".replace("127.0.0.1", name)
        page.goto(address)
        outcomes = page.evaluate(_TRY_ALL, open_url)
        assert outcomes == ["failed", "opaque", "failed", "opaque", "opaque", "opaque"]
        with page.expect_navigation(url=f"{open_url}v1/predictions"):
            page.evaluate(_POST_FORM, open_url)
        assert "ORIGIN_FORBIDDEN" in page.inner_text("body")
        page.goto(address)
        with page.expect_navigation(url=open_url):
            page.evaluate("server => { location = server; }", open_url)
        assert "ORIGIN_FORBIDDEN" in page.inner_text("body")
    context.close()
    assert len(statuses) >= 6  # browsers do not report responses that they withhold from the page
    assert set(statuses) == {403}
    assert httpx.get(f"{open_url}v1/predictions").json()["predictions"] == []


def test_a_name_that_was_pointed_here_gets_nothing_of_a_server_without_a_key(
    chromium: Any, open_url: str
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    for path in ("", "v1/predictions", "docs"):
        answer = page.goto(open_url.replace("127.0.0.1", "rebound.example") + path)
        assert answer.status == 403
        assert "HOST_FORBIDDEN" in page.inner_text("body")
    context.close()


def test_the_page_of_a_server_without_a_key_works(chromium: Any, open_url: str) -> None:
    for name in ("127.0.0.1", "localhost"):
        context = chromium.new_context(viewport=_DESKTOP)
        visit = Visit(context.new_page(), open_url.replace("127.0.0.1", name))
        visit.choose(VIDEO)
        visit.page.click("#make")
        visit.wait_for("Queued: ")
        visit.page.click("#cancel")
        visit.wait_for("Canceled. This video will not be made")
        context.close()
        assert (visit.outside, visit.faults) == ([], [])
    jobs = httpx.get(f"{open_url}v1/predictions").json()["predictions"]
    assert [job["status"] for job in jobs] == ["canceled", "canceled"]
