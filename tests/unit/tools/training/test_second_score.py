"""Children scored twice, in the job of `search auto`."""

import numpy as np
import pytest
from safetensors.torch import load_file

from drawstream.search.auto import PopulationPlan
from drawstream.tools.jobs import auto as job
from drawstream.tools.jobs.auto import AutoJob, auto_job
from drawstream.tools.training import child
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.setup import Setup

RECIPE = Recipe(epochs=2, lr=0.05, seed=3)
PLAN = PopulationPlan(500, 2, 32, RECIPE.epochs, interval=6, first=1, permutations=1, seed=RECIPE.seed)


@pytest.fixture
def setup(digits):
    return Setup(digits.train, "mlp", held_out=digits.held_out, global_batch=32)


def search(setup, out, **options):
    return auto_job(AutoJob(setup, RECIPE, out, PLAN, **{"reward_rows": 40, **options}))


def test_second_scores_are_of_the_other_images_and_change_nothing(setup, tmp_path):
    once = search(setup, tmp_path / "once")
    twice = search(setup, tmp_path / "twice", second_score=True)
    for name in ("rewards", "winners", "forward", "backward"):
        assert once[name] == twice[name]
    assert once["second_rows"] == 0 and "second_score" not in once
    second = twice["second_score"]
    assert second["rows"] == twice["second_rows"] == 60
    assert np.shape(second["scores"]) == np.shape(twice["rewards"]) == (6, 2)
    assert 0 < second["seconds"] < sum(twice["seconds"].values())
    held = setup.evaluation_loaders()["held_out"]
    model = setup.build(0)
    model.load_state_dict(load_file(tmp_path / "twice/last.safetensors"))
    whole = 100 * sum(int((model(b.images).argmax(1) == b.labels).sum()) for b in held) / 100
    winner = twice["winners"][-1]  # both parts together are the held-out set
    assert 0.4 * twice["rewards"][-1][winner] + 0.6 * second["scores"][-1][winner] == pytest.approx(whole)
    with pytest.raises(ValueError, match=r"started with second_rows 60, not 0: give another"):
        search(setup, tmp_path / "twice")


def test_a_killed_search_keeps_its_second_scores(setup, tmp_path, monkeypatch):
    whole = search(setup, tmp_path / "whole", second_score=True)
    evaluate = child.TwoScores.evaluate

    def killed(self):
        if len(self.scores) == 4:  # in the second epoch
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(child.TwoScores, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        search(setup, tmp_path / "part", second_score=True)
    monkeypatch.setattr(child.TwoScores, "evaluate", evaluate)
    resumed = search(setup, tmp_path / "part", second_score=True)
    assert resumed["second_score"]["scores"] == whole["second_score"]["scores"]
    assert resumed["winners"] == whole["winners"]


def test_what_does_not_go_together_is_refused(setup, tmp_path):
    with pytest.raises(ValueError, match="takes all 100: give fewer reward rows"):
        search(setup, tmp_path, reward_rows=1000, second_score=True)
    settings = {"held_out_rows": 9, "reward": {"rows": 3}}
    with pytest.raises(ValueError, match="children of one process: leave out torchrun"):
        job._second_rows(settings, Ranks(0, 2))
