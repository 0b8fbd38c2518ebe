"""The crop filter: Gumbel-top-B by position, what it makes of τ, and batches that are the loader's, thinned out."""

import itertools
import json
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from drawstream import BadSampleError, CropFilter, IndexStream, Loader, Reading, SwiftFit, SwiftParams, Transform
from drawstream.pipeline import crop_filter as module
from drawstream.pipeline.crop_filter import Contrast, choose, gumbel, kept_of
from shared.refusals import refused
from shared.samples import digits_catalog, overwrite

N = 300
RANKS = {"value": np.linspace(0, 1, 1001)}


class LabelScorer:
    """The feature of a crop is a function of its label; 0, 0.1, …, 0.9 by default."""

    def __init__(self, function=lambda labels: labels / 10, name="value"):
        self.function, self.name, self.fingerprint, self.seen = function, name, "labels", []

    def __call__(self, images, labels):
        self.seen.append(len(labels))
        return {self.name: self.function(labels)}


def two_levels(low, *, at=0.5):
    """A sampler with τ = `low` for values below `at` and 1 above."""
    params = SwiftParams((1.0,), (at - 1e-6, at), (low, low, 1.0, 1.0))
    return SwiftFit(RANKS, features=("value",), mass=None, transform="cdf").sampler(params)


def loader_of(digits, stream=None, **options):
    transform = Transform.small((8, 8), 1, augment=True)
    return Loader(digits, stream or IndexStream(N, seed=3), **{"transform": transform, "batch_size": 32, **options})


@pytest.fixture(params=["in line", "ahead"])
def lane(request, monkeypatch):
    """On a GPU the next batch is begun before one is given; here the same order of events on the CPU."""
    if request.param == "ahead":
        monkeypatch.setattr(module._Lane, "ahead", 1)


# Gumbel-top-B


def test_noise_is_gumbel_and_belongs_to_positions():
    whole = gumbel(7, 2, 0, 4000)
    assert stats.kstest(whole, stats.gumbel_r.cdf).pvalue > 1e-3
    assert np.array_equal(gumbel(7, 2, 1234, 50), whole[1234:1284])
    for other in (gumbel(8, 2, 0, 4000), gumbel(7, 3, 0, 4000), gumbel(2, 7, 0, 4000)):
        assert abs(np.corrcoef(whole, other)[0, 1]) < 0.06


def successive(tau, count):
    """Probability that each set of `count` rows is drawn, one after the other without replacement."""
    chances = dict.fromkeys(itertools.combinations(range(len(tau)), count), 0.0)
    for order in itertools.permutations(range(len(tau)), count):
        left, chance = sum(tau), 1.0
        for row in order:
            chance *= tau[row] / left
            left -= tau[row]
        chances[tuple(sorted(order))] += chance
    return chances


@pytest.mark.parametrize("count", [1, 2, 3])
def test_choices_are_successive_draws_without_replacement(count):
    tau, trials = np.array([0.5, 1.0, 0.05, 0.2]), 6000
    noise = gumbel(1, 0, 0, 4 * trials).reshape(trials, 4)
    kept = [tuple(choose(tau, np.ones(4, bool), each, count)[0].tolist()) for each in noise]
    expected = successive(tau.tolist(), count)
    counts = [kept.count(each) for each in expected]
    assert sum(counts) == trials
    assert stats.chisquare(counts, np.array(list(expected.values())) * trials).pvalue > 1e-3


def test_shares_are_exact():
    assert [kept_of(n, Fraction(1, 2)) for n in (0, 1, 2, 5, 256)] == [0, 1, 1, 3, 128]
    for m in range(2, 200):  # ceil(n · keep) in floats would be one too many for some of these
        share = Fraction(1 / m).limit_denominator(module._LARGEST)
        assert [kept_of(m * b, share) for b in (1, 7, 128)] == [1, 7, 128]


@pytest.mark.parametrize(("ratio", "chance", "half"), [(10, 5.04, 5.06), (100, 22.2, 28.9)])
def test_keeping_half_caps_the_contrast(ratio, chance, half):
    """10:1 comes out as 5:1, 100:1 as 22:1: 256 crops, each on either of two levels with probability 1/2.

    With exactly half of the crops on each level x + x^ratio = 1 gives x / (1 - x) in the limit: 5.06 and 28.9.
    """
    rng, steps, n = np.random.default_rng(0), 1500, 256
    real = np.ones(n, bool)
    levels = {"chance": rng.random((steps, n)) < 0.5, "half": np.tile(np.arange(n) < n // 2, (steps, 1))}
    for name, expected in (("chance", chance), ("half", half)):
        contrast, kept = Contrast(), np.zeros((steps, n), bool)
        for step, high in enumerate(levels[name]):
            tau = np.where(high, 1.0, 1 / ratio)
            kept[step, choose(tau, real, gumbel(5, 0, step * n, n), n // 2)[0]] = True
            contrast.add(tau, kept[step])
        high = levels[name]
        assert kept[high].mean() / kept[~high].mean() == pytest.approx(expected, rel=0.04)
        found = contrast.as_dict()
        assert found["wanted_ratio"] == pytest.approx(ratio)
        assert found["realised_ratio"] == pytest.approx(expected, rel=0.05)
        assert found["tau_kept"] == pytest.approx(np.where(high, 1.0, 1 / ratio)[kept].mean())
        assert found["tau_dropped"] == pytest.approx(np.where(high, 1.0, 1 / ratio)[~kept].mean())


def test_contrast_of_nothing_and_of_zero_is_none():
    contrast = Contrast()
    assert set(contrast.as_dict().values()) == {None}
    contrast.add(np.zeros(0), np.zeros(0, bool))
    contrast.add(np.array([0.0, 0.0, 0.5, 1.0]), np.array([False, False, True, True]))
    assert contrast.as_dict() == {"tau_kept": 0.75, "tau_dropped": 0.0, "wanted_ratio": None, "realised_ratio": None}


# The filter


def test_batches_are_the_loaders_thinned_out(digits, lane):
    loader, crops = loader_of(digits), CropFilter(loader_of(digits), two_levels(0.1), LabelScorer(), keep=0.25)
    assert len(crops) == len(loader) == 10
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        crops.set_epoch(epoch)
        assert crops.epoch == epoch
        for step, (kept, whole) in enumerate(zip(crops, loader, strict=True)):
            assert len(kept.ids) == (8 if step < 9 else 3)  # ceil(300 mod 32 / 4)
            tau = np.where(whole.labels.numpy() >= 5, 1.0, 0.1)
            keys = np.log(tau) + gumbel(3, epoch, 32 * step, len(tau))
            rows = torch.from_numpy(np.sort(np.argsort(-keys)[: len(kept.ids)]))
            for name in ("images", "labels", "ids", "weights"):
                assert torch.equal(getattr(kept, name), getattr(whole, name)[rows])


def test_the_contrast_comes_out_in_the_batches(digits):
    """Both halves of the labels are drawn alike, with replacement: each crop is on either level by chance."""
    high = digits.label >= 5
    weights = np.where(high, 1 / high.sum(), 1 / (~high).sum())
    stream = IndexStream(weights, mode="multinomial", seed=1, draws=256 * 150)
    crops = CropFilter(loader_of(digits, stream, batch_size=256), two_levels(0.1), LabelScorer())
    labels = torch.cat([batch.labels for batch in crops])
    assert float((labels >= 5).sum() / (labels < 5).sum()) == pytest.approx(5.04, rel=0.05)
    metrics = json.loads(json.dumps(crops.metrics))
    assert metrics["wanted_ratio"] == pytest.approx(10) and metrics["realised_ratio"] == pytest.approx(5.04, rel=0.08)


def test_all_is_kept_where_all_is_wanted(digits):
    crops = CropFilter(loader_of(digits), two_levels(0.1), LabelScorer(), keep=1.0)
    ids = torch.cat([batch.ids for batch in crops])
    assert ids.tolist() == IndexStream(N, seed=3).epoch(0)[:].tolist()


def test_metrics_count(digits):
    scorer = LabelScorer()
    crops = CropFilter(loader_of(digits), two_levels(0.1), scorer)
    for epoch in range(2):
        crops.set_epoch(epoch)
        kept = sum(len(batch.ids) for batch in crops)
    metrics = json.loads(json.dumps(crops.metrics))
    assert metrics["batches"] == len(scorer.seen) == 20 and metrics["rows_scored"] == sum(scorer.seen) == 2 * N
    assert metrics["rows_kept"] == 2 * kept == 2 * (9 * 16 + 6)
    assert metrics["rows_filled"] == metrics["batches_filled"] == 0
    assert 0 < metrics["score_seconds"] == metrics["score_wait_seconds"]
    assert metrics["tau_kept"] > metrics["tau_dropped"]


@pytest.mark.parametrize("steps", [0, 1, 4, 10])
def test_a_resumed_run_keeps_the_same_crops(digits, lane, steps):
    crops = CropFilter(loader_of(digits), two_levels(0.1), LabelScorer())
    crops.set_epoch(2)
    whole = list(crops)
    crops.set_epoch(2)
    taken = list(itertools.islice(crops, steps))
    state = json.loads(json.dumps(crops.state_dict()))
    assert state["position"] == min(32 * steps, N) and state["epoch"] == 2
    other = CropFilter(loader_of(digits, reading=Reading(prefetch=1, ahead=0)), two_levels(0.1), LabelScorer())
    other.load_state_dict(state)
    assert other.state_dict() == state
    other.set_epoch(2)
    taken += list(other)
    assert len(taken) == len(whole)
    for a, b in zip(taken, whole, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.images, b.images)
    other.set_epoch(3)
    assert other.state_dict()["position"] == 0 and len(list(other)) == 10


@pytest.mark.filterwarnings("ignore:this is a second pass")
def test_the_state_is_that_of_the_loop_begun_last(digits, lane):
    crops = CropFilter(loader_of(digits), two_levels(0.1), LabelScorer())
    old = iter(crops)
    next(old), next(old)
    new = iter(crops)
    next(new)
    assert crops.state_dict()["position"] == 32
    assert torch.equal(next(old).ids, list(CropFilter(loader_of(digits), two_levels(0.1), LabelScorer()))[2].ids)
    assert crops.state_dict()["position"] == 32


def test_states_of_another_choice_are_refused(digits):
    def make(low=0.1, keep=0.5, name="labels"):
        scorer = LabelScorer()
        scorer.fingerprint = name
        return CropFilter(loader_of(digits), two_levels(low), scorer, keep=keep)

    state = make().state_dict()
    make().load_state_dict(state)
    for other, shown in ((make(low=0.2), "sampler"), (make(keep=0.25), "'1/4'"), (make(name="mine"), "mine")):
        refused(rf"state is of another crop filter: saved .*, this one has .*{shown}", other.load_state_dict, state)
    refused("another crop filter: saved None", lambda: make().load_state_dict(loader_of(digits).state_dict()))
    with pytest.raises(ValueError, match="another stream"):
        CropFilter(loader_of(digits, IndexStream(N)), two_levels(0.1), LabelScorer()).load_state_dict(state)


@pytest.mark.parametrize("draws", [290, 97, 2])
def test_ranks_keep_equally_many_and_fillers_last(digits, draws):
    """τ wants what only fills up, and still none of it is kept while there is something else."""
    stream = IndexStream(N, seed=3, draws=draws)
    ranks = [
        CropFilter(
            loader_of(digits, stream, batch_size=20, rank=rank, world_size=3), two_levels(0.5), LabelScorer(), keep=0.3
        )
        for rank in range(3)
    ]
    wholes = [loader_of(digits, stream, batch_size=20, rank=rank, world_size=3) for rank in range(3)]
    for kept, whole in zip(zip(*ranks, strict=True), zip(*wholes, strict=True), strict=True):
        assert len({len(batch.ids) for batch in kept}) == 1
        for a, b in zip(kept, whole, strict=True):
            assert len(a.ids) == -(-len(b.ids) * 3 // 10)
            assert int((a.weights > 0).sum()) == min(len(a.ids), int((b.weights > 0).sum()))


def test_too_few_are_filled_up_uniformly_with_one_warning_an_epoch(digits, lane):
    """Only label 9 has τ > 0: about 3 of 32 crops."""
    crops = CropFilter(loader_of(digits), two_levels(0.0, at=0.85), LabelScorer())
    ids, filled = [], 0
    for epoch in range(40):
        crops.set_epoch(epoch)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batches = list(crops)
        (one,) = caught
        assert one.filename == __file__
        assert str(one.message).startswith(f"epoch {epoch}, step 0: only ") and "fewer than the 16" in str(one.message)
        assert [len(batch.ids) for batch in batches] == [16] * 9 + [6]
        labels = torch.cat([batch.labels for batch in batches])
        assert int((labels == 9).sum()) == int((digits.label == 9).sum())  # all that is wanted is there
        filled += int((labels != 9).sum())
        ids.append(torch.cat([batch.ids for batch in batches])[labels != 9])
    metrics = crops.metrics
    assert metrics["rows_filled"] == filled and metrics["batches_filled"] == 400
    counts = np.bincount(torch.cat(ids).numpy(), minlength=N)[digits.label != 9]
    assert counts.std() < 1.5 * np.sqrt(counts.mean()) and counts.min() > 0


def test_batches_before_a_bad_image_are_given(tmp_path, lane):
    damaged = digits_catalog(tmp_path / "d", encoding="png")
    row = int(IndexStream(N, seed=3).epoch(0)[32 * 5 + 7 : 32 * 5 + 8][0])
    overwrite(damaged, row, b"\x55\x55", at=50)
    taken = []
    crops = CropFilter(loader_of(damaged), two_levels(0.1), LabelScorer())
    with pytest.raises(BadSampleError):
        for batch in crops:
            taken.append(batch.ids)
    assert len(taken) == 5 and crops.state_dict()["position"] == 32 * 5
    substituting = CropFilter(loader_of(damaged, reading=Reading(on_bad="substitute")), two_levels(0.1), LabelScorer())
    assert len(list(substituting)) == 10


def test_what_a_scorer_must_give(digits):
    cases = [
        (LabelScorer(name="other"), "the sampler reads 'value', but the scorer gives other"),
        (LabelScorer(lambda labels: labels[:5] / 10), r"'value' of 32 crops must have shape \(32,\), but has \(5,\)"),
        (LabelScorer(lambda labels: labels / 0), "column 'value' must be finite"),
    ]
    for scorer, message in cases:
        refused(message, next, iter(CropFilter(loader_of(digits), two_levels(0.1), scorer)))


def test_the_state_after_a_scorer_that_failed_has_lost_nothing(digits, lane):
    calls = itertools.count()

    def fail_at_four(labels):
        if next(calls) == 4:
            raise RuntimeError("out of memory")
        return labels / 10

    crops = CropFilter(loader_of(digits), two_levels(0.1), LabelScorer(fail_at_four))
    taken = []
    with pytest.raises(RuntimeError, match="out of memory"):
        for batch in crops:
            taken.append(batch.ids)
    assert crops.state_dict()["position"] == 32 * len(taken)
    crops.load_state_dict(crops.state_dict())
    taken += [batch.ids for batch in crops]
    plain = [batch.ids for batch in CropFilter(loader_of(digits), two_levels(0.1), LabelScorer())]
    assert torch.equal(torch.cat(taken), torch.cat(plain))


def test_a_scorer_that_fails_at_once_leaves_the_state_where_it_was(digits, lane):
    scorer = LabelScorer()
    crops = CropFilter(loader_of(digits), two_levels(0.1), scorer)
    list(crops)
    for _ in range(2):
        crops.set_epoch(1)
        scorer.function = lambda labels: labels[:0]
        refused("must have shape", lambda: next(iter(crops)))
        assert (crops.state_dict()["epoch"], crops.state_dict()["position"]) == (1, 0)
        scorer.function = lambda labels: labels / 10
    crops.load_state_dict(crops.state_dict())
    assert len(list(crops)) == 10


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan"), 1e-9])
def test_a_share_is_a_share(digits, keep):
    with pytest.raises(ValueError, match=r"`.*keep.*` must hold, but got"):
        CropFilter(loader_of(digits), two_levels(0.1), LabelScorer(), keep=keep)
