"""Image files: JPEG or PNG bytes with their parameters and the mark of AI-made media."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from farm import __version__
from farm.domain.request import Request
from workers.pipelines.pipeline import RenderedImage

SOFTWARE = f"srpo-farm {__version__}"
#: Higher levels take longer than a step and save little.
_PNG_LEVEL = 1
#: EXIF's prefix of text that is not ASCII (Exif 2.3, UserComment).
_UNICODE = b"UNICODE\x00"
#: A JPEG's segment holds 64 KiB, EXIF's own structure included. Two prompts of 4000 characters fit, unless most of them
#: are control characters, which JSON writes with six each: then the original one is left out.
_LONGEST_COMMENT = 65_000

#: IPTC's statement that a trained model made the image (https://cv.iptc.org/newscodes/digitalsourcetype).
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    "<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    "</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
)


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes images. `weights` and `build` name what rendered them; the prompt is user data and can be left out."""

    weights: str
    build: str
    with_prompt: bool

    def encode(self, image: Image.Image, *, of: Request, number: int, rendered: RenderedImage) -> bytes:
        """Return the `number`-th image of a request, rendered as `rendered`, as a file in the request's format."""
        parameters = self._parameters(of, number, rendered.full_steps)
        if rendered.warnings:
            parameters["warnings"] = rendered.warnings
        return _jpeg(image, parameters, of.jpeg_quality) if of.output_format == "jpeg" else _png(image, parameters)

    def _parameters(self, request: Request, number: int, full_steps: int) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": request.model,
            "weights": self.weights,
            "build": self.build,
            "width": request.width,
            "height": request.height,
            "steps": request.steps,
            "full_steps": full_steps,
            "guidance": request.guidance,
            "seed": request.image(number).seed,
            "acceleration": request.acceleration,
        }
        if request.output_size:
            fields["output_size"] = request.output_size
        if request.inputs:
            fields["inputs"] = len(request.inputs)
        if request.strength is not None:
            fields["strength"] = request.strength
        if self.with_prompt:
            fields["prompt"] = request.prompt
        if self.with_prompt and request.original_prompt is not None:
            fields["original_prompt"] = request.original_prompt
        return fields


def _jpeg(image: Image.Image, parameters: Mapping[str, Any], quality: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _comment(parameters)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, exif=exif, xmp=_XMP.encode())
    return file.getvalue()


def _comment(parameters: Mapping[str, Any]) -> bytes:
    if len(_utf_16(parameters)) > _LONGEST_COMMENT:
        parameters = {name: value for name, value in parameters.items() if name != "original_prompt"}
    return _UNICODE + _utf_16(parameters)


def _utf_16(parameters: Mapping[str, Any]) -> bytes:
    return _text(parameters).encode("utf-16-be")


def _png(image: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", SOFTWARE)
    text.add_itxt("parameters", _text(parameters))
    text.add_itxt("XML:com.adobe.xmp", _XMP)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_PNG_LEVEL, pnginfo=text)
    return file.getvalue()


def _text(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, ensure_ascii=False)
