"""Batches from upload to output file, through the API, a background process and a worker."""

from __future__ import annotations

import base64

from flask.testing import FlaskClient

from tests.farms import image_facts
from tests.service.bulk.bulks import BulkHarness, create, request


def test_each_line_is_rendered_and_the_output_keeps_their_order(harness: BulkHarness, api: FlaskClient) -> None:
    batch_id = create(api, *(request(number, n=1 + number % 2) for number in range(12)), metadata={"night": "1"})
    assert harness.batch(batch_id)["status"] == "validating"

    batch = harness.end_of(batch_id)

    assert (batch["status"], batch["error_file_id"], batch["model"]) == ("completed", None, "srpo")
    assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    assert batch["metadata"] == {"night": "1"}
    reached = [batch[f"{state}_at"] for state in ("created", "in_progress", "finalizing", "completed", "expires")]
    assert None not in reached
    assert reached == sorted(reached)
    lines = harness.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{number}" for number in range(12)]
    for number, line in enumerate(lines):
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        images = line["response"]["body"]["data"]
        assert len(images) == 1 + number % 2
        for image in images:
            fetched = api.get(image["url"].removeprefix("https://farm.example")).data
            assert image_facts(fetched) == ((256, 256), "PNG")
            assert base64.b64decode(image["b64_json"]) == fetched
