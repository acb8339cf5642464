"""`python -m workers.calibration JSON`: the process of `farm weights calibrate`; `JSON` is a `Calibration`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

from farm.domain.acceleration import Levels
from farm.domain.calibration import Calibration
from farm.domain.catalogue import KONTEXT_TEXT, SRPO, Acceleration, named
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.domain.request import ImageRequest
from farm.printable import say
from farm.process.child import EXIT_CONFIG
from farm.settings import load
from farm.step_masks import write_levels
from workers.calibration.candidates import SHARES, Candidate, candidates
from workers.calibration.grid import side_by_side
from workers.calibration.likeness import measures
from workers.calibration.measurement import Figures, Reference
from workers.calibration.prompts import OF_REAL_WEIGHTS, OF_THE_MINIATURE
from workers.calibration.report import Report
from workers.pipelines.flux import FluxModels
from workers.pipelines.pipeline import MINIATURE
from workers.process import load_pipeline

Measured = Mapping[Candidate, Figures]
Chosen = Mapping[Acceleration, Candidate]


def main(calibration: Calibration) -> None:
    of = measures()
    pipeline = load_pipeline(load().model_copy(update={"step_masks": None}))
    if not isinstance(pipeline, FluxModels):
        raise ConfigurationError("The simulated pipeline has no masks to calibrate; unset FARM_PIPELINE.")
    requests = _requests(pipeline, calibration)
    _describe(pipeline, requests)
    reference = Reference(pipeline, requests, of)
    measured = _measure(reference, calibration, Report(list(of), reference.seconds))
    chosen = {acceleration: _best(measured, acceleration) for acceleration in SHARES}
    levels = _levels(measured, chosen, calibration, pipeline)
    write_levels(levels, calibration.out)
    say("")
    say(levels.source)
    say(f"{calibration.out} is written; FARM_STEP_MASKS={calibration.out} makes workers use it.")
    if calibration.grid:
        side_by_side(reference, levels, measured[chosen["high"]]).save(calibration.grid, "JPEG", quality=90)
    for steps in calibration.checked_steps:
        _check(pipeline, calibration.model_copy(update={"steps": steps}), levels)


def _requests(pipeline: FluxModels, calibration: Calibration) -> list[ImageRequest]:
    model = SRPO if SRPO.name in pipeline.models else KONTEXT_TEXT
    prompts = calibration.prompts or (OF_THE_MINIATURE if pipeline.weights == MINIATURE else OF_REAL_WEIGHTS)
    return [
        ImageRequest(
            model=model.name,
            prompt=prompts[number % len(prompts)],
            width=calibration.width,
            height=calibration.height,
            steps=calibration.steps,
            guidance=model.parameters.guidance.default,
            seed=calibration.seed + number,
        )
        for number in range(calibration.images)
    ]


def _describe(pipeline: FluxModels, requests: list[ImageRequest]) -> None:
    first = requests[0]
    say(f"weights  {pipeline.weights} (build {pipeline.build}), {named(first.model).title}")
    say(f"images   {len(requests)} of {first.width}x{first.height}, {first.steps} steps, guidance {first.guidance}")
    say("likeness to the same images with every step in full; time: denoising, beside every step in full")
    say("")


def _measure(reference: Reference, calibration: Calibration, report: Report) -> Measured:
    tried = candidates(calibration.steps, calibration.orders, calibration.masks)
    measured = {}
    for candidate in tried:
        measured[candidate] = reference.compare(candidate.level)
        report.add(candidate.mask, candidate.full_steps, candidate.order, measured[candidate])
    for steps in sorted({candidate.full_steps for candidate in tried}, reverse=True):
        report.add(f"{steps} plain steps", steps, None, reference.compare_plain(steps))
    return measured


def _levels(measured: Measured, chosen: Chosen, calibration: Calibration, pipeline: FluxModels) -> Levels:
    source = (
        f"farm weights calibrate with {pipeline.weights}, {calibration.images} images of "
        f"{calibration.width}x{calibration.height}, {calibration.steps} steps: {'; '.join(_texts(measured, chosen))}"
    )
    return Levels(source=source, regular=chosen["regular"].level, high=chosen["high"].level)


def _best(measured: Measured, acceleration: Acceleration) -> Candidate:
    """Return the candidate of the level with the best worst image: a mask that flips one in many is not for use."""
    allowed = [candidate for candidate in measured if candidate.may_be(acceleration)]
    return max(allowed, key=lambda candidate: (measured[candidate].worst_psnr, measured[candidate].median_psnr))


def _texts(measured: Measured, chosen: Chosen) -> Iterator[str]:
    for acceleration, candidate in chosen.items():
        figures = measured[candidate]
        yield f"{acceleration} PSNR median {figures.median_psnr:.1f} dB, worst {figures.worst_psnr:.1f} dB"


def _check(pipeline: FluxModels, calibration: Calibration, levels: Levels) -> None:
    """Print the figures of the chosen levels at another number of steps, to which their masks are stretched."""
    of = measures()
    say("")
    say(f"{calibration.steps} steps")
    reference = Reference(pipeline, _requests(pipeline, calibration), of)
    report = Report(list(of), reference.seconds)
    for acceleration in SHARES:
        level = levels.level(acceleration)
        full_steps = levels.full_steps(acceleration, calibration.steps)
        report.add(level.mask(calibration.steps), full_steps, level.order, reference.compare(level))
        report.add(f"{full_steps} plain steps", full_steps, None, reference.compare_plain(full_steps))


if __name__ == "__main__":
    try:
        main(Calibration.model_validate_json(sys.argv[1]))
    except FarmError as error:
        say(f"farm: {with_detail(error)}", file=sys.stderr)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigurationError) else 1)
