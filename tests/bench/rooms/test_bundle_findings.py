"""What `isthmus bench rooms` concludes about networks and the bundle, from made-up measurements."""

from __future__ import annotations

from bench.rooms.bundle_findings import added_later, at_its_levels, rate_span, uncompressed
from bench.rooms.parts import MeasuredPart
from support.measured_parts import codec, reached

SIGN = "no fall of top-1 beyond chance (sign test of the images that change)"


def test_span_and_monotony():
    levels = [
        (0, 50.0, {"normals": (12.0, 0)}),
        (50, 100.0, {"normals": (9.0, 0)}),
        (100, 400.0, {"normals": (9.5, 0)}),
    ]
    made = rate_span({"bundle": codec(levels)})
    assert reached(made) == {
        "rate span": ("8.00x", True),
        "monotonic in bytes and quality": ("not in normals", False),
    }


def flipped(*flips: tuple[int, int]) -> MeasuredPart:
    """A bundle whose top-1 changes from level to level by the images lost and won."""
    made, top = (
        codec([(50 * i, 50.0 * (i + 1), {"classification": (0, 0)}) for i in range(len(flips) + 1)]),
        0.9,
    )
    levels = [made.levels[0].model_copy(update={"metrics": {"classification": {"top1": top}}})]
    for level, (lost, won) in zip(made.levels[1:], flips, strict=True):
        top += (won - lost) / 1000
        changed = {"metrics": {"classification": {"top1": top}}, "flips": {"classification": (lost, won)}}
        levels.append(level.model_copy(update=changed))
    return made.model_copy(update={"levels": tuple(levels)})


def test_a_fall_that_chance_explains_is_distinguished_from_one_that_it_does_not():
    made = rate_span({"bundle": flipped((1, 30), (5, 2))})
    assert reached(made)["monotonic in bytes and quality"] == ("not in classification", False)
    # Of seven that change five or more lost: (21 + 7 + 1) of 128.
    assert reached(made)[SIGN] == ("p = 23% or more", True)
    assert made.notes == (
        "classification from quality 50 to 100: 5 images lost, 2 won; chance alone does so with p = 23%",
    )
    worse = rate_span({"bundle": flipped((1, 30), (5, 2), (9, 1))})
    assert reached(worse)[SIGN] == ("p = 1% or more", False)
    assert len(worse.notes) == 2
    assert reached(rate_span({"bundle": flipped((1, 30), (2, 2))}))[SIGN] == ("no fall", True)


def test_a_loss_at_the_default_quality_is_judged_against_the_network():
    networks = {
        "network": MeasuredPart(
            what="network", images=9, kinds={}, uncompressed={"classification": {"top1": 0.95}}
        )
    }
    bundle = codec([(50, 390.0, {"classification": (0.93, 0), "normals": (8.0, 0)})])
    got = reached(at_its_levels({**networks, "bundle": bundle}))
    assert got["classification at the default quality: top-1 lost"] == ("2.0%", False)
    assert got["normals at the default quality: mean error lost"] == (
        "unknown: no uncompressed network",
        None,
    )
    assert got["mean bytes at the default quality, 2 tasks"] == ("390.0", None)
    assert reached(uncompressed(networks)) == {"uncompressed classification: top-1": ("95.0%", True)}


def test_bytes_that_changed_are_reported():
    bundle = codec([(50, 100.0, {"segmentation": (0.5, 0)})])
    bundle = bundle.model_copy(update={"added": ("segmentation",), "streams": ({50: "aa"}, {50: "bb"})})
    joint = codec([(0, 50.0, {"segmentation": (0.4, 0)}), (100, 200.0, {"segmentation": (0.6, 0)})])
    made = added_later({"bundle": bundle, "with-segmentation": joint})
    assert made.rows == (("50 (default)", "100.0", "CHANGED bb", "0.500", "0.500"),)
    assert [met for _, met in reached(made).values()] == [False]
