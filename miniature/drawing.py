"""Drawing of scenes: anti-aliased, at any size, whole or cropped."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from miniature.outlines import outline
from miniature.placement import PlacedShape, place_shapes
from miniature.scene import LANDSCAPES, Scene

Pixels = NDArray[np.float32]
#: Left, top, right, bottom in pixels.
Window = tuple[int, int, int, int]

PALETTE = {
    "red": (222, 56, 58),
    "orange": (243, 138, 38),
    "yellow": (250, 207, 62),
    "green": (58, 160, 92),
    "blue": (46, 104, 208),
    "purple": (128, 76, 184),
    "pink": (240, 128, 176),
    "white": (251, 251, 248),
    "black": (36, 38, 48),
}
PLAIN = {
    "white": (249, 248, 244),
    "grey": (198, 202, 208),
    "blue": (190, 219, 244),
    "green": (201, 231, 203),
    "yellow": (252, 238, 186),
    "pink": (250, 214, 224),
}
#: Landscape → its sky, far and near ground by day.
LAND = {
    "meadow": ((178, 219, 245), (140, 199, 110), (112, 178, 88)),
    "desert": ((192, 224, 242), (240, 208, 140), (228, 186, 112)),
    "sea": ((200, 230, 248), (72, 148, 196), (54, 122, 178)),
    "snow": ((176, 206, 236), (240, 246, 252), (222, 234, 246)),
}
NIGHT_SKY = (24, 32, 66)
MOON = (246, 238, 200)
#: Where the moon stands from the upper right corner, and its radius, in half short sides.
MOON_OFFSET, MOON_RADIUS = 0.27, 0.13
#: Supersampling factor of masks.
_FINER = 4


def draw(scene: Scene, width: int, height: int, window: Window | None = None) -> Image.Image:
    """Draw the scene as an RGB image of that size; with `window`, only that part of it."""
    canvas = _Canvas(width, height, window or (0, 0, width, height))
    _lay_ground(canvas, scene)
    for item in place_shapes(scene, width, height):
        _draw_item(canvas, item)
    return Image.fromarray(np.clip(canvas.pixels + 0.5, 0, 255).astype(np.uint8))


def vivid(image: Image.Image, guidance: float) -> Image.Image:
    """Adjust an image to a guidance: paler below 4, stronger in colour and contrast above.

    Real weights do so too, by what they were distilled from; here it is drawn, so that the parameter has its effect.
    """
    strength = min((max(guidance, 1.0) / 4) ** 0.35, 1.5)
    pixels = np.asarray(image, np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    changed = grey[..., None] + strength * (pixels - grey[..., None])
    changed = 128 + (1 + 0.3 * (strength - 1)) * (changed - 128)
    return Image.fromarray(np.clip(changed + 0.5, 0, 255).astype(np.uint8))


class _Canvas:
    """The drawn part of an image: colours [rows, columns, 3] from 0 to 255."""

    def __init__(self, width: int, height: int, window: Window) -> None:
        self._window = window
        self.unit = min(width, height) / 2
        self._middle = (width / 2, height / 2)
        left, top, right, bottom = window
        self.right, self.bottom = width / 2 / self.unit, height / 2 / self.unit
        self.x = ((np.arange(left, right, dtype=np.float32) + 0.5) - width / 2) / self.unit
        self.y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) - height / 2) / self.unit
        self.pixels: Pixels = np.zeros((len(self.y), len(self.x), 3), np.float32)

    def lay(self, colour: Pixels | tuple[int, ...], cover: Pixels) -> None:
        """Blend a colour over the canvas by `cover` [rows, columns] from 0 to 1."""
        self.pixels += (np.asarray(colour, np.float32) - self.pixels) * cover[..., None]

    def polygon(self, lines: tuple[NDArray[np.float64], ...]) -> tuple[slice, slice, Pixels] | None:
        """Return the rows and columns of a polygon (its second line is a hole), and its coverage of each pixel."""
        pixels = [line * self.unit + self._middle - self._window[:2] for line in lines]
        low, high = np.floor(pixels[0].min(0)).astype(int) - 1, np.ceil(pixels[0].max(0)).astype(int) + 1
        left, top = np.maximum(low, 0)
        right, bottom = np.minimum(high, (len(self.x), len(self.y)))
        if left >= right or top >= bottom:
            return None
        mask = Image.new("L", (int(right - left) * _FINER, int(bottom - top) * _FINER))
        pen = ImageDraw.Draw(mask)
        for line, fill in zip(pixels, (255, 0), strict=False):
            pen.polygon([tuple(point) for point in (line - (left, top)) * _FINER - 0.5], fill=fill)
        cover = np.asarray(mask.reduce(_FINER), np.float32) * np.float32(1 / 255)
        return slice(top, bottom), slice(left, right), cover


def _lay_ground(canvas: _Canvas, scene: Scene) -> None:
    random = Random(scene.variant + 1)
    if scene.ground in LANDSCAPES:
        _lay_landscape(canvas, scene, random)
    else:
        _lay_plain(canvas, scene)
    if scene.night:
        _lay_moon(canvas, left="right" in scene.place)


def _lay_plain(canvas: _Canvas, scene: Scene) -> None:
    colour = np.array(PLAIN[scene.ground], np.float32)
    if scene.night:
        colour = _at_night(colour)
    # A little lighter above than below.
    shade = 1.02 - 0.04 * (canvas.y / canvas.bottom + 1) / 2
    canvas.pixels[:] = np.minimum(colour * shade[:, None], 255)[:, None]


def _lay_landscape(canvas: _Canvas, scene: Scene, random: Random) -> None:
    sky, far, near = (np.array(colour, np.float32) for colour in LAND[scene.ground])
    if scene.night:
        sky, far, near = np.array(NIGHT_SKY, np.float32), _at_night(far), _at_night(near)
    pale = sky + (255 - sky) * (0.15 if scene.night else 0.25)
    horizon = 0.3 * canvas.bottom + random.uniform(-0.05, 0.05)
    share = np.clip((canvas.y + canvas.bottom) / (horizon + canvas.bottom), 0, 1)[:, None]
    canvas.pixels[:] = (sky + (pale - sky) * share)[:, None]
    height = 0.0 if scene.ground == "sea" else 0.07
    for colour, level, swell in ((far, horizon, height), (near, (horizon + canvas.bottom) / 2, 0.6 * height + 0.02)):
        line = level + swell * np.sin(canvas.x * random.uniform(1.2, 2.2) + random.uniform(0, 6))
        canvas.lay(colour, np.clip((canvas.y[:, None] - line[None]) * canvas.unit + 0.5, 0, 1))


def _at_night(colour: Pixels) -> Pixels:
    return np.asarray(colour * 0.28 + np.array(NIGHT_SKY, np.float32) * 0.55, np.float32)


def _lay_moon(canvas: _Canvas, *, left: bool) -> None:
    """Draw a crescent in an upper corner."""
    x, y = canvas.right - MOON_OFFSET, -canvas.bottom + MOON_OFFSET
    x = -x if left else x
    disc = outline("circle")[0] * MOON_RADIUS
    shadow = disc * 0.86 + (-0.05, -0.03)
    bright, dark = (canvas.polygon((line + np.array([x, y]),)) for line in (disc, shadow))
    if bright is None:
        return
    cover = np.zeros(canvas.pixels.shape[:2], np.float32)
    cover[bright[:2]] = bright[2]
    if dark is not None:
        cover[dark[:2]] *= 1 - dark[2]
    canvas.lay(MOON, cover)


def _draw_item(canvas: _Canvas, item: PlacedShape) -> None:
    lines = tuple(line * item.radius + (item.x, item.y) for line in outline(item.group.shape))
    found = canvas.polygon(lines)
    if found is None:
        return
    rows, columns, cover = found
    x = (canvas.x[columns] - item.x) / item.radius
    y = (canvas.y[rows] - item.y) / item.radius
    colour = np.array(PALETTE[item.group.colour], np.float32)
    light = _second(item.group.colour)
    edge = canvas.unit * item.radius
    share = _pattern(item.group.style, x, y, edge)
    if item.group.style == "outlined":
        share = _interior(canvas, item, rows, columns)
    rendered = colour + (light - colour) * share[..., None]
    part = canvas.pixels[rows, columns]
    part += (rendered - part) * cover[..., None]


def _second(colour: str) -> Pixels:
    """Return the colour of stripes, dots and interiors: a tint of the first, or a shade of white."""
    main = np.array(PALETTE[colour], np.float32)
    if colour in ("white", "yellow"):
        return np.asarray(main * 0.8, np.float32)
    return np.asarray(main + (255 - main) * 0.62, np.float32)


def _pattern(style: str, x: Pixels, y: Pixels, scale: float) -> Pixels:
    """Return the share of the second colour [rows, columns]; x and y in radii, `scale` pixels a radius."""
    if style == "striped":
        across = (x[None] + y[:, None]) / np.sqrt(2)
        distance = np.abs((across / 0.62) % 1.0 - 0.5) * 0.62 - 0.155
    elif style == "dotted":
        near_x, near_y = ((axis / 0.66 + 0.5) % 1.0 - 0.5 for axis in (x, y))
        distance = np.hypot(near_x[None], near_y[:, None]) * 0.66 - 0.19
    else:
        return np.zeros((len(y), len(x)), np.float32)
    return np.asarray(np.clip(0.5 - distance * scale, 0, 1), np.float32)


def _interior(canvas: _Canvas, item: PlacedShape, rows: slice, columns: slice) -> Pixels:
    """Return how much of each pixel lies inside the line of an outlined shape."""
    inside = np.zeros(canvas.pixels.shape[:2], np.float32)
    if item.group.shape == "ring":
        lines: tuple[NDArray[np.float64], ...] = (outline("circle")[0] * 0.87, outline("circle")[0] * 0.63)
    else:
        lines = (outline(item.group.shape)[0] * 0.7,)
    found = canvas.polygon(tuple(line * item.radius + (item.x, item.y) for line in lines))
    if found is not None:
        inside[found[:2]] = found[2]
    return inside[rows, columns]
