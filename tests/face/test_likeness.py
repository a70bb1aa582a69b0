import numpy as np

from latentsync.face.tracked_face import likeness, portrait
from latentsync.face.tracker import track_faces
from tests.face.pictures import astronaut, blank, paste, stranger, turned


def _portrait(picture):
    (track,) = track_faces([picture])
    return portrait(picture, track.points[0])


def test_a_person_resembles_themselves_in_another_place_size_and_tilt():
    original = _portrait(astronaut())
    placed = paste(blank(400, 500, level=140), astronaut(), 300, 220, 300)
    assert likeness(original, _portrait(placed)) > 0.8
    assert likeness(original, _portrait(turned(astronaut(), 20))) > 0.9


def test_another_person_resembles_less():
    assert likeness(_portrait(astronaut()), _portrait(stranger())) < 0.5


def test_a_portrait_of_one_colour_is_no_division_by_zero():
    (track,) = track_faces([astronaut()])
    assert not np.isnan(portrait(blank(), track.points[0])).any()
