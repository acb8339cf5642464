"""The prompts that masks are calibrated with."""

from __future__ import annotations

#: In the words that the miniature understands (docs/miniature.md).
OF_THE_MINIATURE = (
    "a red star in the middle on a white background",
    "two blue circles on the left on a grey background",
    "a large green triangle in the desert by day",
    "three small yellow hearts on a blue background",
    "a purple ring in the top left corner in the snow at night",
    "an outlined orange square on the right on a meadow",
    "a striped pink diamond above a white circle",
    "four black crosses on a yellow background",
    "a small white star at the top over the sea at night",
    "a dotted blue heart in the middle on a pink background",
    "a large red circle left of a small green square",
    "two yellow triangles below a purple star on a meadow by day",
)
#: People, animals, text, buildings, food, a drawing: what differs most in how fine its details are.
OF_REAL_WEIGHTS = (
    "a red fox in fresh snow at dawn, photographed with a long lens, breath visible in the cold air",
    "portrait of an old fisherman with a white beard, window light, shallow depth of field",
    'a shop window with the words "OPEN UNTIL NINE" in gold letters, reflections of the street',
    "aerial view of a harbour with hundreds of small coloured boats",
    "a bowl of ramen on a wooden table, steam rising, close-up",
    "a watercolour of a mountain village with terracotta roofs",
    "two children running through a field of sunflowers, motion blur, late afternoon",
    "interior of a gothic cathedral, sun through stained glass on the stone floor",
    "a glass chess set on a marble board, caustics, studio lighting",
    "a crowded night market in the rain, neon signs, umbrellas",
    "a black and white photograph of a jazz trio on a small stage",
    "an isometric drawing of a tiny robot factory, flat colours, clean lines",
)
