"""Agents: pure functions of the rounds before, and better than chance where they claim to learn."""

import numpy as np
import pytest

from drawstream.search.swift import reinforce
from drawstream.search.swift.agent import AGENTS, History, Proposals, SwiftAgent
from drawstream.search.swift.space import Space

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
    """What Fig. 3 of the paper shows, on a bowl: with many candidates REINFORCE learns, with few the model is ahead."""
    agents = {name: SwiftAgent(SPACE, Proposals(agent=name, round=4, seed=1)) for name in ("gp", "random", "reinforce")}
    late = {name: searched(agents[name], 600)[1][-100:].mean() for name in ("random", "reinforce")}
    assert late["reinforce"] > late["random"] + 0.2
    early = {name: searched(agents[name], 28)[1].max() for name in ("gp", "reinforce")}
    assert early["gp"] > early["reinforce"]


def test_unknown_agents_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="gp, random, reinforce, optuna:TPESampler, optuna:GPSampler, but got"):
        SwiftAgent(SPACE, Proposals(agent="optuna:CmaEsSampler"))


def test_an_unknown_space_is_refused_when_it_is_named():
    with pytest.raises(ValueError, match="space must be"):
        Proposals(space="zz")
