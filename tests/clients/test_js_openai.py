"""OpenAI's JavaScript library renders here, in the dialect of each provider whose callers use it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests import javascript
from tests.farms import RunningFarm, image_facts, running_farm

#: The first one installs the clients.
pytestmark = pytest.mark.timeout(javascript.INSTALL_SECONDS + 60)

HEAD = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI({ baseURL: "http://farm/v1", apiKey: "farm-key" });
const quick = { prompt: "a fox", num_inference_steps: 1 };
const failure = (error) => ({ status: error.status, message: error.message, name: error.constructor.name,
  id: error.requestID });
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = {"FARM_SIMULATED_STEP_MS": "20", "FARM_MODEL_ALIASES": "dall-e-3=srpo,gpt-image-1=kontext"}
    with running_farm(tmp_path_factory.mktemp("js-openai") / "data", **settings) as farm:
        yield farm


@pytest.fixture
def head(farm: RunningFarm) -> str:
    return HEAD.replace("http://farm", farm.url)


@pytest.mark.parametrize(
    ("model", "more", "size"),
    [
        ("srpo", 'size: "512x256"', (512, 256)),
        ("flux/srpo", "image_size: { width: 512, height: 544 }, num_images: 1", (512, 544)),
        ("flux-1-srpo-text-to-image", 'size: "square", output_format: "jpeg"', (512, 512)),
    ],
)
def test_each_providers_model_renders(
    farm: RunningFarm, head: str, model: str, more: str, size: tuple[int, int]
) -> None:
    answer = javascript.run(
        head + f'report(await client.images.generate({{ ...quick, model: "{model}", {more} }}));'
    ).report

    (image,) = answer["data"]
    assert image_facts(farm.fetch(image["url"]))[0] == size


def test_the_image_itself_in_base64(head: str) -> None:
    answer = javascript.run(
        head
        + """
        report(await client.images.generate({ ...quick, model: "srpo", n: 2, size: "256x256",
          response_format: "b64_json" }));
        """
    ).report

    assert [image_facts(base64.b64decode(image["b64_json"]))[0] for image in answer["data"]] == [(256, 256)] * 2
    assert not any("url" in image for image in answer["data"])


def test_images_are_edited(farm: RunningFarm, head: str) -> None:
    """One file, and several: other images make another image."""
    sources = [farm.image(farm.wait_for_end(farm.submit(output_format="png", seed=seed))) for seed in (1, 2)]
    files = [
        f'await toFile(Buffer.from("{source.hex()}", "hex"), "in.png", {{ type: "image/png" }})' for source in sources
    ]
    ran = javascript.run(
        head
        + f"""
        const files = [{", ".join(files)}];
        const ask = {{ model: "kontext", prompt: "make it night", seed: 7 }};
        report(await client.images.edit({{ ...ask, image: files[0] }}));
        report(await client.images.edit({{ ...ask, image: files }}));
        report(await client.images.edit({{ ...ask, image: [files[1], files[0]] }}));
        """
    )

    images = {farm.fetch(answer["data"][0]["url"]) for answer in ran.reports}
    assert len(images) == 3


def test_errors_are_the_librarys_own_and_name_what_was_wrong(head: str) -> None:
    ran = javascript.run(
        head
        + """
        report(await client.images.generate({ ...quick, model: "srpo", n: 11 }).catch(failure));
        report(await client.images.generate({ ...quick, model: "no-such-model" }).catch(failure));
        report(await client.images.generate({ ...quick, model: "flux/srpo", num_images: 11 }).catch(failure));
        report(await client.images.generate({ ...quick, model: "srpo", stream: true }).catch(failure));
        """
    )
    invalid, unknown, of_aimlapi, streamed = ran.reports

    assert (invalid["status"], invalid["name"]) == (400, "BadRequestError")
    assert "n" in invalid["message"]
    assert (unknown["status"], unknown["name"]) == (404, "NotFoundError")
    assert "srpo" in unknown["message"]
    assert of_aimlapi["status"] == 400
    assert "num_images" in of_aimlapi["message"]
    assert streamed["status"] == 400
    assert "stream" in streamed["message"]


def test_a_call_that_the_library_sends_again_is_one_job(farm: RunningFarm, head: str) -> None:
    """Its patience is shorter than the rendering, so it asks up to three times."""
    before = len(farm.call("GET", "/farm/v1/jobs?limit=100").json["jobs"])

    ran = javascript.run(
        head
        + """
        const hasty = client.withOptions({ timeout: 1500, maxRetries: 2 });
        report(await hasty.images.generate({ prompt: "a slow fox", model: "srpo", size: "256x256", n: 4,
          num_inference_steps: 50 }).catch(failure));
        """
    ).report

    jobs = farm.call("GET", "/farm/v1/jobs?limit=100").json["jobs"]
    assert len(jobs) == before + 1
    assert len(ran.get("data", [])) in (4, 0)


def test_the_models_are_listed(head: str) -> None:
    models = javascript.run(
        head + "const ids = []; for await (const model of client.models.list()) ids.push(model.id); report(ids);"
    ).report

    assert {"srpo", "kontext", "flux/srpo", "flux-1-srpo-text-to-image"} <= set(models)


def test_langchains_wrapper_renders(farm: RunningFarm) -> None:
    """At its defaults, which are those of DALL·E 3; it calls once for each image."""
    one, two = javascript.run(
        f"""
        import {{ DallEAPIWrapper }} from "@langchain/openai";
        const to = {{ apiKey: "k", baseUrl: "{farm.url}/v1" }};
        report(await new DallEAPIWrapper(to).invoke("a fox"));
        report(await new DallEAPIWrapper({{ ...to, n: 2, size: "1792x1024" }})._call("a fox"));
        """
    ).reports

    assert image_facts(farm.fetch(one))[0] == (1024, 1024)
    assert [image_facts(farm.fetch(image["image_url"]))[0] for image in two] == [(1792, 1024)] * 2


def test_librechats_calls_are_answered_in_base64(farm: RunningFarm, head: str) -> None:
    """Its own tools are no package; these are their fields, and the only field of the answer that they read."""
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png")))
    contents = javascript.run(
        head
        + f"""
        const made = await client.images.generate({{ model: "gpt-image-1", prompt: "a fox", n: 1, background: "auto",
          output_format: undefined, output_compression: 100, quality: "auto", size: "auto" }});
        report(made.data[0].b64_json);
        const form = new FormData();
        for (const [name, value] of Object.entries({{ model: "gpt-image-1", prompt: "make it night", quality: "auto",
          size: "auto" }})) form.append(name, value);
        form.append("image[]", new Blob([Buffer.from("{source.hex()}", "hex")], {{ type: "image/png" }}), "fox.png");
        const headers = {{ Authorization: "Bearer farm-key" }};
        const edited = await fetch("{farm.url}/v1/images/edits", {{ method: "POST", headers, body: form }});
        report((await edited.json()).data[0].b64_json);
        """
    ).reports

    assert [image_facts(base64.b64decode(content))[0] for content in contents] == [(1024, 1024)] * 2
