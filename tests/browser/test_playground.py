"""The playground: what a person does with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect

from tests.browser.copied_code import offered_code, run_code
from tests.farms import RunningFarm, farm_command

#: Put an image of 320x256 pixels on the clipboard.
COPY_AN_IMAGE = """async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 256 });
  canvas.getContext("2d").fillRect(0, 0, 160, 128);
  const image = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
}"""


@pytest.fixture(autouse=True)
def _opened(request: pytest.FixtureRequest) -> None:
    """Open the playground, unless a test opens another farm's."""
    if "farm_with_keys" not in request.fixturenames:
        open_playground(request.getfixturevalue("page"), request.getfixturevalue("farm"))


def open_playground(page: Page, farm: RunningFarm, fragment: str = "") -> None:
    page.goto(f"{farm.url}/{fragment}")
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()


def fill(page: Page, prompt: str = "a fox", **values: object) -> None:
    page.fill("#field-prompt", prompt)
    page.select_option("#field-image_size", "square")
    for name, value in values.items():
        page.fill(f"#field-{name}", str(value))


def card(page: Page, number: int = 1) -> Locator:
    """Return the card of the newest job but `number` - 1."""
    return page.locator(f"#jobs > li:nth-child({number})")


def expect_status(found: Locator, status: str) -> None:
    expect(found).to_have_attribute("data-status", status)


def click_and_read_request(page: Page, clicked: Locator) -> dict[str, Any]:
    """Click on what submits a job, wait for its end, and return the request's body."""
    with page.expect_request(lambda sent: sent.method == "POST" and sent.url.endswith("/farm/v1/jobs")) as request:
        clicked.click()
    body: dict[str, Any] = json.loads(request.value.post_data or "")
    expect(page.locator("#run")).to_be_enabled()
    expect_status(card(page), "completed")
    return body


#: Decoding fails, too, when the next preview takes the place of the one that is decoded: then it begins again.
WIDTH = """async (image) => {
  for (;;) {
    const source = image.src;
    try {
      await image.decode();
      return image.naturalWidth;
    } catch (error) {
      if (image.src === source) throw error;
    }
  }
}"""


def width_of(image: Locator) -> int:
    expect(image).to_be_visible()
    width: int = image.evaluate(WIDTH)
    return width


def test_a_prompt_becomes_an_image_with_its_progress(page: Page) -> None:
    fill(page, num_inference_steps=50)
    page.click("#run")

    expect(card(page).locator(".status")).to_have_text(re.compile(r"rendering: step \d+ of 50"))
    expect_status(card(page), "completed")
    assert width_of(card(page).locator("img")) == 512
    expect(card(page)).to_contain_text(re.compile(r"seed \d+ · [\d.]+ s"))


def test_every_running_image_of_an_unchecked_farm_is_shown_as_it_forms_and_then_as_it_is(
    page: Page, slow_farm: RunningFarm
) -> None:
    open_playground(page, slow_farm)
    fill(page, num_inference_steps=50)
    check = page.get_by_label("Enable safety checker")
    expect(check).to_be_disabled()
    expect(check).not_to_be_checked()
    expect(check).to_have_accessible_description("This farm has no safety checker.")
    for _ in range(3):
        page.click("#run")
        expect(page.locator("#run")).to_be_enabled()

    for number in (3, 2, 1):
        preview = card(page, number).get_by_alt_text(re.compile(r"Preview of image 1 after \d+ steps"))
        assert width_of(preview) == 192
    for number in (1, 2, 3):
        expect_status(card(page, number), "completed")
        expect(card(page, number).locator(".preview")).to_have_count(0)
        assert width_of(card(page, number).locator("img")) == 512


def test_an_enhanced_prompt_is_edited_before_it_runs_or_undone(page: Page) -> None:
    fill(page, prompt="a fox", num_inference_steps=1)
    prompt = page.locator("#field-prompt")
    page.get_by_role("button", name="Enhance prompt").click()
    expect(prompt).to_have_value(re.compile("a fox, .+"))
    page.get_by_role("button", name="Undo").click()
    expect(prompt).to_have_value("a fox")

    page.get_by_role("button", name="Enhance prompt").click()
    expect(prompt).to_have_value(re.compile("a fox, .+"))
    prompt.press("End")
    prompt.press_sequentially(" in spring")
    text = prompt.input_value()
    page.click("#run")

    expect_status(card(page), "completed")
    expect(card(page).locator(".prompt-text")).to_have_text(text)
    assert text.endswith(" in spring")


def test_a_prompt_that_cannot_be_enhanced_is_an_error_at_its_field(page: Page) -> None:
    page.get_by_role("button", name="Enhance prompt").click()
    expect(page.locator("#field-prompt-error")).not_to_be_empty()


def test_the_same_seed_gives_the_same_image_and_another_one_another(page: Page, farm: RunningFarm) -> None:
    images = []
    for seed in (7, 7, 8):
        fill(page, seed=seed)
        page.click("#run")
        expect(card(page)).to_contain_text(f"seed {seed}")
        expect_status(card(page), "completed")
        images.append(farm.fetch(f"{farm.url}/{card(page).locator('img').get_attribute('src')}"))

    assert images[0] == images[1] != images[2]


def test_a_job_is_varied_by_its_seed_alone(page: Page) -> None:
    fill(page, num_inference_steps=2, guidance_scale=7.5, seed=7)
    first = click_and_read_request(page, page.locator("#run"))
    fill(page, prompt="another one that is not rendered", num_inference_steps=9, guidance_scale=1)

    varied = click_and_read_request(page, card(page).get_by_role("button", name="Vary"))

    assert varied["seed"] != 7
    assert varied == first | {"seed": varied["seed"]}
    expect(card(page)).to_contain_text(f"seed {varied['seed']}")
    expect(page.locator("#jobs > li", has_text="a fox")).to_have_count(2)


def test_a_job_is_edited_and_run_again(page: Page, farm: RunningFarm) -> None:
    fill(page, num_inference_steps=2, guidance_scale=7.5)
    first = click_and_read_request(page, page.locator("#run"))
    page.fill("#field-prompt", "another one that is not rendered")
    page.select_option("#model", "kontext")

    card(page).get_by_role("button", name="Edit and run again").click()
    expect(page.locator("#model")).to_have_value("srpo")
    expect(page.locator("#field-prompt")).to_be_focused()
    page.fill("#field-num_inference_steps", "3")
    again = click_and_read_request(page, page.locator("#run"))

    # The seed that the farm drew is kept, so that nothing but the change makes a difference.
    job_id = card(page, 2).get_attribute("data-job")
    assert job_id
    assert again == first | {"seed": farm.job(job_id)["seed"], "num_inference_steps": 3}


def test_an_image_is_downloaded_as_it_is(page: Page, farm: RunningFarm) -> None:
    fill(page, num_inference_steps=1, seed=7)
    page.click("#run")
    with page.expect_download() as download:
        card(page).get_by_role("link", name="Download").click()

    assert re.fullmatch(r"[0-9a-f]{8}-7\.jpeg", download.value.suggested_filename)
    image = farm.fetch(f"{farm.url}/{card(page).locator('img').get_attribute('src')}")
    assert download.value.path().read_bytes() == image


def test_a_running_job_is_cancelled(page: Page) -> None:
    fill(page, num_inference_steps=50, num_images=4)
    page.click("#run")
    expect_status(card(page), "processing")

    card(page).get_by_role("button", name="Cancel").click()

    expect(card(page).locator(".status")).to_contain_text("cancelled")


def test_a_cancel_that_does_not_reach_the_farm_is_reported(page: Page, context: BrowserContext) -> None:
    fill(page, num_inference_steps=50, num_images=4)
    page.click("#run")
    expect_status(card(page), "processing")

    context.set_offline(True)
    card(page).get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_contain_text("does not answer")
    context.set_offline(False)

    card(page).get_by_role("button", name="Cancel").click()
    expect(card(page).locator(".status")).to_contain_text("cancelled")


def test_an_image_is_opened_by_itself(page: Page, context: BrowserContext) -> None:
    fill(page, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")

    with context.expect_page() as opened:
        card(page).locator("img").click()

    assert width_of(opened.value.locator("img")) == 512


def test_the_end_of_a_job_is_announced_once(page: Page) -> None:
    fill(page, prompt="a fox", num_inference_steps=1)
    page.click("#run")

    expect(page.get_by_role("status").filter(has_text="completed: a fox")).to_have_count(1)
    expect(card(page).get_by_role("status")).to_have_count(0)


def test_a_prompt_from_right_to_left_is_shown_so(page: Page, farm: RunningFarm) -> None:
    fill(page, prompt="ثعلب أحمر 🦊 في الثلج", num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")

    for shown in (page.locator("#field-prompt"), card(page).locator(".prompt-text")):
        assert shown.evaluate("(node) => getComputedStyle(node).direction") == "rtl"
    page.goto(f"{farm.url}/queue")
    expect(page.locator("#jobs span[dir=auto]", has_text="ثعلب").first).to_have_css("direction", "rtl")


def test_a_job_that_fails_says_why(page: Page) -> None:
    page.select_option("#model", "srpo-image-to-image")
    page.fill("#field-prompt", "the same at night")
    page.get_by_label("URL of an input image").fill("http://127.0.0.1:1/fox.png")
    page.click("#run")

    expect_status(card(page), "failed")
    expect(card(page).locator(".status")).to_contain_text("refuses the connection")


def test_a_paused_farm_is_reported_while_jobs_wait(page: Page, farm: RunningFarm) -> None:
    farm.call("POST", "/farm/v1/pause")
    try:
        fill(page, num_inference_steps=1)
        page.click("#run")
        expect(page.locator("#waiting")).to_contain_text("paused")
    finally:
        farm.call("POST", "/farm/v1/resume")

    expect_status(card(page), "completed")
    expect(page.locator("#waiting")).to_be_hidden()


def drop(page: Page, *files: tuple[str, str]) -> None:
    """Drop files on the page, each given by its name and type."""
    page.evaluate(
        """(files) => {
          const dataTransfer = new DataTransfer();
          for (const [name, type] of files) dataTransfer.items.add(new File(["x"], name, { type }));
          document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        files,
    )


def test_dropped_files_that_cannot_be_used_are_refused(page: Page) -> None:
    page.select_option("#model", "kontext-multi")
    message = page.locator(".images [role=alert]")

    drop(page, ("notes.pdf", "application/pdf"))
    expect(message).to_contain_text("Only JPEG, PNG and WebP")
    drop(page, *((f"{number}.png", "image/png") for number in range(5)))
    expect(message).to_contain_text("At most 4 images")

    expect(page.locator(".thumbnails li")).to_have_count(4)


def test_a_reload_goes_on_with_running_jobs(page: Page, farm: RunningFarm) -> None:
    fill(page, num_inference_steps=50)
    page.click("#run")
    expect_status(card(page), "processing")

    page.reload()

    expect_status(card(page), "completed")
    expect(card(page).locator(".prompt-text")).to_have_text("a fox")


def test_a_lost_network_is_reported_and_jobs_that_ran_meanwhile_are_shown(page: Page, context: BrowserContext) -> None:
    fill(page, num_inference_steps=50, num_images=4)
    page.click("#run")
    expect_status(card(page), "processing")

    context.set_offline(True)
    expect(page.locator("#state")).to_contain_text("Offline")
    page.set_viewport_size({"width": 800, "height": 700})
    page.press("#field-prompt", "Control+Enter")
    expect(page.locator("#form-error")).to_contain_text("does not answer")
    expect(page.locator("#form-error")).to_be_in_viewport()
    context.set_offline(False)

    expect_status(card(page), "completed")


def test_two_tabs_share_their_history(page: Page, context: BrowserContext, farm: RunningFarm) -> None:
    fill(page, prompt="from the first tab")
    page.click("#run")
    expect_status(card(page), "completed")

    other = context.new_page()
    open_playground(other, farm)

    expect(card(other)).to_contain_text("from the first tab")
    expect_status(card(other), "completed")


def test_an_error_stands_at_its_field_and_goes_away(page: Page) -> None:
    fill(page, num_inference_steps=99)
    page.click("#run")

    field = page.locator("#field-num_inference_steps")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#field-num_inference_steps-error")).to_contain_text("50")
    expect(field).to_be_focused()
    page.fill("#field-num_inference_steps", "1")
    page.click("#run")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    expect_status(card(page), "completed")


def test_errors_of_several_parts_of_a_field_are_distinguished(page: Page) -> None:
    fill(page)
    page.select_option("#field-image_size", "custom")
    page.fill("#field-image_size-width", "7")
    page.fill("#field-image_size-height", "9999")
    page.click("#run")

    expect(page.locator("#field-image_size-error")).to_contain_text(
        re.compile("Width: .*sent: 7 — Height: .*sent: 9999")
    )


def test_an_input_image_is_chosen_and_a_broken_one_is_an_error_at_its_field(page: Page, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.png", tmp_path / "broken.png"
    Image.new("RGB", (320, 256), "red").save(whole)
    broken.write_bytes(b"no image")
    page.select_option("#model", "srpo-image-to-image")
    page.fill("#field-prompt", "the same in blue")

    page.set_input_files("#field-image_url", broken)
    page.click("#run")
    expect(page.locator("#field-image_url-error")).not_to_be_empty()

    page.set_input_files("#field-image_url", whole)
    page.fill("#field-num_inference_steps", "10")
    page.click("#run")
    expect_status(card(page), "completed")
    assert width_of(card(page).locator("img")) == 320


def test_an_image_is_pasted_as_input(page: Page) -> None:
    page.evaluate(COPY_AN_IMAGE)
    page.focus("#field-prompt")

    page.keyboard.press("Control+v")

    # The model that was chosen takes no image: the first one that does is chosen instead.
    expect(page.locator("#model")).to_have_value("srpo-image-to-image")
    assert width_of(page.get_by_alt_text("Input image 1")) == 320
    expect(page.locator("#field-prompt")).to_have_value("")
    page.fill("#field-prompt", "as copied")
    page.fill("#field-num_inference_steps", "10")
    page.click("#run")
    expect_status(card(page), "completed")
    assert width_of(card(page).locator("img")) == 320


def test_a_photo_is_taken_on_a_phone(page: Page, browser: Browser, farm: RunningFarm, tmp_path: Path) -> None:
    Image.new("RGB", (320, 256), "red").save(tmp_path / "photo.jpg")
    page.select_option("#model", "srpo-image-to-image")
    take = page.get_by_role("button", name="Take a photo")
    expect(page.locator("#field-image_url")).to_be_visible()
    expect(take).to_be_hidden()  # this window has a mouse

    phone = browser.new_page(viewport={"width": 360, "height": 800}, has_touch=True, is_mobile=True)
    open_playground(phone, farm)
    phone.select_option("#model", "srpo-image-to-image")
    with phone.expect_file_chooser() as camera:
        phone.get_by_role("button", name="Take a photo").tap()
    assert camera.value.element.get_attribute("capture") == "environment"
    camera.value.set_files(tmp_path / "photo.jpg")

    assert width_of(phone.get_by_alt_text("Input image 1")) == 320
    phone.context.close()


def test_an_image_is_used_as_the_next_input(page: Page, farm: RunningFarm) -> None:
    fill(page, num_inference_steps=1)
    page.click("#run")
    card(page).get_by_role("button", name="Use as input").click()

    expect(page.locator("#model")).to_have_value("srpo-image-to-image")
    assert width_of(page.get_by_alt_text("Input image 1")) == 512
    source = card(page).locator("img").get_attribute("src")
    page.fill("#field-prompt", "at night")
    page.fill("#field-num_inference_steps", "10")
    sent = click_and_read_request(page, page.locator("#run"))
    assert sent["image_url"] == f"{farm.url}/{source}"
    expect(card(page)).to_contain_text("at night")


def test_a_link_opens_the_same_settings(page: Page, context: BrowserContext) -> None:
    fill(page, prompt="a fox & a crow", seed=42, guidance_scale=7.5)
    page.click("#link")
    expect(page.locator("#state")).to_have_text("Link copied.")
    link = page.evaluate("() => navigator.clipboard.readText()")

    other = context.new_page()
    other.goto(link)

    expect(other.locator("#field-prompt")).to_have_value("a fox & a crow")
    expect(other.locator("#field-seed")).to_have_value("42")
    expect(other.locator("#field-guidance_scale")).to_have_value("7.5")
    expect(other.locator("#field-image_size")).to_have_value("square")


def test_a_link_has_no_files(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "input.png"
    Image.new("RGB", (320, 256), "red").save(file)
    page.select_option("#model", "kontext-multi")
    address = page.get_by_label("URL of an input image")
    address.fill("https://a.example/fox.png")
    address.press("Enter")
    page.set_input_files("#field-image_urls", file)
    expect(page.locator(".thumbnails li")).to_have_count(2)

    page.click("#link")

    expect(page.locator("#state")).to_have_text("Link copied.")
    assert "base64" not in page.evaluate("() => navigator.clipboard.readText()")


def test_a_link_with_values_that_cannot_be_opens_with_the_defaults(page: Page, farm: RunningFarm) -> None:
    values = 'prompt=5&image_url=[[]]&image_size=[]&num_inference_steps="x"&acceleration="warp"&webhook_events=7'
    for begin in ('model="srpo-image-to-image"', 'model="srpo"'):
        open_playground(page, farm, f"#{begin}&{values}&guidance_scale=7.5")
        page.reload()
        expect(page.locator("#model option:not([disabled])").first).to_be_attached()

        expect(page.locator("#field-guidance_scale")).to_have_value("7.5")
        expect(page.locator("#field-num_inference_steps")).not_to_have_value("")
        expect(page.locator("#field-prompt")).to_have_value("")
    expect(page.locator("#field-image_size")).to_have_value("landscape_4_3")


def test_a_browser_that_forbids_storage_renders_all_the_same(page: Page, farm: RunningFarm) -> None:
    page.evaluate("() => localStorage.setItem('srpo-farm.history', '{}')")  # of another program on this port, say
    page.reload()
    expect(page.locator("#empty")).to_be_visible()

    forbid = "{ get() { throw new DOMException('forbidden', 'SecurityError'); } }"
    for name in ("localStorage", "sessionStorage"):
        page.add_init_script(f"Object.defineProperty(window, '{name}', {forbid});")
    page.reload()
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    fill(page, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")


@pytest.mark.full
@pytest.mark.parametrize(("model", "count"), [("srpo-image-to-image", 1), ("kontext", 1), ("kontext-multi", 4)])
def test_a_job_with_images_is_varied_with_them_and_asks_for_them_once_they_are_gone(
    page: Page, tmp_path: Path, model: str, count: int
) -> None:
    files = [tmp_path / f"{number}.png" for number in range(count)]
    for file in files:
        Image.effect_noise((320, 256), 80).save(file)  # too large for the history
    page.select_option("#model", model)
    field = "image_urls" if count > 1 else "image_url"
    page.fill("#field-prompt", "the same at night")
    page.set_input_files(f"#field-{field}", files)
    expect(page.locator(".thumbnails li")).to_have_count(count)
    first = click_and_read_request(page, page.locator("#run"))
    page.select_option("#model", "srpo")

    varied = click_and_read_request(page, card(page).get_by_role("button", name="Vary"))
    assert varied == first | {"seed": varied["seed"]}
    card(page).get_by_role("button", name="Edit and run again").click()
    expect(page.locator(".thumbnails li")).to_have_count(count)
    again = click_and_read_request(page, page.locator("#run"))
    assert again == varied

    page.reload()
    expect_status(card(page), "completed")
    card(page).get_by_role("button", name="Vary").click()
    expect(page.locator(f"#field-{field}-error")).to_contain_text("choose the image again")
    expect(page.locator(f"#field-{field}")).to_be_focused()
    expect(page.locator("#field-seed")).not_to_have_value(str(again["seed"]))
    page.set_input_files(f"#field-{field}", files)
    assert click_and_read_request(page, page.locator("#run"))[field] == first[field]


def test_input_images_stay_where_another_model_is_chosen(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "input.png"
    Image.new("RGB", (320, 256), "red").save(file)
    page.select_option("#model", "srpo-image-to-image")
    page.set_input_files("#field-image_url", file)
    expect(page.locator(".thumbnails li")).to_have_count(1)

    for model in ("kontext-multi", "kontext"):
        page.select_option("#model", model)
        expect(page.locator(".thumbnails li")).to_have_count(1)


def test_images_of_a_removed_card_are_not_compared(page: Page) -> None:
    fill(page, num_images=2, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")
    for number in range(2):
        card(page).get_by_role("checkbox").nth(number).check()
    expect(page.locator("#compare")).to_be_enabled()

    card(page).get_by_role("button", name="Remove").click()

    expect(page.locator("#compare")).to_be_disabled()


def test_two_images_are_compared_with_keyboard_mouse_and_finger(page: Page, context: BrowserContext) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    fill(page, num_images=2, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")
    for number in range(2):
        card(page).get_by_role("checkbox").nth(number).check()
    page.click("#compare")
    slider = page.get_by_role("slider", name="Boundary between the images")
    over = page.locator("#compare-view .over")

    def expect_boundary(percent: int) -> None:
        expect(slider).to_have_value(str(percent))
        expect(over).to_have_css("clip-path", f"inset(0px {100 - percent}% 0px 0px)")

    expect(slider).to_be_focused()
    expect_boundary(50)
    page.keyboard.press("ArrowLeft")
    expect_boundary(49)

    box = page.locator("#compare-view .stage").bounding_box()
    assert box
    assert 200 < box["width"] < 360
    at = [box["x"] + box["width"] * part for part in (0.75, 0.25)]
    middle = box["y"] + box["height"] / 2
    page.mouse.click(at[0], middle)
    expect_boundary(75)
    page.mouse.move(at[1], middle)
    expect_boundary(75)
    page.mouse.down()
    page.mouse.move(at[0], middle)
    page.mouse.move(359, middle)
    expect_boundary(100)
    page.mouse.up()

    fingers = context.new_cdp_session(page)
    for kind, x in (("touchStart", at[0]), ("touchMove", at[1])):
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": middle}]})
    expect_boundary(25)
    fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_copied_request_runs_as_pasted_in_every_python_client_and_curl(page: Page, farm: RunningFarm) -> None:
    fill(page, prompt='it\'s "a fox" $HOME', num_inference_steps=1, seed=3)
    codes = offered_code(page)
    names = ["Shell: curl", "Python: fal-client", "Python: openai", "Python: wavespeed"]
    for name in names:
        assert farm.url in run_code(name, codes[name]), name

    newest = farm.call("GET", "/farm/v1/jobs?limit=4").json["jobs"]
    assert {job["prompt"] for job in newest} == {'it\'s "a fox" $HOME'}
    assert {job["seed"] for job in newest} == {3}


def test_a_copied_request_has_the_size_of_its_input_image_in_every_dialect(
    page: Page, farm: RunningFarm, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # by 90 degrees
    Image.new("RGB", (272, 320), "red").save(tmp_path / "red.jpg", exif=turned)
    page.select_option("#model", "srpo-image-to-image")
    page.set_input_files("#field-image_url", tmp_path / "red.jpg")
    page.fill("#field-prompt", "the same in blue")
    page.fill("#field-num_inference_steps", "10")

    codes = {name: code for name, code in offered_code(page).items() if "curl" in name}
    for name, code in codes.items():
        run_code(name, code)

    assert set(codes) == {"Shell: curl", *(f"Shell: curl, as at {who}" for who in ("fal", "OpenAI", "WaveSpeed"))}
    for job in farm.call("GET", "/farm/v1/jobs?limit=4").json["jobs"]:
        (image,) = farm.wait_for_end(job["id"])["images"]
        assert (image["width"], image["height"]) == (320, 272), job["model"]


@pytest.mark.parametrize(
    ("field", "value", "clients"),
    [
        ("priority", "low", {"Shell: curl", "JavaScript: fetch"}),
        ("webhook_url", "https://a.example/hook", {"Shell: curl", "JavaScript: fetch"}),
        ("webhook_events", "job.failed", {"Shell: curl", "JavaScript: fetch"}),
        (
            "sync_mode",
            "true",
            {
                *("Shell: curl", "Shell: curl, as at fal", "Python: fal-client"),
                *("JavaScript: @fal-ai/client", "JavaScript: fetch"),
            },
        ),
    ],
)
def test_code_is_offered_only_for_clients_that_can_send_the_fields(
    page: Page, field: str, value: str, clients: set[str]
) -> None:
    page.locator("#fields summary").click()
    input_ = page.locator(f"#field-{field}")
    if field == "sync_mode":
        input_.check()
    elif field == "webhook_url":
        input_.fill(value)
    else:
        input_.select_option(value)

    codes = offered_code(page)

    assert set(codes) == clients
    assert all(field in code and value in code.lower() for code in codes.values())


def test_markup_of_a_caller_is_text(page: Page, farm: RunningFarm) -> None:
    dialogs: list[Any] = []

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog)
        dialog.dismiss()

    page.on("dialog", dismiss)
    prompt = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    fill(page, prompt=prompt, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")
    expect(card(page).locator(".prompt-text")).to_have_text(prompt)

    page.goto(f"{farm.url}/queue")
    expect(page.locator("#jobs")).to_contain_text(prompt)
    assert not dialogs


def test_a_long_history_is_shown_a_page_at_a_time(page: Page, farm: RunningFarm) -> None:
    jobs = [farm.submit(num_inference_steps=1) for _ in range(2)]
    ids = [*jobs, *(f"{number:08d}" for number in range(198))]
    entries = [{"id": job_id, "body": {"model": "srpo"}} for job_id in ids]
    page.evaluate("(entries) => localStorage.setItem('srpo-farm.history', JSON.stringify(entries))", entries)
    page.reload()

    # The jobs that the farm no longer has are dropped.
    expect(page.locator("#jobs > li")).to_have_count(2)
    expect(page.locator("#more")).to_be_visible()


def test_a_wrong_key_is_reported_and_the_right_one_is_kept_for_this_tab_only(
    page: Page, context: BrowserContext, farm_with_keys: RunningFarm
) -> None:
    made = farm_command("keys", "create", "ann", "--data-dir", str(farm_with_keys.data_dir))
    key = re.findall(r"\S{20,}", made.stdout)[-1]
    page.goto(farm_with_keys.url)

    page.fill("#key", "wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-error")).to_contain_text("not valid")
    page.fill("#key", key)
    page.get_by_role("button", name="Use this key").click()

    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    fill(page, num_inference_steps=1)
    page.click("#run")
    expect_status(card(page), "completed")
    page.reload()
    expect_status(card(page), "completed")
    stranger = context.new_page()
    stranger.goto(farm_with_keys.url)
    expect(stranger.locator("#key-dialog")).to_be_visible()
