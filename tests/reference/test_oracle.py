"""The oracle against plain loops, against numerical solvers of the quadratic programs, and against
numerical derivatives.
"""

from __future__ import annotations

import decimal
import math
from decimal import Decimal

import numpy as np
import pytest
from scipy import optimize

from tests.reference import oracle


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, classes, width = rng.integers(1, 5), rng.integers(1, 6), rng.integers(1, 4)
    logits, features = 3 * rng.normal(size=(rows, classes)), rng.normal(size=(rows, width))
    target, c = rng.integers(0, classes, rows), rng.uniform(0.1, 2.0, classes)
    if classes > 1:
        logits[0, 0] = -np.inf

    stats = oracle.softmax_stats(logits, target)
    for i in range(rows):
        p = oracle.loops_softmax(logits[i].tolist())
        assert stats.entropy[i] == pytest.approx(
            oracle.loops_entropy(logits[i].tolist()), abs=1e-14
        )
        assert stats.lse[i] == pytest.approx(
            math.log(sum(math.exp(x) for x in logits[i])), abs=1e-14
        )
        expected = -math.log(p[target[i]]) if p[target[i]] > 0.0 else math.inf
        assert stats.nll[i] == pytest.approx(expected, abs=1e-13)

    by_hand = sorted(range(rows), key=lambda i: (-stats.entropy[i], i))
    assert oracle.topk(stats.entropy, rows).tolist() == by_hand

    some = rng.permutation(rows)[: rng.integers(1, rows + 1)]
    for weights in (None, c):
        got = oracle.linear_ce_grad(features, logits, target, some, weights)
        weight, bias = oracle.loops_head_gradient(
            features.tolist(), logits.tolist(), target.tolist(), some.tolist(), weights
        )
        np.testing.assert_allclose(got.weight, weight, atol=1e-14)
        np.testing.assert_allclose(got.bias, bias, atol=1e-14)
        assert (got.weight_scale >= np.abs(got.weight) - 1e-15).all()

    g, p = rng.normal(size=6), rng.normal(size=6)
    new = oracle.project([g[:2], g[2:]], [p[:2], p[2:]], oracle.Rule(epsilon=0.3)).grads
    np.testing.assert_allclose(
        np.concatenate(new), oracle.loops_project(g.tolist(), p.tolist(), 0.3), atol=1e-14
    )


def test_ties_nan_and_infinity_in_the_selection() -> None:
    nan = math.nan
    assert oracle.topk(np.array([1.0, 2.0, 1.0, 2.0]), 4).tolist() == [1, 3, 0, 2]
    assert oracle.topk(np.array([1.0, nan, 9.0, nan]), 3).tolist() == [1, 3, 2]
    inf = math.inf
    stats = oracle.softmax_stats(
        np.array([[-inf, -inf], [inf, 0.0], [nan, 0.0], [-inf, 5.0], [1e4, -1e4]]), np.zeros(5, int)
    )
    assert np.isnan(stats.entropy).tolist() == [True, True, True, False, False]
    assert np.isnan(stats.nll).tolist() == [True, True, True, False, False]
    assert stats.entropy[3:].tolist() == [0.0, 0.0] and stats.nll[3] == inf and stats.lse[4] == 1e4


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("gap", [0, 1, 20, 40, 80])
def test_confident_rows_keep_all_digits(gap: int, target: int) -> None:
    """Against 60 decimal digits. 1 + e^-40 is 1 in float64, so log s and p_y - 1 would be 0."""
    row = [-5, -5 - gap, -5 - gap - 3]
    with decimal.localcontext(prec=60):
        parts = [Decimal(x).exp() for x in row]
        p = [part / sum(parts) for part in parts]
        entropy, nll = -sum(q * q.ln() for q in p), -p[target].ln()
        residual = [q - (c == target) for c, q in enumerate(p)]
    stats = oracle.softmax_stats([row], [target])
    assert stats.entropy[0] == pytest.approx(float(entropy), rel=1e-14, abs=0.0)
    assert stats.nll[0] == pytest.approx(float(nll), rel=1e-14, abs=0.0)
    np.testing.assert_allclose(
        oracle.residual([row], [target])[0], [float(a) for a in residual], rtol=1e-13, atol=0.0
    )


@pytest.mark.parametrize("with_weights", [False, True])
def test_head_gradient_is_the_derivative_of_the_loss(with_weights: bool) -> None:
    rng = np.random.default_rng(3)
    features, target = rng.normal(size=(5, 3)), rng.integers(0, 4, 5)
    weight, bias = rng.normal(size=(4, 3)), rng.normal(size=4)
    c = rng.uniform(0.1, 2.0, 4) if with_weights else None

    def loss(flat: np.ndarray) -> float:
        w, b, u = np.split(flat, [12, 16])
        return oracle.cross_entropy(u.reshape(5, 3) @ w.reshape(4, 3).T + b, target, c)

    point = np.concatenate([weight.ravel(), bias, features.ravel()])
    numeric = optimize.approx_fprime(point, loss, 1e-7)
    step = oracle.guided_linear_ce(
        features, target, features, target, weight, bias, 0, oracle.Rule(), c
    )
    exact = np.concatenate([step.grad_weight.ravel(), step.grad_bias, step.grad_features.ravel()])
    np.testing.assert_allclose(numeric, exact, atol=1e-6)
    assert step.loss == loss(point)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, -0.7])
@pytest.mark.parametrize("seed", range(4))
def test_closed_form_solves_the_quadratic_program(seed: int, epsilon: float) -> None:
    """Equation (4) by a general solver, and by bisection on its dual, against equation (5)."""
    rng = np.random.default_rng(seed)
    g, p = rng.normal(size=7), rng.normal(size=7)
    closed = oracle.project([g], [p], oracle.Rule(epsilon=epsilon))

    solved = optimize.minimize(
        lambda x: 0.5 * ((x - g) ** 2).sum(),
        g,
        jac=lambda x: x - g,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: p @ x - epsilon, "jac": lambda x: p},
        options={"ftol": 1e-15, "maxiter": 200},
    )
    assert solved.success
    np.testing.assert_allclose(closed.grads[0], solved.x, atol=1e-6)

    def slack(v: float) -> float:  # the derivative of the dual, decreasing in its multiplier v
        return epsilon - p @ g - v * (p @ p)

    v = 0.0 if slack(0.0) <= 0.0 else optimize.bisect(slack, 0.0, 1e3, xtol=1e-13)
    assert closed.v == pytest.approx(v, abs=1e-10)
    assert p @ closed.grads[0] >= epsilon - 1e-12


@pytest.mark.parametrize("seed", range(6))
def test_official_rule_solves_the_quadratic_program_of_gem(seed: int) -> None:
    """min ½ v (‖g_p‖² + ridge) v + <g, g_p> v subject to v >= margin, which the released code
    solves if <g, g_p> < 0.
    """
    rng = np.random.default_rng(seed)
    g, p = rng.normal(size=5) * rng.choice([0.3, 3.0]), rng.normal(size=5)
    rule = oracle.Rule("official", margin=0.75, ridge=1e-3)
    closed = oracle.project([g], [p], rule)
    if g @ p >= 0.0:
        assert closed.v == 0.0
        g = -g
        closed = oracle.project([g], [p], rule)
    quadratic, linear = p @ p + 1e-3, g @ p
    solved = optimize.minimize(
        lambda v: 0.5 * quadratic * v[0] ** 2 + linear * v[0],
        [1.0],
        jac=lambda v: np.array([quadratic * v[0] + linear]),
        method="SLSQP",
        bounds=[(0.75, None)],
        options={"ftol": 1e-15},
    )
    assert solved.success
    assert closed.v == pytest.approx(solved.x[0], abs=1e-6)


def test_the_options_of_the_projection() -> None:
    g, p = np.array([3.0, -4.0]), np.array([0.0, 2.0])
    assert oracle.project([g], [p], oracle.Rule()).v == 2.0
    aligned = oracle.project([g], [p], oracle.Rule(epsilon=0.5, relative=True))
    assert p @ aligned.grads[0] == pytest.approx(0.5 * 5.0 * 2.0)
    bounded = oracle.project([g], [p], oracle.Rule(max_correction=0.1))
    assert np.linalg.norm(bounded.grads[0] - g) == pytest.approx(0.1 * 5.0)
    assert oracle.project([g], [0 * p], oracle.Rule(epsilon=1.0)).v == 0.0
    for broken in (math.nan, math.inf):
        assert math.isnan(oracle.project([np.array([broken, 1.0])], [p], oracle.Rule()).v)
        assert math.isnan(oracle.project([g], [np.array([broken, 1.0])], oracle.Rule()).v)
    assert oracle.cosine(g, p) == pytest.approx(-0.8)
