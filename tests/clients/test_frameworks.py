"""LangChain, LlamaIndex and LiteLLM against a running farm, at their defaults: only base URL and key are given."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import frameworks
from tests.farms import RunningFarm, image_facts, running_farm

#: Installing the frameworks takes minutes, and hundreds of megabytes.
pytestmark = [pytest.mark.full, pytest.mark.timeout(frameworks.INSTALL_SECONDS + 120)]

LITELLM = """
import litellm
litellm.telemetry = False
def show(answer):
    report([[image.url, image.b64_json] for image in answer.data])
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(
        tmp_path_factory.mktemp("frameworks") / "data",
        FARM_SIMULATED_STEP_MS="2",
        FARM_MODEL_ALIASES="dall-e-2=srpo,dall-e-3=srpo,gpt-image-1=srpo,gpt-image-1-mini=kontext",
        FARM_UNKNOWN_FIELDS="warn",
    ) as farm:
        yield farm


def size_at(farm: RunningFarm, url: str) -> tuple[int, int]:
    return image_facts(farm.fetch(url))[0]


def test_langchains_wrapper_renders(farm: RunningFarm) -> None:
    ran = frameworks.run(
        f"""
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
to_the_farm = {{"base_url": "{farm.url}/v1", "api_key": "k"}}
report(DallEAPIWrapper(**to_the_farm).run("a fox"))
report(DallEAPIWrapper(**to_the_farm, model="dall-e-3", n=2, quality="hd", size="1792x1024").run("a fox"))
"""
    )
    one, two = (report.split("\n") for report in ran.reports)

    assert [size_at(farm, url) for url in one] == [(1024, 1024)]
    assert [size_at(farm, url) for url in two] == [(1792, 1024)] * 2


def test_llamaindexs_tool_renders(farm: RunningFarm, tmp_path: Path) -> None:
    """It sends `style` and `quality` with every call, and reads a URL, or base64 in order to keep a file."""
    ran = frameworks.run(
        f"""
from llama_index.tools.openai.image_generation.base import OpenAIImageGenerationToolSpec
tool = OpenAIImageGenerationToolSpec(api_key="k", cache_dir="{tmp_path}")
report(tool.image_generation("a fox"))
report(tool.image_generation("a fox", model="dall-e-2", size="256x256", download=True)[0])
""",
        OPENAI_BASE_URL=f"{farm.url}/v1",
    )
    url, file = ran.reports

    assert size_at(farm, url) == (1024, 1024)
    assert image_facts(Path(file))[0] == (256, 256)


@pytest.mark.parametrize("model", ["openai/dall-e-3", "openai/gpt-image-1", "openai/srpo"])
def test_litellm_renders_by_openais_api(farm: RunningFarm, model: str) -> None:
    ran = frameworks.run(
        f"""{LITELLM}
show(litellm.image_generation(model="{model}", prompt="a fox", n=2, size="1024x1536", quality="high",
    api_base="{farm.url}/v1", api_key="k"))
"""
    )

    assert [size_at(farm, url) for url, _ in ran.report] == [(1024, 1536)] * 2
    assert all(base64.b64decode(content) == farm.fetch(url) for url, content in ran.report)


def test_litellm_edits_by_openais_api(farm: RunningFarm, tmp_path: Path) -> None:
    source = tmp_path / "fox.png"
    source.write_bytes(farm.image(farm.wait_for_end(farm.submit(output_format="png"))))
    ran = frameworks.run(
        f"""{LITELLM}
show(litellm.image_edit(model="openai/gpt-image-1-mini", image=open("{source}", "rb"), prompt="make it night",
    api_base="{farm.url}/v1", api_key="k"))
"""
    )

    ((url, content),) = ran.report
    assert size_at(farm, url) == (1024, 1024)
    assert base64.b64decode(content) == farm.fetch(url)


@pytest.mark.parametrize(
    ("model", "path"), [("fal_ai/fal-ai/flux/srpo", "/fal/run/fal-ai/flux/srpo"), ("aiml/flux/srpo", "/v1")]
)
def test_litellm_renders_by_the_other_providers_apis(farm: RunningFarm, model: str, path: str) -> None:
    """fal's provider sends OpenAI's `n` and `size`, which a farm with FARM_UNKNOWN_FIELDS=warn ignores."""
    ran = frameworks.run(
        f"""{LITELLM}
show(litellm.image_generation(model="{model}", prompt="a fox", n=1, size="1024x1024",
    api_base="{farm.url}{path}", api_key="k"))
"""
    )

    ((url, _),) = ran.report
    assert image_facts(farm.fetch(url))[1] == "JPEG"


def test_litellm_shows_why_a_request_is_refused(farm: RunningFarm) -> None:
    ran = frameworks.run(
        f"""{LITELLM}
try:
    litellm.image_generation(model="openai/srpo", prompt="a fox", size="9999x9999",
        api_base="{farm.url}/v1", api_key="k")
except litellm.BadRequestError as error:
    report(str(error))
"""
    )

    assert "9999x9999" in ran.report
