"""Sequences of rooms: the same bytes everywhere, labels of every frame exact, what changes and what must not."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("numba")

from train.rooms import (
    EVENT_NAMES,
    MOTIONS,
    SEMANTIC_CLASSES,
    RoomSample,
    render,
    render_sequence,
)
from train.rooms.events import EVENTS, Changes, Clock, Script, changed
from train.rooms.layout import Layout
from train.rooms.parts import DECOR, DOOR, LAMP, Materials, Stream
from train.rooms.people import person, wave
from train.rooms.scene import build_layout, scene_arrays
from train.rooms.shading import shade_arrays

SIZE = 32
FRAMES = 6
# The bytes of sequences on any machine; sets on disk depend on them.
GOLDEN = "95d1b0615b28bee72138f57057143247114ea620e4526595842cc78405cd6f98"


@cache
def sequence(seed: int, motion: str) -> tuple[str, list[RoomSample]]:
    made = render_sequence(seed, FRAMES, motion=motion, height=SIZE, width=SIZE)
    return made.event, list(made.samples)


def scripted(event: str, seeds: range = range(40)) -> tuple[int, Layout, Script]:
    """The first room that can show an event, and the event's script."""
    for seed in seeds:
        layout, _, _ = build_layout(seed)
        script = EVENTS[event](layout, Stream(seed, event), layout.shell.materials, Clock(FRAMES, 5.0))
        if script is not None:
            return seed, layout, script
    raise AssertionError(f"no room of {seeds} shows {event}")


def test_golden_bytes():
    digest = hashlib.sha256()
    for seed, motion in (
        (1, "person"),
        (2, "static"),
        (3, "knocked"),
        (4, "dark"),
        *((s, "moving") for s in range(5, 12)),
    ):
        event, samples = sequence(seed, motion)
        digest.update(event.encode())
        for sample in samples:
            for array in (sample.image, sample.normals, sample.semantic, sample.depth):
                digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes())
    assert digest.hexdigest() == GOLDEN


def test_the_first_frame_is_the_single_room():
    for seed in range(8):
        single = render(seed, SIZE, SIZE)
        for motion in ("static", "knocked", "dark"):
            _, samples = sequence(seed, motion)
            assert np.array_equal(samples[0].image, single.image) == (motion != "dark")
            for layer in ("normals", "semantic", "depth"):
                assert np.array_equal(getattr(samples[0], layer), getattr(single, layer)), layer
            assert {sample.category for sample in samples} == {single.category}


def test_only_noise_and_light_change_where_nothing_happens():
    for seed in range(6):
        event, samples = sequence(seed, "static")
        assert event == "none"
        for one, other in pairwise(samples):
            assert np.array_equal(one.normals, other.normals)
            assert np.array_equal(one.semantic, other.semantic)
            assert np.array_equal(one.depth, other.depth)
            difference = np.abs(one.image.astype(int) - other.image)
            assert 0.1 < difference.mean() < 6
            assert difference.max() < 40


def test_a_person_is_seen_as_clutter():
    for seed in range(16):
        event, samples = sequence(seed, "person")
        assert event == "person"
        empty = render(seed, SIZE, SIZE)
        covered = [np.any(sample.depth < empty.depth - 1e-6) for sample in samples]
        assert any(covered), seed
        for sample in samples:
            nearer = sample.depth < empty.depth
            assert np.all(sample.semantic[nearer] == DECOR)
            assert np.array_equal(sample.semantic[~nearer], empty.semantic[~nearer])
            assert np.array_equal(sample.normals[~nearer], empty.normals[~nearer])
    assert len(SEMANTIC_CLASSES) == 17


def test_people_walk_forwards_with_a_foot_on_the_floor():
    who = person(Stream(1, "person"), Materials(Stream(1, "materials")))
    for phase in np.linspace(0.0, 1.0, 17):
        thing = who.pose(float(phase))
        soles = [at[2] - half[2] for kind, at, _, half, *_ in thing.parts if half[1] > 2 * half[2]]
        assert len(soles) == 2
        assert min(soles) == pytest.approx(0.0, abs=1e-6)
        top = max(at[2] + half[2] for kind, at, _, half, *_ in thing.parts)
        assert 0.9 * who.height < top < 1.05 * who.height
    assert [wave(x) for x in (-0.25, 0.0, 0.25, 0.5, 0.75, 1.25)] == [-1.0, 0.0, 1.0, 0.0, -1.0, 1.0]


def test_a_camera_that_is_knocked_stays_so():
    seed, layout, script = scripted("knock")
    cameras = [script(frame).camera for frame in range(FRAMES)]
    jump = next(i for i, camera in enumerate(cameras) if camera)
    assert jump > 0
    assert set(cameras[:jump]) == {None}
    assert len(set(cameras[jump:])) == 1
    knocked = np.array(cameras[jump])
    axes = knocked[3:12].reshape(3, 3)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    turned = np.arccos(axes[2] @ np.array(layout.shell.camera[9:12]))
    assert 0.4 < np.degrees(turned) < 8
    _, samples = sequence(seed, "knocked")
    assert not np.array_equal(samples[-1].depth, samples[0].depth)


def test_a_dark_sequence_is_darker_and_noisier():
    for seed in range(4):
        light, dark = (
            np.stack([s.image for s in sequence(seed, motion)[1]]) for motion in ("static", "dark")
        )
        assert dark.mean() < 0.75 * light.mean()
        assert dark.std(axis=0).mean() > light.std(axis=0).mean()


def test_a_door_opens():
    _, layout, script = scripted("door")
    assert script(0) == Changes()
    ((place, opened),) = script(FRAMES - 1).replaced or script(FRAMES - 2).replaced
    assert place == layout.shell.door
    assert opened is not None
    closed = layout.all_placed()[place][0]
    moved = [i for i, part in enumerate(closed.parts) if part != opened[0].parts[i]]
    assert len(moved) == 4, "the leaf, its panels and its handle"
    assert all(opened[0].parts[i][1][1] < closed.parts[i][1][1] for i in moved), "into the room"
    assert {part[6] for part in opened[0].parts} == {DOOR}


def test_lamps_and_the_rest_add_up():
    """`Shaded.lamps` is what is missing when the lamps are off; flicker relies on it."""
    for seed in (0, 7, 9):
        _, arrays, _ = build_layout(seed)
        lit = shade_arrays(arrays, SIZE, SIZE)
        lamps = ~np.any(arrays.lights[:, 9:12], axis=1)
        lights, materials = arrays.lights.copy(), arrays.materials.copy()
        lights[lamps, 6:9] = 0.0
        materials[arrays.part_i[arrays.part_i[:, 2] == LAMP, 1], 9] = 0.0
        unlit = shade_arrays(replace(arrays, lights=lights, materials=materials), SIZE, SIZE)
        assert lit.lamps.max() > 0.1
        assert np.allclose(lit.linear - lit.lamps, unlit.linear, atol=1e-12)


def test_a_lamp_goes_out():
    seed, layout, script = scripted("lamp")
    off = next(changes for frame in range(FRAMES) if (changes := script(frame)).off)
    shell, things = changed(layout, off)
    scene, _ = scene_arrays(seed, shell, things)
    before, after = (
        shade_arrays(arrays, SIZE, SIZE) for arrays in (scene_arrays(seed, layout.shell, things)[0], scene)
    )
    assert np.all(after.linear <= before.linear + 1e-12)
    assert after.linear.sum() < before.linear.sum()
    assert np.array_equal(after.semantic, before.semantic)
    assert all(layout.shell.lights[i][6] > 0 for i in off.off), "the layout itself is left alone"


def test_things_are_moved_taken_and_brought():
    seen = set()
    for seed in range(40):
        layout, _, _ = build_layout(seed)
        count = len(layout.all_placed())
        script = EVENTS["thing"](layout, Stream(seed, "thing"), layout.shell.materials, Clock(FRAMES, 5.0))
        assert script is not None
        assert len(layout.all_placed()) == count
        assert script(0) == Changes()
        for frame in range(1, FRAMES):
            changes = script(frame)
            for place, now in changes.replaced:
                thing, x, y, _, _ = layout.all_placed()[place]
                assert not thing.signature
                assert now is None or (now[0] is thing and now[1:3] != (x, y))
                seen.add("taken" if now is None else "moved")
            if changes.added:
                seen.add("brought")
    assert seen == {"moved", "taken", "brought"}


def test_labels_are_those_of_the_changed_scene():
    """What is not traced again is what tracing it would give."""
    for event in ("thing", "door", "lamp"):
        _, layout, script = scripted(event)
        states = [script(frame) for frame in range(FRAMES)]
        assert states[0] == Changes()
        assert len({repr(state) for state in states}) > 1
    event, samples = sequence(9, "moving")
    layout, _, _ = build_layout(9)
    layout.shell.materials.stream = Stream(9, f"{event} materials")
    script = EVENTS[event](layout, Stream(9, event), layout.shell.materials, Clock(FRAMES, 5.0))
    assert script is not None
    for frame, sample in enumerate(samples):
        scene, _ = scene_arrays(9, *changed(layout, script(frame)))
        again = shade_arrays(scene, SIZE, SIZE)
        assert np.array_equal(sample.normals, again.normals)
        assert np.array_equal(sample.depth, again.depth)
        assert np.array_equal(sample.semantic, again.semantic)


def test_every_event_is_drawn():
    def drawn(motion: str, seeds: int) -> set[str]:
        return {render_sequence(seed, 2, motion=motion, height=8, width=8).event for seed in range(seeds)}

    assert drawn("mixed", 120) == set(EVENT_NAMES)
    assert drawn("moving", 60) == {"person", "thing", "door", "lamp"}
    for motion, event in (("static", "none"), ("person", "person"), ("dark", "dark"), ("knocked", "knock")):
        assert drawn(motion, 3) == {event}


def test_a_person_walks_as_far_as_the_rate_says():
    def steps(fps: float) -> float:
        layout, _, _ = build_layout(3)
        script = EVENTS["person"](layout, Stream(3, "person"), Materials(Stream(3, "m")), Clock(40, fps))
        assert script is not None
        places = [script(frame).added for frame in range(40)]
        pairs = [(a[0], b[0]) for a, b in pairwise(places) if a and b]
        return float(np.median([np.hypot(b[1] - a[1], b[2] - a[2]) for a, b in pairs]))

    assert 0.7 / 10 <= steps(10.0) <= 1.4 / 10
    assert steps(5.0) == pytest.approx(2 * steps(10.0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"frames": 0}, "1 to 1000 frames, got 0"),
        ({"frames": 1001}, "got 1001"),
        ({"fps": 0.0}, r"0\.1 to 120 frames a second, got 0"),
        ({"fps": float("nan")}, "got nan"),
        ({"motion": "fast"}, "motion is one of static, moving, person, dark, knocked, mixed; got 'fast'"),
        ({"seed": -1}, "seed"),
        ({"height": 4}, "side"),
    ],
)
def test_bad_arguments(wrong, said):
    with pytest.raises(ValueError, match=said):
        render_sequence(**{"seed": 0, "frames": 2} | wrong)


def test_one_frame_is_a_sequence_too():
    for motion in MOTIONS:
        (sample,) = render_sequence(5, 1, motion=motion, height=SIZE, width=SIZE).samples
        assert sample.image.shape == (SIZE, SIZE, 3)
