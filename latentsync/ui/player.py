"""HTML of the player, source and result side by side, and of the curves; see ``player.js``."""

import html
from pathlib import Path
from urllib.parse import quote

from latentsync.schema.fields import SyncMode
from latentsync.ui.analysis import Curves
from latentsync.ui.texts import note

SCRIPT = Path(__file__).with_name("player.js").read_text("utf-8")

_WIDTH, _HALF = 1000, 60  # of the drawing; it is stretched to the page's width
_GAPS_HEIGHT = 110


def build_player(result_url: str, source_path: str | None, sync_mode: SyncMode) -> str:
    """Return the two videos with one play button.

    Args:
        result_url: of the finished video.
        source_path: of the uploaded video; None if it is no longer known.
        sync_mode: how the source was fitted to the speech; the player repeats it the same way.
    """
    videos = _video("result", "Result", result_url)
    name = "Play"
    if source_path is not None:
        source_url = f"gradio_api/file={quote(source_path)}"
        videos = _video("source", "Source", source_url, "muted") + videos
        name = "Play both"
    return (
        f'<div class="ls-player" data-sync-mode="{sync_mode.value}"><div class="ls-pair">{videos}'
        '</div><div class="ls-controls"><button type="button" data-part="play" '
        f'data-name="{name}">{name}</button><input type="range" data-part="seek" min="0" max="1" '
        'step="any" value="0" aria-label="Position in the result">'
        '<output data-part="time">0.0 s</output></div></div>'
    )


def draw_curves(curves: Curves) -> str:
    """Return the waveform of the result and, below it, the mouth opening."""
    measured = [gap for gap in curves.gaps if gap is not None]
    drawings = _labelled("Sound", _svg(_wave(curves.peaks), 2 * _HALF, "loudness of the speech"))
    if measured:
        gaps = _svg(_line(curves.gaps, max(measured)), _GAPS_HEIGHT, "mouth opening")
        drawings += _labelled("Mouth opening, measured in the result", gaps)
    else:
        drawings += note("The mouth opening was not measured: no face, or longer than 30 s.")
    return f'<div class="ls-curve" data-duration-s="{curves.duration_s:.3f}">{drawings}</div>'


def _video(part: str, name: str, url: str, *flags: str) -> str:
    attributes = " ".join(["playsinline", 'preload="auto"', *flags])
    return (
        f'<figure><figcaption>{name}</figcaption><video data-part="{part}" {attributes} '
        f'aria-label="{name}" src="{html.escape(url)}"></video></figure>'
    )


def _labelled(name: str, drawing: str) -> str:
    return f"<figure><figcaption>{name}</figcaption>{drawing}</figure>"


def _svg(path: str, height: int, meaning: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{meaning}"><path d="{path}"/><line data-part="now" x1="0" x2="0" y1="0" '
        f'y2="{height}"/></svg>'
    )


def _wave(peaks: list[float]) -> str:
    """Return an SVG path with a vertical stroke for each peak."""
    step = _WIDTH / max(len(peaks), 1)
    strokes = []
    for number, peak in enumerate(peaks):
        reach = max(peak * _HALF, 0.5)
        strokes.append(f"M{(number + 0.5) * step:.1f} {_HALF - reach:.1f}v{2 * reach:.1f}")
    return "".join(strokes)


def _line(gaps: list[float | None], largest: float) -> str:
    """Return an SVG path that is interrupted where no face is found."""
    step = _WIDTH / max(len(gaps), 1)
    points, pen = [], "M"
    for number, gap in enumerate(gaps):
        if gap is None:
            pen = "M"
            continue
        height = (1 - gap / max(largest, 1e-6)) * (_GAPS_HEIGHT - 8) + 4
        points.append(f"{pen}{(number + 0.5) * step:.1f} {height:.1f}")
        pen = "L"
    return "".join(points)
