"""A room over time, as a fixed camera sees it: the same scene in each frame, one event, changing light, fresh noise.

    build_layout(seed) -> event -> each frame: changes -> scene, traced again if it changed -> light -> exposure, noise

Frame 0 is `render(seed)` to the byte, except that a person may be walking there already and that a dark sequence is
dark from the start. Afterwards lamps flicker, exposure drifts by a few per cent and follows the light with a delay, and
the sensor's noise is another in each frame. Seed, number of frames, rate, motion and size decide every byte, on every
machine: the rules of exactness are `raycast`'s. (Python's `sum` is not among them: it rounds differently since 3.12.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor

import numpy as np

from train.rooms.events import EVENTS, Clock, Script, changed
from train.rooms.layout import Layout
from train.rooms.parts import Stream
from train.rooms.sample import RoomSample, check_size
from train.rooms.scene import build_layout, scene_arrays
from train.rooms.shading import Shaded, expose, shade_arrays

FRAMES_MAX = 1000
FPS_MIN, FPS_MAX = 0.1, 120.0
EVENT_NAMES: tuple[str, ...] = tuple(EVENTS)
# Motion -> how often each event is drawn. Where a room cannot show one (no door is in view), another is drawn.
_ODDS: dict[str, dict[str, int]] = {
    "static": {"none": 1},
    "moving": {"person": 5, "thing": 2, "door": 2, "lamp": 1},
    "person": {"person": 1},
    "dark": {"dark": 1},
    "knocked": {"knock": 1},
    "mixed": {"none": 6, "person": 6, "thing": 3, "door": 2, "lamp": 1, "knock": 1, "dark": 1},
}
MOTIONS: tuple[str, ...] = tuple(_ODDS)
_DRIFT_SECONDS = 6.0  # between the knots of the exposure's drift


@dataclass(frozen=True)
class RoomSequence:
    """A sequence of one room.

    event: what happens in it, one of EVENT_NAMES
    samples: its frames in order, rendered as they are taken
    """

    event: str
    samples: Iterator[RoomSample]


def check_sequence(frames: int, fps: float, motion: str) -> None:
    """Raises ValueError for a sequence that is not rendered."""
    if not 1 <= frames <= FRAMES_MAX:
        raise ValueError(f"a sequence has 1 to {FRAMES_MAX} frames, got {frames}")
    if not FPS_MIN <= fps <= FPS_MAX:
        raise ValueError(f"a sequence has {FPS_MIN:g} to {FPS_MAX:g} frames a second, got {fps:g}")
    if motion not in MOTIONS:
        raise ValueError(f"motion is one of {', '.join(MOTIONS)}; got {motion!r}")


def render_sequence(
    seed: int,
    frames: int,
    *,
    fps: float = 5.0,
    motion: str = "mixed",
    height: int = 256,
    width: int = 256,
) -> RoomSequence:
    """The room of a seed over a number of frames.

    fps: frames a second, which decides how far things move and how fast light changes from one to the next.
    motion: one of MOTIONS.

    Raises ValueError for bad arguments.
    """
    check_size(height, width)
    check_sequence(frames, fps, motion)
    layout, _, category = build_layout(int(seed))
    clock = Clock(int(frames), float(fps))
    event, script = _draw_event(seed, layout, motion, clock)
    light = _Light(seed, clock, dark=event == "dark")
    return RoomSequence(event, _frames(seed, layout, category, script, light, clock, (height, width)))


def _draw_event(seed: int, layout: Layout, motion: str, clock: Clock) -> tuple[str, Script]:
    """The event of a sequence, and its script."""
    odds, st = dict(_ODDS[motion]), Stream(seed, "event")
    while True:
        event = _pick(st, odds) if odds else "none"
        odds.pop(event, None)
        # Further materials come behind those of the room, which keep their places.
        layout.shell.materials.stream = Stream(seed, f"{event} materials")
        script = EVENTS[event](layout, Stream(seed, event), layout.shell.materials, clock)
        if script is not None:
            return event, script


def _pick(st: Stream, odds: dict[str, int]) -> str:
    """One of the events, drawn by the odds."""
    return st.pick([event for event, tickets in odds.items() for _ in range(tickets)])


def _frames(
    seed: int,
    layout: Layout,
    category: int,
    script: Script,
    light: _Light,
    clock: Clock,
    size: tuple[int, int],
) -> Iterator[RoomSample]:
    """Renders frame after frame; a scene that is as in the frame before is not traced again."""
    before, shaded = None, None
    for frame in range(clock.frames):
        changes = script(frame)
        if shaded is None or changes != before:
            shell, things = changed(layout, changes)
            scene, _ = scene_arrays(seed, shell, things)
            before, shaded = changes, shade_arrays(scene, *size)
        image = light.image(frame, shaded, scene.sensor)
        yield RoomSample(image, shaded.normals, shaded.semantic, shaded.depth, category)


class _Light:
    """Light and sensor over the frames of a sequence."""

    def __init__(self, seed: int, clock: Clock, *, dark: bool) -> None:
        st = Stream(seed, "light")
        self._seed, self._clock = seed, clock
        self._flicker = st.u(0.0, 0.015)
        self._drift = st.u(0.01, 0.04)
        self._adapts = min(1.0, st.u(0.6, 1.6) / clock.fps)  # of the way to a new exposure, in each frame
        self._exposure, self._noise = (st.u(0.1, 0.3), st.u(2.0, 4.0)) if dark else (1.0, 1.0)
        self._mean = 0.0

    def image(self, frame: int, shaded: Shaded, sensor: np.ndarray) -> np.ndarray:
        """The image of a frame; frames come in order."""
        flicker, drift = 0.0, 1.0
        if frame == 0:
            self._mean = shaded.mean
        else:
            self._mean += self._adapts * (shaded.mean - self._mean)
            flicker = self._flicker * Stream(self._seed, "flicker", frame).u(-1.0, 1.0)
            drift += self._drift * (self._wander(frame / self._clock.fps) - self._wander(0.0))
        sensor = sensor.copy()
        sensor[3] *= drift * self._exposure
        sensor[8] *= self._noise
        noise_seed = Stream(self._seed, "sensor", frame).n(0, (1 << 31) - 1)
        image: np.ndarray = expose(shaded.linear + flicker * shaded.lamps, self._mean, sensor, noise_seed)
        return image

    def _wander(self, seconds: float) -> float:
        """A smooth random function of time, -1 to 1."""
        knot = floor(seconds / _DRIFT_SECONDS)
        k = seconds / _DRIFT_SECONDS - knot
        k = k * k * (3.0 - 2.0 * k)
        a, b = (Stream(self._seed, "drift", knot + i).u(-1.0, 1.0) for i in (0, 1))
        return a + k * (b - a)
