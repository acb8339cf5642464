"""A job's timings as people read them."""

from __future__ import annotations

from farm.cli.terminal import timings_text


def test_stages_come_in_their_order_and_steps_are_a_whole_number() -> None:
    timings = {"device": 2.0, "decode": 0.5, "full_steps": 28.0, "start": 0.01, "denoise": 1.5, "inference": 2.02}

    assert list(timings_text(timings).items()) == [
        ("start", "0.01 s"),
        ("denoise", "1.50 s"),
        ("decode", "0.50 s"),
        ("device", "2.00 s"),
        ("full_steps", "28"),
        ("inference", "2.02 s"),
    ]
