"""HTML of the player and the curves."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from latentsync.schema.fields import SyncMode
from latentsync.ui.analysis import Curves
from latentsync.ui.player import build_player, draw_curves


def test_source_and_result_have_one_play_button() -> None:
    page = build_player("page/videos/1", '/tmp/a/my "clip".mp4', SyncMode.LOOP)
    assert page.count("<video") == 2
    assert page.count('data-part="play"') == 1
    assert 'src="gradio_api/file=/tmp/a/my%20%22clip%22.mp4"' in page
    assert 'data-sync-mode="loop"' in page


def test_without_its_source_a_result_plays_alone() -> None:
    page = build_player("page/videos/1", None, SyncMode.BOUNCE)
    assert page.count("<video") == 1
    assert ">Play<" in page


def paths(html: str) -> list[str]:
    root = ElementTree.fromstring(html)
    return [path.attrib["d"] for path in root.iter("path")]


def test_the_curve_breaks_where_no_face_is_seen() -> None:
    sound, mouth = paths(draw_curves(Curves(0.2, [0.1, 1.0], [0.0, 0.3, None, 0.1, 0.2])))
    assert sound.count("M") == 2
    assert mouth.count("M") == 2
    assert mouth.count("L") == 2


def test_the_widest_mouth_is_at_the_top() -> None:
    _, mouth = paths(draw_curves(Curves(0.1, [0.5], [0.0, 0.4, 0.2])))
    heights = [float(point.split()[1]) for point in mouth[1:].split("L")]
    assert heights[1] == min(heights)
    assert heights[0] == max(heights)


def test_a_result_without_a_face_still_shows_its_sound() -> None:
    page = draw_curves(Curves(0.1, [0.5], []))
    assert len(paths(page)) == 1
    assert "not measured" in page


def test_silence_and_closed_lips_can_be_drawn() -> None:
    assert len(paths(draw_curves(Curves(0.1, [0.0], [0.0, 0.0])))) == 2
