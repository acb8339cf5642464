"""Extrapolation of the velocity: Lagrange's weights against NumPy's polynomials, and plans of masks."""

from __future__ import annotations

import numpy as np
import pytest

from workers.pipelines.extrapolation import lagrange_weights, step_plan

SIGMAS = (1.0, 0.97, 0.9, 0.86, 0.7, 0.52, 0.3, 0.05)


@pytest.mark.parametrize("known", [SIGMAS[:1], SIGMAS[:2], SIGMAS[1:4], (1.0, 0.9, 0.52)])
def test_weights_continue_the_polynomial_through_the_known_values(known: tuple[float, ...]) -> None:
    values = np.random.default_rng(3).normal(size=len(known))
    polynomial = np.polynomial.Polynomial.fit(known, values, deg=len(known) - 1)

    extrapolated = np.dot(lagrange_weights(known, 0.4), values)

    assert extrapolated == pytest.approx(polynomial(0.4), rel=1e-9)


def test_a_plan_uses_the_last_full_steps_and_fewer_while_there_are_fewer() -> None:
    plan = step_plan("10110100", SIGMAS, order=2)

    assert [weights is None for weights in plan] == [digit == "1" for digit in "10110100"]
    assert plan[1] == (1.0,)
    assert plan[4] == lagrange_weights((SIGMAS[0], SIGMAS[2], SIGMAS[3]), SIGMAS[4])
    assert plan[6] == lagrange_weights((SIGMAS[2], SIGMAS[3], SIGMAS[5]), SIGMAS[6])
    assert plan[7] == lagrange_weights((SIGMAS[2], SIGMAS[3], SIGMAS[5]), SIGMAS[7])


@pytest.mark.parametrize("order", [0, 1])
def test_a_plan_of_a_lower_order_uses_fewer_steps(order: int) -> None:
    plan = step_plan("11110111", SIGMAS, order)

    assert plan[4] == lagrange_weights(SIGMAS[3 - order : 4], SIGMAS[4])
