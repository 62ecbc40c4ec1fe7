"""The published laws against the numbers that their papers work out."""

import numpy as np
import pytest

from gpt_jax.scaling import laws


def test_gpt3s_line_at_the_compute_of_its_largest_model():
    """3,640 PF-days (Table D.1): 2.57 * 3640^-0.048, by hand with logarithms, and figure 3.1."""
    assert laws.GPT3_C.loss(3640 * laws.PF_DAY) == pytest.approx(1.734, abs=5e-4)
    assert laws.GPT3_C.loss(laws.PF_DAY) == pytest.approx(2.57)


def test_the_scale_of_a_power_law_is_where_its_loss_is_one():
    assert laws.KAPLAN_N.loss(8.8e13) == pytest.approx(1)
    assert laws.KAPLAN_D.loss(5.4e13) == pytest.approx(1)
    assert laws.KAPLAN_C_MIN.loss(3.1e8 * laws.PF_DAY) == pytest.approx(1)


def test_kaplans_joint_laws_have_the_single_ones_as_their_ends():
    """Of endless data (or steps) only the size is left, and the other way round."""
    nd, ns = laws.KAPLAN_ND, laws.KAPLAN_NS
    assert nd.loss(1e9, 1e40) == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert nd.loss(1e60, 1e10) == pytest.approx((1.8e13 / 1e10) ** 0.103)
    assert ns.loss(1e9, 1e60) == pytest.approx((6.5e13 / 1e9) ** 0.077)
    assert ns.loss(1e9, 2.1e3) == pytest.approx((6.5e13 / 1e9) ** 0.077 + 1)


def test_overfitting_depends_on_the_ratio_of_the_paper():
    """Section 4.2: where N^0.74 / D is the same, L(N, D) is in the same ratio to L(N, inf)."""
    law = laws.KAPLAN_ND
    excess = [law.loss(n, 5e3 * n ** (law.a_N / law.a_D)) / law.loss(n, 1e60) for n in (1e6, 1e9)]
    assert excess[0] == pytest.approx(excess[1])
    assert 1.01 < excess[0] < 1.03  # D of 5e3 N^0.74 is where the paper sees 2 % (equation 4.4)


def test_a_batch_at_the_critical_size_doubles_both_costs():
    """Section 5.1: at B_crit a run takes twice S_min and twice C_min."""
    batch = laws.kaplan_critical_batch(3.0)
    assert laws.kaplan_min_steps(1000, batch, 3.0) == pytest.approx(500)
    assert laws.kaplan_min_flops(1e20, batch, 3.0) == pytest.approx(5e19)
    # Far above it S_min is S, and far below it C_min is C.
    assert laws.kaplan_min_steps(1000, 1e4 * batch, 3.0) == pytest.approx(1000, rel=1e-3)
    assert laws.kaplan_min_flops(1e20, 1e-4 * batch, 3.0) == pytest.approx(1e20, rel=1e-3)
    # "roughly 1-2 million tokens at convergence for the largest models" (section 1.1).
    assert 1e6 < laws.kaplan_critical_batch(2.9) < 2e6


def test_kaplans_optimum_of_one_petaflop_day():
    """Table 6, and that its columns agree: a run at B_crit makes 2 S_min steps of it."""
    best = laws.kaplan_optimal(laws.PF_DAY)
    assert best == pytest.approx((1.3e9, 2.0e6, 5.4e3, 2e10))
    assert 2 * best.min_steps * best.batch == pytest.approx(best.tokens, rel=0.1)
    assert laws.flops_of(best.params, best.tokens) == pytest.approx(2 * laws.PF_DAY, rel=0.25)
    more = laws.kaplan_optimal(10 * laws.PF_DAY)
    assert more.params / best.params == pytest.approx(5.4, abs=0.1)  # "5x" for 10x (section 6.1)


def test_a_run_at_the_critical_batch_solves_its_own_equation():
    """And at the optimum of a compute it comes to the paper's L(C_min), fitted on its own."""
    best = laws.kaplan_optimal(0.5 * 1e21)
    for params, tokens in ((1e9, 1e7), (1e9, 1e12), (best.params, 1e21 / 6 / best.params)):
        loss = laws.kaplan_run_loss(params, tokens)
        steps = tokens / (2 * laws.kaplan_critical_batch(loss))
        assert laws.KAPLAN_NS.loss(params, steps) == pytest.approx(loss, rel=1e-9)
    assert loss == pytest.approx(laws.KAPLAN_C_MIN.loss(0.5 * 1e21), rel=0.04)


def test_the_learning_rate_of_ten_million_parameters():
    """0.003239 - 0.0001395 ln 1e7, by hand."""
    assert laws.kaplan_learning_rate(1e7) == pytest.approx(0.0009905, abs=1e-6)


@pytest.mark.parametrize(
    ("law", "params", "tokens", "loss"),
    [
        # The paper's rounded constants: 1.69 + 0.083 + 0.163, and Gopher's 1.69 + 0.052 + 0.251.
        (laws.Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28), 70e9, 1.4e12, 1.936),
        (laws.Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28), 280e9, 300e9, 1.993),
        # 1.8172 + 0.0815 + 0.0752, with logarithms by hand.
        (laws.BESIROGLU, 70e9, 1.4e12, 1.974),
    ],
)
def test_the_loss_of_chinchilla_and_gopher(law, params, tokens, loss):
    assert law.loss(params, tokens) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize(
    ("params", "flops", "tokens"),
    [(4e8, 2.21e19, 9.2e9), (1e10, 2.46e22, 410.1e9), (6.7e10, 1.71e24, 4.1e12)],
)
def test_approach_3_gives_table_a3(params, flops, tokens):
    n, d = laws.hoffmann_optimal(flops, 3)
    assert (n, d) == (pytest.approx(params, rel=0.05), pytest.approx(tokens, rel=0.05))


@pytest.mark.parametrize(
    ("approach", "exponent", "flops", "tokens"),
    [(1, 0.50, 5.76e23, 1.5e12), (2, 0.49, 6.88e23, 1.7e12)],
)
def test_approaches_1_and_2_have_the_exponents_of_table_2(approach, exponent, flops, tokens):
    n, d = laws.hoffmann_optimal([flops, 100 * flops], approach)
    assert np.log(n[1] / n[0]) / np.log(100) == pytest.approx(exponent, abs=0.006)
    assert n[0] == pytest.approx(6.7e10, rel=0.05)
    assert d[0] == pytest.approx(tokens, rel=0.06)  # printed with two digits


@pytest.mark.parametrize("law", [laws.HOFFMANN, laws.BESIROGLU])
def test_no_other_size_is_better_than_the_optimum(law):
    """Every size from a hundredth to a hundred times it, at the same compute."""
    flops = 1e22
    n, d = law.optimal(flops)
    assert laws.flops_of(n, d) == pytest.approx(flops)
    others = n * np.geomspace(0.01, 100, 2001)
    losses = law.loss(others, flops / 6 / others)
    assert losses.min() == pytest.approx(law.loss(n, d), abs=1e-12)
    assert abs(np.log(others[losses.argmin()] / n)) < 1e-6


def test_besiroglus_refit_keeps_about_twenty_tokens_a_parameter():
    """The ratio at the compute of Chinchilla, and the exponent 0.5126 of N: their section 4."""
    n, d = laws.BESIROGLU.optimal(5.76e23)
    assert 17 < d / n < 25
    assert laws.BESIROGLU.b / (laws.BESIROGLU.a + laws.BESIROGLU.b) == pytest.approx(0.5126, 1e-3)
