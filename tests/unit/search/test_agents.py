"""Agents, the Gaussian process behind one, its upper confidence bound in closed form, and the spaces they search."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from drawstream import DegenerateSampler, Proposals, SwiftParams
from drawstream.search.swift import Space, gp, reinforce, ucb
from drawstream.search.swift.agent import AGENTS, History, SwiftAgent
from shared.refusals import refused

SPACE = Space("reduced")


def bowl(points):
    return -np.square(np.asarray(points) - 0.2).sum(axis=-1)


def searched(agent, candidates, noise=0.0):
    """All candidates of a search on a bowl: points (n, 8) and scores (n,)."""
    points, scores = np.empty((0, 8)), np.empty(0)
    while len(scores) < candidates:
        new = np.array(agent.propose(len(scores), History(points, scores)))
        assert len(new) == agent.round_of(len(scores))[1] - len(scores)
        points = np.concatenate([points, new])
        scores = np.concatenate([scores, bowl(new) + noise * np.random.default_rng(len(scores)).normal(size=len(new))])
    return points, scores


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_equal_histories_give_equal_points_of_the_cube(agent, batch):
    made = [searched(SwiftAgent(SPACE, Proposals(agent=agent, round=batch, seed=5)), 7)[0] for _ in range(2)]
    np.testing.assert_array_equal(*made)
    assert ((made[0] >= 0) & (made[0] <= 1)).all()
    assert len(np.unique(made[0], axis=0)) == len(made[0])
    other = searched(SwiftAgent(SPACE, Proposals(agent=agent, round=batch, seed=6)), 7)[0]
    np.testing.assert_array_equal(other[:4], made[0][:4])  # the designed starts
    assert not np.array_equal(other[4:], made[0][4:])


def test_rounds_follow_the_opening_without_gaps():
    for starts in (True, False):
        agent = SwiftAgent(SPACE, Proposals(starts=starts, round=5))
        assert [agent.round_of(k) for k in (0, 3, 4, 8, 9, 13, 14)] == [
            (0, 4), (0, 4), (4, 9), (4, 9), (9, 14), (9, 14), (14, 19)
        ]  # fmt: skip
    assert SwiftAgent(SPACE, Proposals(round=1)).round_of(20) == (20, 21)
    assert SwiftAgent(Space("reduced", 2, 1), Proposals(round=2)).round_of(0) == (0, 3)  # a segment has one start less


def test_candidates_without_a_score_are_the_worst_and_too_few_scores_are_no_model():
    history = History(np.random.default_rng(0).random((4, 8)), np.array([1.0, np.nan, 3.0, np.nan]))
    assert history.filled().tolist() == [1, 1, 3, 1]
    drawn = {
        agent: SwiftAgent(SPACE, Proposals(agent=agent, round=2)).propose(4, history) for agent in ("gp", "random")
    }
    np.testing.assert_array_equal(drawn["gp"], drawn["random"])


def test_reinforce_moves_towards_better_points_and_a_constant_score_leaves_it():
    points = np.random.default_rng(0).random((4 + 30 * 8, 3))
    rounds = range(4, 4 + 30 * 8 + 1, 8)
    mean, spread = reinforce.policy(points, points[:, 0] - 2 * points[:, 1], rounds)
    assert mean[0] > 1 and mean[1] < -1 and abs(mean[2]) < mean[0] / 2
    assert (spread >= reinforce.LEAST_SPREAD).all()
    mean, spread = reinforce.policy(points, np.full(len(points), 7.0), rounds)
    assert (mean == 0).all() and (spread == reinforce.SPREAD).all()


def test_reinforce_does_not_depend_on_the_unit_of_the_score():
    points = np.random.default_rng(1).random((36, 3))
    first, second = (reinforce.policy(points, a * bowl(points) + b, range(4, 37, 4)) for a, b in ((1, 0), (100, 50)))
    np.testing.assert_allclose(first, second)


def test_reinforce_learns_slowly_and_the_model_fast():
    """Fig. 3 of the paper, on a bowl: with many candidates REINFORCE learns, with few the model is ahead."""
    agents = {name: SwiftAgent(SPACE, Proposals(agent=name, round=4, seed=1)) for name in ("gp", "random", "reinforce")}
    late = {name: searched(agents[name], 600)[1][-100:].mean() for name in ("random", "reinforce")}
    assert late["reinforce"] > late["random"] + 0.2
    early = {name: searched(agents[name], 28)[1].max() for name in ("gp", "reinforce")}
    assert early["gp"] > early["reinforce"]


def dip(points):
    return -np.square(points - 0.3).sum(axis=-1)


def test_suggestions_are_deterministic_and_leave_torch_alone():
    points = np.random.default_rng(0).random((12, 8))
    torch.manual_seed(7)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = gp.suggest(points, dip(points), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    np.testing.assert_array_equal(gp.suggest(points, dip(points), seed=1), first)
    assert first.shape == (1, 8)
    assert ((first >= 0) & (first <= 1)).all()


def test_the_model_finds_the_top_of_a_bowl():
    points = np.random.default_rng(1).random((40, 8))
    found = gp.suggest(points, dip(points), seed=0, kappa=0.0)
    assert dip(found[0]) > dip(points).max() + 0.05
    assert dip(found[0]) > -0.1


def test_kappa_asks_for_unknown_places():
    points = np.array([[0.1], [0.2], [0.3]])
    scores = np.array([0.0, 0.1, 0.2])
    near, far = (gp.suggest(points, scores, seed=0, kappa=kappa)[0, 0] for kappa in (0.0, 100.0))
    assert abs(far - 0.3) > abs(near - 0.3)


def test_scores_keep_their_unit_and_lose_their_noise():
    rng = np.random.default_rng(2)
    points = rng.random((60, 2))
    truth = 50 + 10 * dip(points)
    smoothed = gp.posterior_mean(points, truth + rng.standard_normal(60))
    assert np.abs(smoothed - truth).mean() < 0.5  # the noise has a mean size of 0.8


def test_far_from_all_points_the_mean_is_that_of_the_scores():
    """Most points of a late search crowd on the best place, which draws a fitted constant far off."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.random((8, 8)), 0.3 + 0.02 * rng.standard_normal((32, 8))])
    scores = 80 + 5 * dip(points) + 0.1 * rng.standard_normal(40)
    process = gp.fitted(points, scores)
    far, deviation = process.posterior(np.full((1, 8), 1e6))
    assert far * scores.std() + scores.mean() == pytest.approx(scores.mean())
    assert deviation == pytest.approx(1)


def test_equal_and_single_scores_are_no_trouble():
    points = np.random.default_rng(3).random((5, 3))
    np.testing.assert_allclose(gp.posterior_mean(points, np.full(5, 2.0)), 2.0, atol=1e-6)
    assert gp.suggest(points[:1], np.ones(1), seed=0).shape == (1, 3)
    assert gp.suggest(np.repeat(points[:1], 6, axis=0), np.ones(6), seed=0, count=3).shape == (3, 3)


@pytest.fixture(scope="module")
def process():
    rng = np.random.default_rng(0)
    points = rng.random((20, 3))
    return gp.fitted(points, -np.square(points - 0.4).sum(axis=1) + 0.02 * rng.standard_normal(20))


def model_of(process):
    from botorch.models import SingleTaskGP
    from gpytorch.means import ZeroMean

    x, y = torch.from_numpy(process.points), torch.from_numpy(process.scores)[:, None]
    with gp._deterministic():  # which also silences BoTorch's remarks on few points
        model = SingleTaskGP(x, y, mean_module=ZeroMean(), outcome_transform=None)
    model.covar_module.lengthscale = torch.from_numpy(process.lengths)
    model.likelihood.noise = process.noise
    return model.eval()


def test_the_posterior_is_botorchs(process):
    new = np.random.default_rng(1).random((50, 3))
    mean, deviation = process.posterior(new)
    with torch.no_grad():
        expected = model_of(process).posterior(torch.from_numpy(new))
    np.testing.assert_allclose(mean, expected.mean[:, 0].numpy(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(deviation, expected.variance[:, 0].sqrt().numpy(), rtol=1e-5)


def test_points_beside_shrink_the_deviation_as_if_observed_and_leave_the_mean(process):
    new, beside = np.random.default_rng(2).random((30, 3)), np.random.default_rng(3).random((4, 3))
    mean, deviation = process.posterior(new, beside=beside)
    before = process.posterior(new)
    believed = ucb.Process(
        np.concatenate([process.points, beside]),
        np.concatenate([process.scores, process.posterior(beside)[0]]),
        process.lengths,
        process.noise,
    )
    np.testing.assert_array_equal(mean, before[0])
    np.testing.assert_allclose(mean, believed.posterior(new)[0], rtol=1e-6)  # a score that is the mean tells nothing
    np.testing.assert_allclose(deviation, believed.posterior(new)[1], rtol=1e-6)
    assert (deviation <= before[1] + 1e-12).all()


def test_the_gradient_is_that_of_the_bound(process, monkeypatch):
    seen = []

    def caught(negative, x, **options):
        assert options["jac"]
        for point in np.random.default_rng(4).random((5, 3)):
            seen.append(check_grad(lambda p: negative(p)[0], lambda p: negative(p)[1], point))
            mean, deviation = process.posterior(point[None], beside=chosen)
            assert negative(point)[0] == pytest.approx(-(mean[0] + 2 * deviation[0]))
        return original(negative, x, **options)

    chosen = np.array([[0.2, 0.3, 0.4]])
    original = ucb.minimize
    monkeypatch.setattr(ucb, "minimize", caught)
    ucb._ascend(process, chosen, np.full((1, 3), 0.9), 2.0)
    assert len(seen) == 5
    assert max(seen) < 1e-5


def test_nothing_on_a_fine_grid_has_a_higher_bound():
    rng = np.random.default_rng(5)
    points = rng.random((10, 2))
    process = gp.fitted(points, np.sin(6 * points).sum(axis=1))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    for kappa in (0.0, 1.0, 5.0):
        found = ucb.choose(process, 1, kappa=kappa, seed=0)
        bounds = [mean + kappa * deviation for mean, deviation in (process.posterior(grid), process.posterior(found))]
        assert bounds[1][0] >= bounds[0].max() - 1e-6


def test_a_batch_is_deterministic_begins_with_the_single_choice_and_spreads(process):
    batch = ucb.choose(process, 4, kappa=1.0, seed=7)
    np.testing.assert_array_equal(batch, ucb.choose(process, 4, kappa=1.0, seed=7))
    np.testing.assert_array_equal(batch[:2], ucb.choose(process, 2, kappa=1.0, seed=7))
    assert ((batch >= 0) & (batch <= 1)).all()
    apart = np.abs(batch[:, None] - batch[None]).sum(axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 1e-3


SHAPES = [(1, 1), (1, 4), (2, 4), (3, 2), (5, 8), (2, 32)]


def test_dimensions_and_names():
    assert len(Space("paper10").names) == 10
    assert Space("reduced").names == (
        "coefficient_2", "end_1", "end_2", "end_3", "value_1", "value_2", "value_3", "value_4",
    )  # fmt: skip
    assert Space("reduced", features=1, segments=1).names == ("value_1",)


@pytest.mark.parametrize("name", ["reduced", "paper10"])
@pytest.mark.parametrize(("features", "segments"), SHAPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_round_trip_through_the_cube(name, features, segments, seed):
    space = Space(name, features, segments)
    point = np.random.default_rng(seed).uniform(0.02, 0.98, len(space.names))
    params = space.decode(point)
    again = space.decode(space.encode(params))
    np.testing.assert_allclose(again.ends, params.ends, rtol=1e-8)
    np.testing.assert_allclose(again.canonical().values, params.canonical().values, atol=1e-7)
    np.testing.assert_allclose(again.canonical().coefficients, params.canonical().coefficients, atol=1e-7)
    if name == "reduced":
        assert params.coefficients[0] >= 0
        assert max(params.values) == 1
        np.testing.assert_allclose(space.encode(params), point, atol=1e-6)


@pytest.mark.parametrize("name", ["reduced", "paper10"])
@pytest.mark.parametrize(("features", "segments"), SHAPES)
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_corners_of_the_cube_are_valid_or_degenerate(name, features, segments, edge):
    space = Space(name, features, segments)
    if name == "paper10" and edge == 0:
        with pytest.raises(DegenerateSampler):
            space.decode(np.full(len(space.names), edge))
    else:
        assert max(space.decode(np.full(len(space.names), edge)).values) == 1


@pytest.mark.parametrize("name", ["reduced", "paper10"])
def test_both_spaces_hold_the_designed_starts(name):
    space = Space(name)
    decoded = [space.decode(point).canonical() for point in space.starts()]
    values = [(1, 1, 1, 1, 1), (1, 0.75, 0.5, 0.25, 0), (1, 1, 1, 0, 0), (0, 0.25, 0.5, 0.75, 1)]
    assert decoded[0] == SwiftParams.uniform()
    for params, expected in zip(decoded, values, strict=True):
        np.testing.assert_allclose(params.values, expected, atol=1e-9)
        np.testing.assert_allclose(params.ends, (0.25, 0.5, 0.75), atol=1e-9)
        assert params.coefficients == (1, 0)


def test_equal_starts_are_given_once():
    assert len(Space("reduced", features=1, segments=1).starts()) == 3  # step and ramp are one with a single segment


def test_a_uniform_cube_favours_no_component():
    rng = np.random.default_rng(0)
    space = Space("reduced", features=3, segments=4)
    params = [space.decode(point) for point in rng.random((4000, len(space.names)))]
    largest = np.bincount([int(np.argmax(p.values)) for p in params], minlength=5) / 4000
    np.testing.assert_allclose(largest, 0.2, atol=0.03)
    squares = np.mean([np.square(p.coefficients) for p in params], axis=0)
    np.testing.assert_allclose(squares, 1 / 3, atol=0.03)
    ends = np.mean([p.ends for p in params], axis=0)
    np.testing.assert_allclose(ends, [0.25, 0.5, 0.75], atol=0.02)  # means of three ordered uniform draws


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: SwiftAgent(SPACE, Proposals(agent="optuna:CmaEsSampler")),
            "gp, random, reinforce, optuna:TPESampler, optuna:GPSampler, but got",
        ),
        (lambda: Space("full"), "space must be"),
        (lambda: Proposals(space="zz"), "space must be"),
        (lambda: Space(features=0), "features >= 1"),
        (lambda: Space(segments=0), "segments <= 32 must hold, but got 0"),
        (lambda: Space(segments=33), "segments <= 32 must hold, but got 33"),
        (lambda: Space().decode([0.5] * 7), "has 8 coordinates"),
        (lambda: Space().decode([0.5] * 7 + [1.1]), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_arguments(make, text):
    refused(text, make)
