"""Images as files: their parameters and the mark of AI-made media, read back with Pillow."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageChops, ImageStat

from farm.domain.catalogue import OutputFormat
from farm.domain.request import Request
from tests.unit.dialects.samples import a_request
from workers.encode import SOFTWARE, Encoder
from workers.pipelines.pipeline import RenderedImage

FOX = a_request(width=301, height=257, steps=28, seed=2**32 - 1)
ENCODER = Encoder(weights="miniature", build="b1", with_prompt=True)
MARK = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMS: tuple[OutputFormat, ...] = ("jpeg", "png")


@pytest.fixture
def pattern() -> Image.Image:
    """Return an image with smooth gradients, as most images have."""
    across = Image.linear_gradient("L").resize((FOX.width, FOX.height))
    return Image.merge("RGB", (across, across.transpose(Image.Transpose.ROTATE_180), ImageChops.invert(across)))


def encoded(
    pattern: Image.Image,
    form: OutputFormat,
    *,
    of: Request = FOX,
    number: int = 0,
    encoder: Encoder = ENCODER,
    warnings: tuple[str, ...] = (),
) -> bytes:
    request = of.model_copy(update={"output_format": form})
    rendered = RenderedImage(b"", pattern.size, full_steps=14, warnings=warnings)
    return encoder.encode(pattern, of=request, number=number, rendered=rendered)


def parameters(content: bytes) -> dict[str, Any]:
    """Return the parameters in a file's metadata."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if image.format == "PNG":
            text = image.info["parameters"]
        else:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
            assert comment.startswith(b"UNICODE\0")
            text = comment[8:].decode("utf-16-be")
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_carries_its_parameters(pattern: Image.Image, form: OutputFormat) -> None:
    assert parameters(encoded(pattern, form)) == {
        "model": "srpo",
        "weights": "miniature",
        "build": "b1",
        "width": 301,
        "height": 257,
        "steps": 28,
        "full_steps": 14,
        "guidance": 4.5,
        "seed": 2**32 - 1,
        "acceleration": "none",
        "prompt": "a red fox",
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "prompt",
    ["ein Füchschen 狐狸 \U0001f98a", 'quotes " and \\ and \x00 \n', "🦊" * 4000, "\x01" * 4000],
    ids=["unicode", "control", "longest", "longest when escaped"],
)
def test_any_prompt_comes_back_as_it_was(pattern: Image.Image, form: OutputFormat, prompt: str) -> None:
    content = encoded(pattern, form, of=a_request(prompt=prompt))

    assert parameters(content)["prompt"] == prompt


@pytest.mark.parametrize("form", FORMS)
def test_the_prompt_is_left_out_when_asked(pattern: Image.Image, form: OutputFormat) -> None:
    content = encoded(pattern, form, encoder=replace(ENCODER, with_prompt=False))

    assert "prompt" not in parameters(content)
    assert parameters(content)["seed"] == FOX.seed
    assert not any("red fox".encode(coding) in content for coding in ("utf-8", "utf-16-be", "utf-16-le"))


@pytest.mark.parametrize("form", FORMS)
def test_each_image_carries_its_own_seed(pattern: Image.Image, form: OutputFormat) -> None:
    seeds = [parameters(encoded(pattern, form, number=number))["seed"] for number in range(3)]

    assert seeds == [2**32 - 1, 0, 1]


@pytest.mark.parametrize("form", FORMS)
def test_tells_what_the_image_began_from(pattern: Image.Image, form: OutputFormat) -> None:
    of = a_request(model="srpo-image-to-image", strength=0.8, inputs=("one", "other"))

    result = parameters(encoded(pattern, form, of=of))

    assert (result["strength"], result["inputs"]) == (0.8, 2)


@pytest.mark.parametrize("form", FORMS)
def test_both_prompts_are_in_it_where_it_was_rewritten(pattern: Image.Image, form: OutputFormat) -> None:
    of = a_request(prompt="a red fox in fresh snow", original_prompt="a red fox")
    silent = replace(ENCODER, with_prompt=False)

    result, kept_quiet = (parameters(encoded(pattern, form, of=of, encoder=encoder)) for encoder in (ENCODER, silent))

    assert (result["prompt"], result["original_prompt"]) == ("a red fox in fresh snow", "a red fox")
    assert not kept_quiet.keys() & {"prompt", "original_prompt"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("character", "fits"), [("🦊", True), ("\x01", False)])
def test_two_long_prompts_break_no_image(pattern: Image.Image, form: OutputFormat, character: str, fits: bool) -> None:
    of = a_request(prompt=character * 4000, original_prompt=character * 4000)

    result = parameters(encoded(pattern, form, of=of))

    assert result["prompt"] == of.prompt
    assert result.get("original_prompt") == (of.original_prompt if fits or form == "png" else None)


@pytest.mark.parametrize("form", FORMS)
def test_warnings_are_in_it(pattern: Image.Image, form: OutputFormat) -> None:
    content = encoded(pattern, form, warnings=("long prompt", "other"))

    assert parameters(content)["warnings"] == ["long prompt", "other"]


@pytest.mark.parametrize(("form", "where"), [("jpeg", "xmp"), ("png", "XML:com.adobe.xmp")])
def test_bears_the_mark_of_ai_made_media(pattern: Image.Image, form: OutputFormat, where: str) -> None:
    with Image.open(io.BytesIO(encoded(pattern, form))) as image:
        image.load()
        packet = image.info[where]

    text = packet.decode() if isinstance(packet, bytes) else packet
    assert f"DigitalSourceType>{MARK}</" in text


@pytest.mark.parametrize("form", FORMS)
def test_names_the_software(pattern: Image.Image, form: OutputFormat) -> None:
    with Image.open(io.BytesIO(encoded(pattern, form))) as image:
        image.load()
        named = image.info["Software"] if form == "png" else image.getexif()[ExifTags.Base.Software]

    assert named == SOFTWARE


@pytest.mark.parametrize("form", FORMS)
def test_is_of_the_form_and_size_asked_for(pattern: Image.Image, form: OutputFormat) -> None:
    with Image.open(io.BytesIO(encoded(pattern, form))) as image:
        assert (image.format, image.mode, image.size) == (form.upper(), "RGB", (301, 257))


def test_png_keeps_every_pixel(pattern: Image.Image) -> None:
    with Image.open(io.BytesIO(encoded(pattern, "png"))) as image:
        assert image.tobytes() == pattern.tobytes()


def test_jpeg_is_near_and_small(pattern: Image.Image) -> None:
    content = encoded(pattern, "jpeg")
    with Image.open(io.BytesIO(content)) as image:
        error = ImageStat.Stat(ImageChops.difference(image, pattern)).rms

    assert max(error) < 2
    assert len(content) < len(pattern.tobytes()) / 5


@pytest.mark.parametrize("form", FORMS)
def test_the_same_image_gives_the_same_bytes(pattern: Image.Image, form: OutputFormat) -> None:
    assert encoded(pattern, form) == encoded(pattern, form)


def test_a_lower_quality_makes_a_smaller_jpeg(pattern: Image.Image) -> None:
    sizes = [
        len(encoded(pattern, "jpeg", of=FOX.model_copy(update={"jpeg_quality": quality}))) for quality in (1, 50, 95)
    ]

    assert sizes == sorted(set(sizes))
    assert len(encoded(pattern, "jpeg")) == sizes[-1]
