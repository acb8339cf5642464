"""The AI SDK's providers render here: fal's, OpenAI's, and the one for what is compatible with OpenAI.

It checks every answer against schemas of its own, downloads the images by itself, and refuses private addresses
unless they are of the API's own origin.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import javascript
from tests.farms import RunningFarm, image_facts, running_farm

#: The first one installs the clients.
pytestmark = pytest.mark.timeout(javascript.INSTALL_SECONDS + 60)

FAL = """
import { createFal } from "@ai-sdk/fal-2";
import { experimental_generateImage as generateImage } from "ai-6";
const fal = createFal({ apiKey: "farm-key", baseURL: "http://farm/fal/run" });
"""
COMPATIBLE = """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible-2";
import { experimental_generateImage as generateImage } from "ai-6";
const farm = createOpenAICompatible({ name: "farm", apiKey: "k", baseURL: "http://farm/v1" });
"""
#: OpenAI's own provider: it sends no `response_format` with the ids of OpenAI's models, nor with any edit.
OPENAI = """
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";
const openai = createOpenAI({ apiKey: "k", baseURL: "http://farm/v1" });
"""
#: OpenAI's provider with version 6 of the SDK.
OPENAI_6 = """
import { createOpenAI } from "@ai-sdk/openai-3";
import { experimental_generateImage as generateImage } from "ai-6";
const openai = createOpenAI({ apiKey: "k", baseURL: "http://farm/v1" });
"""
SHOW = """
const show = (result) => report({ images: result.images.map((image) => [image.mediaType, image.base64]),
  warnings: result.warnings });
const last = (error) => error.lastError ?? error;
const failure = (error) => ({ message: last(error).message, status: last(error).statusCode });
"""


ALIASES = "gpt-image-1=srpo,gpt-image-1-mini=kontext"


def as_of_version_3(head: str) -> str:
    return (
        head.replace("@ai-sdk/fal-2", "@ai-sdk/fal")
        .replace("@ai-sdk/openai-compatible-2", "@ai-sdk/openai-compatible")
        .replace('experimental_generateImage as generateImage } from "ai-6"', 'generateImage } from "ai"')
    )


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(
        tmp_path_factory.mktemp("ai-sdk") / "data", FARM_SIMULATED_STEP_MS="5", FARM_MODEL_ALIASES=ALIASES
    ) as farm:
        yield farm


@pytest.fixture(params=[2, 3])
def fal(request: pytest.FixtureRequest, farm: RunningFarm) -> str:
    head = FAL.replace("http://farm", farm.url) + SHOW
    return head if request.param == 2 else as_of_version_3(head)


@pytest.fixture(params=[2, 3])
def compatible(request: pytest.FixtureRequest, farm: RunningFarm) -> str:
    head = COMPATIBLE.replace("http://farm", farm.url) + SHOW
    return head if request.param == 2 else as_of_version_3(head)


def sizes(images: list[list[str]]) -> list[tuple[int, int]]:
    return [image_facts(base64.b64decode(content))[0] for _, content in images]


def test_fal_renders_two_images(fal: str) -> None:
    ran = javascript.run(
        fal
        + """
        show(await generateImage({ model: fal.image("fal-ai/flux/srpo"), prompt: "a fox", n: 2, aspectRatio: "1:1",
          seed: 7, providerOptions: { fal: { num_inference_steps: 1 } } }));
        """
    ).report

    assert len(ran["images"]) == 2
    assert [kind for kind, _ in ran["images"]] == ["image/jpeg"] * 2


@pytest.mark.parametrize("ratio", ["21:9", "9:21", "16:10"])
def test_fal_renders_the_providers_own_aspect_ratios(fal: str, ratio: str) -> None:
    across, down = map(int, ratio.split(":"))
    ran = javascript.run(
        fal
        + f"""
        show(await generateImage({{ model: fal.image("fal-ai/flux/srpo"), prompt: "a fox", aspectRatio: "{ratio}",
          providerOptions: {{ fal: {{ num_inference_steps: 1 }} }} }}));
        """
    ).report

    ((width, height),) = sizes(ran["images"])
    assert width / height == pytest.approx(across / down, rel=0.02)


def test_fal_takes_an_image_to_edit(farm: RunningFarm, fal: str) -> None:
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png", seed=3)))
    ran = javascript.run(
        fal
        + f"""
        show(await generateImage({{ model: fal.image("fal-ai/flux-pro/kontext"),
          prompt: {{ text: "make it night", images: [Buffer.from("{source.hex()}", "hex")] }} }}));
        """
    ).report

    assert sizes(ran["images"]) == [(1024, 1024)]


def test_fal_shows_why_an_input_is_refused(fal: str) -> None:
    error = javascript.run(
        fal
        + """
        report(await generateImage({ model: fal.image("fal-ai/flux/srpo"), prompt: "x".repeat(4001),
          maxRetries: 0 }).catch(failure));
        """
    ).report

    assert error["status"] == 422
    assert "4000" in error["message"]


def test_the_openai_compatible_provider_renders(compatible: str) -> None:
    ran = javascript.run(
        compatible
        + """
        show(await generateImage({ model: farm.imageModel("flux/srpo"), prompt: "a fox",
          providerOptions: { farm: { image_size: "square", num_inference_steps: 1 } } }));
        show(await generateImage({ model: farm.imageModel("srpo"), prompt: "a fox", size: "256x512",
          providerOptions: { farm: { num_inference_steps: 1 } } }));
        """
    )
    of_aimlapi, of_openai = ran.reports

    assert sizes(of_aimlapi["images"]) == [(512, 512)]
    assert sizes(of_openai["images"]) == [(256, 512)]


def test_the_openai_compatible_provider_edits(farm: RunningFarm, compatible: str) -> None:
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png", seed=3)))
    ran = javascript.run(
        compatible
        + f"""
        show(await generateImage({{ model: farm.imageModel("kontext"),
          prompt: {{ text: "make it night", images: [Buffer.from("{source.hex()}", "hex")] }} }}));
        """
    ).report

    assert sizes(ran["images"]) == [(1024, 1024)]


def test_the_openai_compatible_provider_shows_why_an_input_is_refused(compatible: str) -> None:
    error = javascript.run(
        compatible
        + """
        report(await generateImage({ model: farm.imageModel("srpo"), prompt: "a fox", maxRetries: 0,
          providerOptions: { farm: { num_inference_steps: 51 } } }).catch(failure));
        """
    ).report

    assert error["status"] == 400
    assert "num_inference_steps" in error["message"]


@pytest.mark.parametrize("head", [OPENAI, OPENAI_6], ids=["7", "6"])
def test_openais_provider_renders_and_edits(farm: RunningFarm, head: str) -> None:
    """At its defaults, which are those of OpenAI's models: quality, background and size among them."""
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png", seed=3)))
    ran = javascript.run(
        (head + SHOW).replace("http://farm", farm.url)
        + f"""
        show(await generateImage({{ model: openai.image("gpt-image-1"), prompt: "a fox", size: "1024x1536",
          providerOptions: {{ openai: {{ quality: "high", style: "vivid", moderation: "low", background: "auto",
            outputFormat: "jpeg", outputCompression: 80 }} }} }}));
        show(await generateImage({{ model: openai.image("srpo"), prompt: "a fox", size: "256x256" }}));
        show(await generateImage({{ model: openai.image("gpt-image-1-mini"), size: "1536x1024",
          prompt: {{ text: "make it night", images: [Buffer.from("{source.hex()}", "hex")] }} }}));
        """
    )

    assert [sizes(shown["images"]) for shown in ran.reports] == [[(1024, 1536)], [(256, 256)], [(1536, 1024)]]


@pytest.mark.parametrize("head", [OPENAI, OPENAI_6], ids=["7", "6"])
def test_a_call_that_is_sent_again_after_a_timeout_goes_on_with_its_job(tmp_path: Path, head: str) -> None:
    """The SDK sends twice more what was answered 504, whatever the answer says of that: it is still one job."""
    settings = {"FARM_SIMULATED_STEP_MS": "100", "FARM_HOLD_SECONDS": "0.5"}
    with running_farm(tmp_path / "data", **settings) as farm:
        ran = javascript.run(
            (head + SHOW).replace("http://farm", farm.url)
            + """
            show(await generateImage({ model: openai.image("srpo"), prompt: "a fox", size: "256x256" }));
            """
        ).report
        jobs = farm.call("GET", "/farm/v1/jobs").json["jobs"]

    assert sizes(ran["images"]) == [(256, 256)]
    assert [job["status"] for job in jobs] == ["completed"]
