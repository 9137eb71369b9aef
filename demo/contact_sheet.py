"""Draws captioned images in rows, with a legend of colours, as one PNG. Knows no task and no server."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from shared.maps import Colour

TILES_WIDE = 6  # of a sheet, as long as one group of tiles is not wider
TILE, CAPTION, GAP = (
    256,
    54,
    12,
)  # pixels: an image's longer side, the caption below it, the gap between tiles

_SWATCH, _LINE = 16, 26  # pixels: a colour of the legend, and one of its lines


@dataclass(frozen=True)
class Tile:
    """An image of any size, shown at TILE pixels; title and note are cut off where they do not fit."""

    image: Image.Image
    title: str
    note: str


def draw_sheet(groups: Sequence[Sequence[Tile]], legend: Mapping[str, Sequence[tuple[Colour, str]]]) -> bytes:
    """A PNG file. groups: tiles that stay side by side, equally many each. legend: by heading, colours and names."""
    columns = max(1, min(len(groups), TILES_WIDE // len(groups[0])))
    width = GAP + columns * len(groups[0]) * (TILE + GAP)
    lines = -(-len(groups) // columns)
    key = _legend(legend, width)
    sheet = Image.new("RGB", (width, GAP + lines * (TILE + CAPTION + GAP) + key.height), "white")
    for i, tile in enumerate(tile for group in groups for tile in group):
        line, column = divmod(i, columns * len(groups[0]))
        sheet.paste(_tile(tile), (GAP + column * (TILE + GAP), GAP + line * (TILE + CAPTION + GAP)))
    sheet.paste(key, (0, sheet.height - key.height))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _tile(tile: Tile) -> Image.Image:
    drawn = Image.new("RGB", (TILE, TILE + CAPTION), "white")
    scale = TILE / max(tile.image.size)
    size = [max(1, round(side * scale)) for side in tile.image.size]
    # Between two classes there is no third one.
    how = Image.Resampling.NEAREST if tile.image.mode == "P" else Image.Resampling.LANCZOS
    drawn.paste(tile.image.resize((size[0], size[1]), how), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    draw = ImageDraw.Draw(drawn)
    draw.text((0, TILE + 4), tile.title, "black", ImageFont.load_default(18))
    draw.text((0, TILE + 30), tile.note, "dimgrey", ImageFont.load_default(14))
    return drawn


def _legend(legend: Mapping[str, Sequence[tuple[Colour, str]]], width: int) -> Image.Image:
    """Each heading begins a line; colours that pass the width go on in the next one."""
    font = ImageFont.load_default(14)
    placed: list[tuple[int, int, Colour | None, str]] = []
    y = -_LINE
    for heading, entries in legend.items():
        x, y = GAP, y + _LINE
        for colour, name in [(None, heading), *entries]:
            step = int(font.getlength(name)) + _SWATCH + (2 * GAP if colour else 0)
            if x > GAP and x + step > width:
                x, y = GAP, y + _LINE
            placed.append((x, y, colour, name))
            x += step
    drawn = Image.new("RGB", (width, y + _LINE + GAP if placed else 0), "white")
    draw = ImageDraw.Draw(drawn)
    for x, y, colour, name in placed:
        if colour:
            draw.rectangle((x, y, x + _SWATCH - 1, y + _SWATCH - 1), colour)
        draw.text((x + (_SWATCH + 6 if colour else 0), y), name, "dimgrey" if colour else "black", font)
    return drawn
