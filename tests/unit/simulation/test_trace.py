"""Traces: files of jobs, and made-up ones."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from farm.simulation.trace import Arrival, Mix, UnusableTrace, made_up, read, shape_of

MIX = Mix({"srpo": 1}, {"square_hd": 3, "512x512": 1}, {"none": 1}, {"1": 1, "4": 1}, {"normal": 1, "bulk": 1})


def test_files_of_both_kinds_have_the_same_jobs(tmp_path: Path) -> None:
    table, lines = tmp_path / "trace.csv", tmp_path / "trace.jsonl"
    table.write_text("at,priority,caller,width,height\n2.5,bulk,eve,512,512\n1,normal,ada,1024,768\n")
    lines.write_text(
        '{"at": 2.5, "priority": "bulk", "caller": "eve", "width": 512, "height": 512}\n\n{"at": 1, "caller": "ada"}'
    )

    first = Arrival(1, "ada", "normal", shape_of("srpo", (1024, 768), 28, 1, "none"))
    second = Arrival(2.5, "eve", "bulk", shape_of("srpo", (512, 512), 28, 1, "none"))
    assert read(table) == read(lines) == [first, second]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{}", "job 2 is not usable: at:"),
        ("not JSON", "job 2 is not usable: the line:"),
        ('{"at": 1, "colour": "red"}', "colour"),
        ('{"at": 1, "model": "dall-e"}', "unknown model, 'dall-e'"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_by_its_line(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at": 0}\n' + line)

    with pytest.raises(UnusableTrace, match=named):
        read(file)


def test_a_made_up_trace_has_its_rate_its_mix_and_its_day() -> None:
    jobs = list(made_up(MIX, rate=1, hours=24, swing=0.8, seed=1))

    assert jobs == list(made_up(MIX, rate=1, hours=24, swing=0.8, seed=1))
    assert all(before.at <= after.at for before, after in itertools.pairwise(jobs))
    assert len(jobs) == pytest.approx(86400, rel=0.02)
    sizes = Counter(job.shape.batch_key for job in jobs)
    assert sizes["srpo:64x64"] / len(jobs) == pytest.approx(0.75, abs=0.01)
    by_hour = Counter((job.priority, int(job.at // 3600)) for job in jobs)
    assert by_hour["normal", 12] > 6 * by_hour["normal", 0]
    assert by_hour["bulk", 12] == pytest.approx(by_hour["bulk", 0], rel=0.15)
