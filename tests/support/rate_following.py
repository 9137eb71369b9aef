"""Rate control of eight cameras on a link that changes: real bitstreams, a simulated clock and a simulated link.

    PYTHONPATH=tests python -m support.rate_following --videos ../shared/data/videos --out runs/rate

Prints how many bytes a second were made in each part and how well a budget was held, and draws rate.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge.clips import Clip
from edge.rate import Rate
from shared.bundle import Bundle
from shared.encoder import Encoder, Features
from shared.errors import RequestError
from shared.shipped import default_bundle

CAMERAS, FPS, OVERHEAD, PART_S = 8, 5.0, 113, 60
LINK = (125_000, 12_500, 125_000)  # bytes a second, in turn


class Sizes:
    """Bytes of each image at each quality, coded when they are first asked for."""

    def __init__(self, encoder: Encoder, features: list[Features]) -> None:
        self._encoder, self._features = encoder, features
        self._known: dict[tuple[int, int], int] = {}

    def __call__(self, number: int, quality: int) -> int:
        at = number % len(self._features), quality
        if at not in self._known:
            self._known[at] = len(self._encoder._code(self._features[at[0]].u, quality, False).data)
        return self._known[at]


def choose(size: Callable[[int], int], top: int, allowed: int | None) -> int | None:
    """As `Encoder.encode` does with bytes_max."""
    from shared.encoder import highest_fitting

    return top if allowed is None else highest_fitting(size, 0, top, allowed)


def simulate(
    sizes: Sizes, rate: Rate, seconds: float, link: Callable[[float], float], top: int
) -> tuple[np.ndarray, int, float]:
    """One row an image: time, bytes with overhead, quality, bytes that wait; and images dropped, and the last wait."""
    rows, backlog, through, dropped = [], 0.0, 0.0, 0
    step_s = 1 / (CAMERAS * FPS)
    for number in range(int(seconds / step_s)):
        now_s = number * step_s
        quality = choose(lambda q, n=number: sizes(n, q), top, rate.allowance(now_s))
        size = sizes(number, quality if quality is not None else 0)
        if quality is None and not rate.may_send(size, now_s):
            dropped += 1
        else:
            rate.spent(size, now_s)
            backlog += size + OVERHEAD
            rows.append((now_s, size + OVERHEAD, quality or 0, backlog))
        moved = min(backlog, link(now_s) * step_s)
        backlog, through = backlog - moved, through + moved
        if number % 20 == 0:
            rate.measured(int(through), 0, backlog > 8 * 500, False, now_s)
    return np.array(rows), dropped, backlog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(Bundle.open(default_bundle()))
    features = []
    for path in sorted(given.videos.glob("*.mp4")):
        with Clip(path, 0.5) as clip:
            features += [encoder.read(one.image) for _, one in zip(range(16), clip.images(), strict=False)]
    sizes = Sizes(encoder, features)
    top = encoder.bundle.quality(None)
    following, dropped, left = simulate(
        sizes, Rate(None, 10, OVERHEAD), 3 * PART_S, lambda at: LINK[int(at / PART_S)], top
    )
    print(f"{len(features)} images; the link: {dropped} dropped, {left:.0f} bytes wait at the end")
    for part, per_s in enumerate(LINK):
        mine = following[
            (following[:, 0] >= part * PART_S + PART_S / 2) & (following[:, 0] < (part + 1) * PART_S)
        ]
        made, quality, waits = mine[:, 1].sum() / (PART_S / 2), mine[:, 2].mean(), mine[:, 3].max()
        print(
            f"  {per_s * 8 // 1000} kbit/s: made {made * 8 / 1000:.1f} kbit/s, quality {quality:.0f}, "
            f"at most {waits:.0f} bytes wait"
        )
    for kbit in (60, 80, 100, 120):
        rows, dropped, _ = simulate(sizes, Rate(kbit * 125, 10, OVERHEAD), 120, lambda _: 1e9, top)
        held = rows[rows[:, 0] >= 60, 1].sum() / 60 * 8 / 1000
        print(f"  budget {kbit} kbit/s: {held:.2f} kbit/s ({held / kbit - 1:+.2%}), {dropped} dropped")
    draw(following, given.out / "rate.png")


def draw(rows: np.ndarray, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 5))
    seconds = np.arange(3 * PART_S)
    made = [rows[(rows[:, 0] >= at) & (rows[:, 0] < at + 1), 1].sum() * 8 / 1000 for at in seconds]
    link = [LINK[at // PART_S] * 8 / 1000 for at in seconds]
    above.step(seconds, link, "k--", where="post", label="the link takes")
    above.step(seconds, made, where="post", label="new frames, with overhead")
    above.set(yscale="log", ylabel="kbit/s")
    above.legend()
    below.plot(rows[:, 0], rows[:, 2], ".", markersize=2)
    below.set(ylabel="quality", xlabel="s", ylim=(-2, 102))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        raise SystemExit(str(error)) from None
