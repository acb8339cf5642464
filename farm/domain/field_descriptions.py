"""Descriptions of the fields that callers send: in the API's documentation, and as help on the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping

#: Field → what it does. Dialects that name the same thing alike share its description.
DESCRIPTIONS: Mapping[str, str] = {
    "prompt": "What the image shows, or how the input image is to change.",
    "seed": "Start of the random noise: the same seed and parameters give the same image. Empty: a random seed.",
    "num_images": "Number of images. They have consecutive seeds.",
    "output_format": "File format: JPEG is smaller, PNG is lossless.",
    "sync_mode": "Answer with the image itself, as a data URI, instead of a URL.",
    "enhance_prompt": "Rewrite the prompt first. Both texts are kept with the job.",
    "priority": "Jobs of low priority wait until no other job does.",
    "webhook_url": "Where the job's events are sent.",
    "webhook_events": "The events that are sent; all without it.",
    "num_inference_steps": "Denoising steps. More take longer, and change little above the default.",
    "guidance_scale": "How closely the image follows the prompt. High values look oversaturated.",
    "enable_safety_checker": "Check each image for unsafe content, and black out those that have it.",
    "acceleration": "Compute only some of the denoising steps in full, and extrapolate the rest: faster, less exact.",
    "image_size": "Width and height in pixels, or a preset.",
    "aspect_ratio": "Ratio of width to height. Empty: the input image's, or the nearest that the model knows.",
    "strength": "How much to change the input image: 0 keeps it, 1 ignores it.",
    "image_url": "The input image: a URL, or a data URI.",
    "image_urls": "The input images: URLs, or data URIs.",
}
