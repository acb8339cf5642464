"""Pictures as files: JPEG or PNG bytes that carry their parameters and the mark of AI-made media."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from farm import __version__
from farm.request import ImageRequest, OutputFormat

SOFTWARE = f"srpo-farm {__version__}"
_JPEG_QUALITY = 95
#: Higher levels cost more time than a step and save little.
_PNG_LEVEL = 1
#: EXIF's mark for text that is not ASCII (Exif 2.3, UserComment).
_UNICODE = b"UNICODE\x00"

#: IPTC's statement that a trained model made the picture (https://cv.iptc.org/newscodes/digitalsourcetype).
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
    """Encodes for one worker. `weights` and `build` say what rendered; the prompt is user data and can be left out."""

    weights: str
    build: str
    with_prompt: bool

    def encode(self, image: Image.Image, *, of: ImageRequest, form: OutputFormat, warnings: tuple[str, ...]) -> bytes:
        """`image` as a file."""
        parameters = self._parameters(of, warnings)
        return _jpeg(image, parameters) if form == "jpeg" else _png(image, parameters)

    def _parameters(self, of: ImageRequest, warnings: tuple[str, ...]) -> str:
        fields: dict[str, Any] = {
            "model": of.model,
            "weights": self.weights,
            "build": self.build,
            "width": of.width,
            "height": of.height,
            "steps": of.steps,
            "guidance": of.guidance,
            "seed": of.seed,
            "acceleration": of.acceleration,
        }
        if self.with_prompt:
            fields["prompt"] = of.prompt
        if warnings:
            fields["warnings"] = list(warnings)
        return json.dumps(fields, ensure_ascii=False)


def _jpeg(image: Image.Image, parameters: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = SOFTWARE
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _UNICODE + parameters.encode("utf-16-be")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY, exif=exif, xmp=_XMP.encode())
    return file.getvalue()


def _png(image: Image.Image, parameters: str) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", SOFTWARE)
    text.add_itxt("parameters", parameters)
    text.add_itxt("XML:com.adobe.xmp", _XMP)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_PNG_LEVEL, pnginfo=text)
    return file.getvalue()
