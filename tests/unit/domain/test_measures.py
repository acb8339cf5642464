"""Measures: scripts count only what is declared, and a worker counts what it has rendered."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from farm.domain.measures import MEASURES, SIZES, completion, size_class
from tests.unit.dialects.samples import a_request, a_result

_COUNTED = re.compile(r"(?:count_total|observe)\('(\w+)")
#: A counter that is a gauge: what is added is taken away again.
_GAUGES = {"webhooks_waiting"}


def test_scripts_count_what_is_declared() -> None:
    folder = resources.files("farm.jobstore") / "lua"
    texts = [path.read_text() for part in (folder, folder / "shared") for path in part.iterdir() if path.is_file()]
    counted = {name for text in texts for name in _COUNTED.findall(text)}

    assert len(counted) > 10
    assert counted - _GAUGES <= MEASURES.keys()


@pytest.mark.parametrize(
    ("width", "height", "label"),
    [(256, 256, "0.3MP"), (512, 512, "0.3MP"), (1024, 768, "0.8MP"), (1024, 1024, "1.3MP"), (1672, 1672, "2.8MP")],
)
def test_every_size_has_a_class(width: int, height: int, label: str) -> None:
    assert size_class(width, height) == label
    assert label in SIZES.values()


def test_a_completed_job_counts_its_images_steps_and_times() -> None:
    request = a_request(images=2, width=1000, height=1000, steps=10)
    result = a_result(images=2, flagged=(True, False), timings={"inference": 3.0, "encode": 0.02, "device": 9.0})

    assert completion(request, result) == {
        "images:srpo:none:1.3MP": 2,
        "images_flagged:srpo": 1,
        "denoising_steps:srpo:none": 20,
        "full_steps:srpo:none": 20,
        "megapixel_steps:srpo:none": 20_000_000,
        "job_render_seconds:srpo:none:1.3MP:3": 1,
        "job_render_seconds:srpo:none:1.3MP:sum": 3_000_000,
        "job_stage_seconds:encode:1": 1,
        "job_stage_seconds:encode:sum": 20_000,
    }


def test_a_value_on_the_bound_of_a_bucket_is_in_it() -> None:
    bounds = MEASURES["job_render_seconds"].buckets
    counts = completion(a_request(), a_result(timings={"inference": bounds[0]}))

    assert "job_render_seconds:srpo:none:0.3MP:0" in counts
