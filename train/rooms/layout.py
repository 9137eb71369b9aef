"""Placing things in a shell; knows footprints, walls and the camera's view, not what the things are."""

from __future__ import annotations

from train.rooms.parts import Materials, Stream, Thing
from train.rooms.shell import BACK, LEFT, QUARTER, RIGHT, Rect, Shell

Placed = tuple[Thing, float, float, float, float]  # a thing, its x and y, cosine and sine of its turn
TURNS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # cosine and sine of quarters


class Layout:
    """Things placed in a shell so that footprints do not overlap and signature things are in the camera's view."""

    def __init__(self, shell: Shell, stream: Stream, materials: Materials) -> None:
        self.shell = shell
        self.st = stream
        self.m = materials
        self.placed: list[Placed] = []
        self.taken: list[Rect] = list(shell.blocked)
        self.wall_used = BACK

    def fits(self, rect: Rect, gap: float = 0.04, near: float = 0.8) -> bool:
        """Whether a footprint is inside the room, clear of others and of the camera."""
        w, d, _ = self.shell.room
        x0, y0, x1, y1 = rect
        if x0 < 0.0 or y0 < 0.0 or x1 > w or y1 > d:
            return False
        ex, ey = self.shell.camera[0], self.shell.camera[1]
        dx, dy = max(x0 - ex, 0.0, ex - x1), max(y0 - ey, 0.0, ey - y1)
        if dx * dx + dy * dy < near * near:
            return False
        return all(
            x0 >= b[2] + gap or x1 <= b[0] - gap or y0 >= b[3] + gap or y1 <= b[1] - gap for b in self.taken
        )

    def seen(self, x: float, y: float, z: float, limit: float = 0.85) -> bool:
        """Whether a point is in the square view with a margin, not too near."""
        u, v, q = self.shell.project(x, y, z)
        return q > 1.2 and abs(u) < limit and abs(v) < 1.0

    def wall(
        self,
        thing: Thing,
        *,
        signature: bool = True,
        walls: tuple[int, ...] = (BACK, BACK, LEFT, RIGHT),
        away: float = 0.02,
        hang: bool = False,
    ) -> bool:
        """Places a thing with its back to a wall; hanging things need no floor. Returns False if there is no place."""
        w, d, h = thing.size
        if h > self.shell.room[2] - 0.02:
            return False
        for tries in range(48):
            wall = self.st.pick(walls)
            n = self.shell.length(wall)
            if n < w + 0.1:
                continue
            along = self.st.u(w * 0.5 + 0.03, n - w * 0.5 - 0.03)
            (xa, ya), (xb, yb) = (
                self.shell.on_wall(wall, along - w * 0.5, away),
                self.shell.on_wall(wall, along + w * 0.5, away + d),
            )
            rect = (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))
            x, y = self.shell.on_wall(wall, along, away + d * 0.5)
            if not self.fits(rect) or (signature and not self.seen(x, y, h * 0.5)):
                continue
            # Tall things leave windows free as long as there is another place.
            if (h > 1.05 or hang) and (hang or tries < 32) and self._covers_window(wall, along, w):
                continue
            self._add(thing, x, y, QUARTER[wall], rect, signature)
            self.wall_used = wall
            return True
        return False

    def _covers_window(self, wall: int, along: float, w: float) -> bool:
        return any(
            o == wall and a < along + w * 0.5 and along - w * 0.5 < b for o, a, b in self.shell.openings
        )

    def _add(self, thing: Thing, x: float, y: float, quarter: int, rect: Rect, signature: bool) -> None:
        thing.signature = signature
        c, s = TURNS[quarter % 4]
        self.placed.append((thing, x, y, c, s))
        self.taken.append(rect)

    def free(
        self,
        thing: Thing,
        *,
        signature: bool = True,
        any_angle: bool = True,
        far: bool = False,
        flat: bool = False,
        near: float = 0.8,
    ) -> bool:
        """Places a thing anywhere on the floor, at any angle; flat things (rugs) may lie under others."""
        for _ in range(48):
            t = self.st.u(-0.35, 0.35) if any_angle else self.st.u(-0.04, 0.04)
            k = 1.0 / (1.0 + t * t)
            c, s = (1.0 - t * t) * k, 2.0 * t * k
            for _ in range(self.st.n(0, 3)):
                c, s = -s, c
            w = abs(c) * thing.size[0] + abs(s) * thing.size[1]
            d = abs(s) * thing.size[0] + abs(c) * thing.size[1]
            x = self.st.u(0.0, self.shell.room[0])
            y = self.st.u(self.shell.room[1] * (0.4 if far else 0.2), self.shell.room[1])
            rect = (x - w * 0.5, y - d * 0.5, x + w * 0.5, y + d * 0.5)
            inside = (
                rect[0] > 0 and rect[1] > 0 and rect[2] < self.shell.room[0] and rect[3] < self.shell.room[1]
            )
            if not (inside if flat else self.fits(rect, near=near if signature else 1.7)):
                continue
            if signature and not self.seen(x, y, thing.size[2] * 0.5):
                continue
            thing.signature = signature
            self.placed.append((thing, x, y, c, s))
            if not flat:
                self.taken.append(rect)
            return True
        return False

    def before(self, thing: Thing, wall: int, along: float, away: float, *, quarter: int = 0) -> bool:
        """Places a thing at a point given from a wall, turned as if its back were to that wall plus quarters."""
        x, y = self.shell.on_wall(wall, along, away)
        w, d = thing.size[:2] if (QUARTER[wall] + quarter) % 2 == 0 else thing.size[1::-1]
        rect = (x - w * 0.5, y - d * 0.5, x + w * 0.5, y + d * 0.5)
        if not self.fits(rect, 0.0):
            return False
        self._add(thing, x, y, QUARTER[wall] + quarter, rect, True)
        return True

    def all_placed(self) -> list[Placed]:
        """Everything in the room: the shell's things in their order, then those that were placed."""
        fixed = [(thing, x, y, *TURNS[quarter % 4]) for thing, x, y, quarter in self.shell.fixed]
        return fixed + self.placed

    def where(self) -> tuple[float, float]:
        """The last thing placed on a wall: its position along it and the distance of its front from it, in metres."""
        thing, x, y, _, _ = self.placed[-1]
        return (x if self.wall_used == BACK else y), thing.size[1]
