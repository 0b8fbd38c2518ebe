"""The outer loop: budget, pruning, failures, resuming, refusing, and both verdicts."""

import math

import numpy as np
import optuna
import pytest

from drawstream import ObjectiveError, StudyMismatch, SwiftParams, search_auto, search_swift
from drawstream.search.swift import sqlite_url
from drawstream.search.swift.study import open_study
from shared.refusals import refused

ROWS = 400


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=ROWS).astype(np.float32)
    return {"loss": loss, "entropy": rng.random(ROWS, np.float32), "grad_norm": loss + 0.1}


@pytest.fixture
def low(columns):
    """Probability mass on the 60 % rows of lowest loss, with noise of the run's seed: a stand-in for accuracy."""
    clean = columns["loss"] < np.quantile(columns["loss"], 0.6)

    def objective(p, trial):
        return p[clean].sum() + 0.02 * np.random.default_rng([trial.seed, trial.number + 1]).standard_normal()

    return objective


def noise(p, trial):
    return np.random.default_rng([trial.seed, trial.number + 1]).standard_normal()


def completed(result):
    return [r for r in result.trials if r.state == "complete"]


def test_a_better_sampler_wins(search, columns, low):
    result = search(columns, low, trials=12, agent="random", provenance={"catalog": "c0ffee"})
    assert result.winner == "swift"
    assert len(completed(result)) == 12
    assert result.probabilities[columns["loss"] < 0.5].mean() > 1.2 / ROWS
    np.testing.assert_array_equal(result.sampler.probabilities(columns), result.probabilities)
    assert result.sampler.provenance["catalog"] == "c0ffee"
    assert result.sampler.provenance["search"]["message"] == result.message
    seeds = {r.candidate: [] for r in result.confirmation}
    for r in result.confirmation:
        seeds[r.candidate].append(r.seed)
    assert len(seeds) == 4
    assert len({tuple(s) for s in seeds.values()}) == 1
    winner = next(r for r in result.trials if str(r.number) in result.message.split(" scores")[0])
    assert winner.params == result.sampler.params


def test_an_objective_that_reads_samplers_gets_each_run_s_own(search, columns, low):
    seen = set()

    class Reads:
        reads_sampler = True

        def __call__(self, p, trial):
            np.testing.assert_array_equal(trial.sampler.probabilities(columns), p)
            seen.add((trial.stage, trial.number))
            return low(p, trial)

    result = search(columns, Reads(), trials=6, agent="random")
    assert {number for stage, number in seen if stage == "confirm"} > {-1}
    plain = search(
        columns, lambda p, trial: low(p, trial) if trial.sampler is None else np.nan, trials=6, agent="random"
    )
    assert [each.value for each in plain.trials] == [each.value for each in result.trials]


def test_noise_gives_the_uniform_sampler(search, columns):
    result = search(columns, noise, trials=8, agent="random")
    assert result.winner == "uniform"
    assert result.message.startswith("kept uniform: the best candidate")
    assert result.sampler.params == SwiftParams.uniform()
    np.testing.assert_array_equal(result.probabilities, np.full(ROWS, 1 / ROWS))


def test_without_a_guard_the_best_observed_is_taken(search, columns, low):
    result = search(columns, low, trials=8, agent="random", confirm_top=0)
    best = max(completed(result), key=lambda r: r.value)
    assert result.sampler.params == best.params
    assert result.confirmation == []
    assert result.message == f"trial {best.number} has the best score, {best.value:.6g}: taken without a guard"


def test_only_uniform_was_tried(search, columns, low):
    result = search(columns, low, trials=1, agent="random")
    assert result.winner == "uniform"
    assert result.message == "kept uniform: no candidate differs from it"
    assert result.confirmation == []


def test_the_model_beats_random_points(search, columns, low):
    best = {
        agent: max(r.value for r in completed(search(columns, low, trials=16, agent=agent, seed=3)))
        for agent in ("gp", "random")
    }
    assert best["gp"] > best["random"]


def test_designed_starts_come_first_and_can_be_left_out(search, columns, low):
    with_starts = search(columns, low, trials=4, agent="random")
    assert with_starts.trials[0].params.values == (1, 1, 1, 1, 1)
    assert with_starts.trials[3].params.values[0] == 0
    without = search(columns, low, trials=4, agent="gp", starts=False)
    assert all(r.params.canonical() != SwiftParams.uniform() for r in without.trials)


@pytest.mark.parametrize("space", ["reduced", "paper10"])
@pytest.mark.parametrize("transform", ["cgf", "cdf"])
def test_degenerate_candidates_never_reach_the_objective(search, columns, space, transform):
    seen = []

    def objective(p, trial):
        seen.append(1 / (ROWS * np.square(p).sum()))
        return p.max()  # rewards what is degenerate

    result = search(
        columns, objective, trials=8, agent="random", space=space, transform=transform, min_ess=0.7, segments=6
    )
    pruned = [r for r in result.trials if r.state == "pruned"]
    assert len(completed(result)) == 8
    assert pruned
    assert min(seen) >= 0.7
    assert all(r.value is None and r.ess < 0.7 and "effective sample size >= 0.7" in r.note for r in pruned)
    assert all(r.ess >= 0.7 and r.note == "" for r in completed(result))


def test_the_model_does_not_insist_on_degenerate_candidates(search, columns):
    result = search(columns, lambda p, t: p.max(), trials=10, min_ess=0.6)
    assert len([r for r in result.trials if r.state == "pruned"]) < 20


def test_a_floor_that_nothing_passes_is_an_error(search, columns, low):
    with pytest.raises(ValueError, match=r"100 candidates in a row gave no score.*effective sample size >= 1 of"):
        search(columns, low, trials=5, agent="random", min_ess=1.0)


def test_a_score_of_nan_fails_the_trial_and_the_search_goes_on(search, columns, low):
    def objective(p, trial):
        return math.nan if trial.stage == "search" and p[columns["loss"].argmax()] > 1 / ROWS else low(p, trial)

    result = search(columns, objective, trials=6, agent="random")
    failed = [r for r in result.trials if r.state == "failed"]
    assert len(completed(result)) == 6
    assert failed
    assert all("the objective returned nan" in r.note for r in failed)
    assert len({r.params for r in result.trials}) == len(result.trials)  # none was tried twice


def test_the_control_must_have_a_score(search, columns, low):
    with pytest.raises(ValueError, match="uniform control gives no finite score"):
        search(columns, lambda p, t: math.nan if t.stage == "confirm" else low(p, t), trials=3, agent="random")


def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def test_an_error_leaves_the_study_intact_and_resuming_gives_the_same(search, columns, low, tmp_path):
    calls = []

    def broken(p, trial):
        calls.append(trial)
        if len(calls) in (3, 7) or (trial.stage == "confirm" and len(calls) == 14):
            raise RuntimeError("disk full")
        return low_by_seed(p, trial)

    def low_by_seed(p, trial):  # a retried trial has its old seed but a new number
        return p[columns["loss"] < 0.9].sum() + 0.02 * np.random.default_rng(trial.seed).standard_normal()

    options = {"trials": 9, "agent": "random", "storage": url(tmp_path)}
    stops = []
    for _ in range(3):
        told = "RuntimeError: disk full; the study is intact"
        stops.append(refused(told, search, columns, broken, error=ObjectiveError, **options))
    assert "at trial 2 (stage 'search'" in stops[0]
    assert "stage 'confirm'" in stops[2]
    resumed = search(columns, broken, **options)
    whole = search(columns, low_by_seed, trials=9, agent="random")
    assert [(r.params, r.value) for r in completed(resumed)] == [(r.params, r.value) for r in completed(whole)]
    assert [(r.seed, r.value) for r in resumed.confirmation] == [(r.seed, r.value) for r in whole.confirmation]
    assert resumed.sampler.params == whole.sampler.params
    assert len(calls) == 9 + 3 + len(whole.confirmation)
    failed = [r for r in resumed.trials if r.state == "failed"]
    assert [(r.number, r.trial) for r in failed] == [(2, 2), (5, 6)]
    assert all("disk full" in r.note for r in failed)


def test_a_finished_study_runs_nothing_and_a_larger_budget_goes_on(search, columns, low, tmp_path):
    def never(p, trial):
        raise AssertionError("ran again")

    options = {"agent": "random", "storage": url(tmp_path), "provenance": {"a tuple": (1, 2)}}
    first = search(columns, low, trials=5, **options)
    second = search(columns, never, trials=5, **options)
    assert second.trials == first.trials
    assert second.confirmation == first.confirmation
    assert second.message == first.message
    more = search(columns, low, trials=7, **options)
    assert more.trials[: len(first.trials)] == first.trials
    assert len(completed(more)) == 7


def test_suggestions_depend_on_the_study_alone(search, columns, low, tmp_path):
    """A search in parts, each in a new agent, proposes what one search proposes."""
    whole = search(columns, low, trials=7)
    for trials in (2, 5, 6, 7):
        parts = search(columns, low, trials=trials, storage=url(tmp_path))
    assert [r.params for r in parts.trials] == [r.params for r in whole.trials]
    other = search(columns, low, trials=7, seed=1)
    assert [r.params for r in other.trials] != [r.params for r in whole.trials]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 1}, "started with seed 0, not 1: give another"),
        ({"space": "paper10"}, "started with space 'reduced', not 'paper10': give"),
        ({"features": ("entropy", "loss")}, r"features \['loss', 'entropy'\], not \['entropy', 'loss'\]; columns "),
        ({"provenance": {"catalog": "b"}}, "with provenance.catalog 'a', not 'b': give another"),
    ],
)
def test_a_study_of_other_settings_is_refused(search, columns, low, tmp_path, change, text):
    options = {"trials": 1, "agent": "random", "storage": url(tmp_path), "provenance": {"catalog": "a"}}
    search(columns, low, **options)
    refused(text, search, columns, low, error=StudyMismatch, **options | change)


def test_a_study_of_other_data_is_refused(search, columns, low, tmp_path):
    search(columns, low, trials=1, agent="random", storage=url(tmp_path))
    with pytest.raises(StudyMismatch, match=r"with columns [0-9a-f]{12}, not [0-9a-f]{12}: give another"):
        search(columns | {"loss": columns["loss"] + 1}, low, trials=1, agent="random", storage=url(tmp_path))
    storage = optuna.storages.RDBStorage(url(tmp_path))
    optuna.create_study(storage=storage, study_name="else").add_trial(optuna.trial.create_trial(value=1.0))
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(StudyMismatch, match="trials of another search"):
        search(columns, low, trials=1, storage=url(tmp_path), name="else")


def test_processes_that_create_a_study_at_once_with_other_settings_notice_it(search, columns, low, tmp_path):
    """The second one set its settings behind the first one's, whose trial is there: it is not taken for its own."""
    search(columns, low, trials=1, agent="random", storage=url(tmp_path), identity={"lr": 1})
    storage = optuna.storages.RDBStorage(url(tmp_path))
    study = optuna.load_study(storage=storage, study_name="swift")
    study.set_user_attr("settings", study.user_attrs["settings"] | {"identity": {"lr": 2}})
    with pytest.raises(StudyMismatch, match="trial 0 belongs to a search with other settings: give another study name"):
        search(columns, low, trials=2, agent="random", storage=url(tmp_path), identity={"lr": 2})
    assert len(study.trials) == 1
    storage.remove_session()
    storage.engine.dispose()


def test_progress_tells_every_run(search, columns, low):
    told = []
    result = search(columns, low, trials=5, agent="random", progress=told.append)
    search = [t for t in told if t["stage"] == "search"]
    assert len(search) == len(result.trials)
    assert search[-1]["done"] == search[-1]["trials"] == 5
    assert search[-1]["best"] == max(r.value for r in completed(result))
    assert len(told) - len(search) == len(result.confirmation)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"trials": 0}, "trials >= 1 must hold, but got 0"),
        ({"confirm_seeds": 1}, "confirm_seeds >= 2"),
        ({"confirm_top": -1}, "confirm_top >= 0"),
        ({"min_ess": 2}, "0 <= min_ess <= 1"),
        ({"agent": "tpe"}, "agent must be"),
        ({"kappa": -1}, "kappa >= 0"),
        ({"round": 0}, "round >= 1"),
        ({"features": ("lost",)}, "no column 'lost'"),
        ({"storage": "sqlite:////no/such/folder/study.db"}, "cannot open the study storage 'sqlite:////no/such"),
        ({"provenance": {"when": object()}}, "provenance must be plain JSON"),
        ({"storage": "nonsense"}, "cannot open the study storage 'nonsense'"),
    ],
)
def test_bad_arguments(search, columns, low, change, text):
    refused(text, search, columns, low, **change)


@pytest.mark.parametrize("name", ["100%20%{x}", "what? #1", "größe-図 [1]"])
def test_a_study_lies_in_the_folder_that_it_is_told(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for held in (0, 1):  # made, and opened again
        with open_study(sqlite_url(folder / "study.db"), "swift", {"seed": 0}) as study:
            assert len(study.get_trials()) == held
            study.add_trial(optuna.trial.create_trial(value=1.0))
    assert [path.name for path in folder.iterdir()] == ["study.db"] and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("function", "options", "hint"),
    [
        (search_swift, {"trials": 3}, r"`trials` is an option of Proposals: give `proposals=Proposals\(trials=…\)`"),
        (search_swift, {"batch": 3}, r"`batch` is .*: give `proposals=Proposals\(round=…\)`"),
        (search_swift, {"study_name": "a"}, r"`study_name` is .*: give `study=Study\(name=…\)`"),
        (search_swift, {"workers": 2}, r"`workers` must be a Workers, but got int 2: give `workers=Workers\(…\)`"),
        (search_auto, {"smoothing": "literal"}, r"`smoothing` is .*: give `plan=PopulationPlan\(count_smoothing=…\)`"),
        (search_auto, {"plan": 3}, "`plan` must be a PopulationPlan, but got int 3"),
    ],
)
def test_options_beside_their_group_are_refused_with_the_place(function, options, hint):
    refused(hint, function, {}, noise, error=TypeError, **options)
