"""P(clean) within a training: uniform at first, then by what was seen, the same after a restart at any step."""

import numpy as np
import pytest
import torch

from drawstream import CleanSampler, IndexStream, find_suspects
from drawstream.features import clean_probabilities
from drawstream.features.suspects import suspects_of
from drawstream.pipeline.packed import packed, unpacked
from shared.refusals import refused
from shared.samples import digits_catalog

ROWS, CLASSES, EPOCHS = 600, 10, 4


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("clean") / "d", ROWS)


def steps(label, wrong, epoch, batch=64):
    """Batches of an epoch: ids, logits that see most true classes, given labels, weights (0: fill)."""
    rng = torch.Generator().manual_seed(epoch)
    true = torch.from_numpy(np.where(wrong, (label + 1) % CLASSES, label))
    logits = torch.randn(len(label), CLASSES, generator=rng)
    logits[torch.arange(len(label)), true] += 3
    order = torch.randperm(len(label), generator=rng)
    for ids in order.split(batch):
        weights = torch.ones(len(ids))
        weights[-1] = 0
        yield ids, logits[ids], torch.from_numpy(label)[ids], weights


def given(catalog, share):
    label = np.array(catalog.label)
    return label, np.random.default_rng(5).random(ROWS) < share


def trained(catalog, share=0.3, epochs=EPOCHS, **options):
    label, wrong = given(catalog, share)
    sampler = CleanSampler(label, CLASSES, **options)
    for epoch in range(epochs):
        for step in steps(label, wrong, epoch):
            sampler.observe(*step)
        sampler.reduce()
    return sampler, wrong


def test_uniform_until_the_first_refit_then_by_the_table_of_what_was_seen(catalog, tmp_path):
    early, _ = trained(catalog, epochs=2, refresh=3)
    np.testing.assert_allclose(early.probabilities(2), 1 / ROWS)
    assert early.refits == []
    sampler, wrong = trained(catalog, refresh=4)
    p = sampler.probabilities(4)
    assert p.sum() == pytest.approx(1) and p[wrong].sum() < 0.05
    found = find_suspects(sampler.tracker.export(tmp_path / "t", catalog), CLASSES)
    np.testing.assert_array_equal(p, clean_probabilities(found, catalog.label))
    assert sampler.refits[-1]["wrong_share"] == found.share == pytest.approx(wrong.mean(), abs=0.05)


def test_later_refits_keep_the_share_that_uniform_draws_told(catalog):
    sampler, wrong = trained(catalog, refresh=2)
    assert [each["epochs"] for each in sampler.refits] == [2, 4]
    first, second = (each["wrong_share"] for each in sampler.refits)
    assert first == second == pytest.approx(wrong.mean(), abs=0.05)
    assert (1 - sampler.probabilities(4) * ROWS * (1 - first)).mean() == pytest.approx(first, abs=0.02)


@pytest.mark.parametrize("options", [{"score": "loss"}, {"per_class": True}], ids=str)
def test_by_the_loss_or_by_class_wrong_labels_are_drawn_rarely_too(catalog, options):
    sampler, wrong = trained(catalog, refresh=4, **options)
    p = sampler.probabilities(4)
    assert p[wrong].sum() < 0.1 and (p >= 0).all() and p.sum() == pytest.approx(1)


def test_by_class_each_keeps_the_share_of_its_right_labels():
    label, rng = np.repeat(np.arange(3), (300, 300, 20)), np.random.default_rng(0)
    wrong = rng.random(620) < np.array([0.1, 0.4, 0.2])[label]
    margin = rng.normal(np.where(wrong, 0.5, -0.5), 0.2).clip(-1, 1)
    columns = {"margin": margin, "other": (1 + margin) / 2, "other_label": (label + 1) % 3, "loss": 1 + margin}
    found = suspects_of(columns, label, 3)
    p = clean_probabilities(found, label, per_class=True)
    right = found.joint.diagonal().copy()
    right[2] = 20 - found.wrong[label == 2].sum()  # too few rows for a mixture of their own
    np.testing.assert_allclose(np.bincount(label, p), right / right.sum(), rtol=1e-4)
    assert p[wrong].sum() < 0.03 and (np.diff(p[:300][np.argsort(margin[:300])]) <= 0).all()


def test_few_wrong_labels_keep_it_uniform(catalog):
    sampler, _ = trained(catalog, share=0.0, refresh=2)
    np.testing.assert_allclose(sampler.probabilities(4), 1 / ROWS)
    assert [each["uniform"] for each in sampler.refits] == [True, True]


def test_rows_never_seen_are_drawn_as_the_others_on_average(catalog):
    label, wrong = given(catalog, 0.3)
    sampler = CleanSampler(label, CLASSES, refresh=1)
    for ids, *rest in steps(label, wrong, 0):
        rest[-1][ids >= 300] = 0
        sampler.observe(ids, *rest)
    sampler.reduce()
    p = sampler.probabilities(1)
    np.testing.assert_allclose(p[300:], 1 / ROWS)
    assert p[:300].sum() == pytest.approx(0.5) and p[:300][wrong[:300]].sum() < 0.05


@pytest.mark.parametrize("stop", [3, 10, 14, 27])
def test_a_restart_at_any_step_changes_no_bit(catalog, stop):
    whole, _ = trained(catalog, refresh=2)
    label, wrong = given(catalog, 0.3)
    sampler, at = CleanSampler(label, CLASSES, refresh=2), 0
    for epoch in range(EPOCHS):
        for step in steps(label, wrong, epoch):
            if at == stop:
                state = unpacked(packed(sampler.state_dict()))  # as a loader's JSON keeps it
                sampler = CleanSampler(label, CLASSES, refresh=2)
                sampler.load_state_dict(state)
            sampler.observe(*step)
            at += 1
        sampler.reduce()
    np.testing.assert_array_equal(sampler.probabilities(4), whole.probabilities(4))
    assert sampler.refits == whole.refits


def test_a_stream_over_it_goes_on_within_an_epoch(catalog):
    sampler, _ = trained(catalog, refresh=2)
    stream = IndexStream(sampler, seed=3)
    order = stream.epoch(4)[:]
    again = IndexStream(CleanSampler(catalog.label, CLASSES, refresh=2), seed=3)
    again.load_state_dict(stream.state_dict())
    np.testing.assert_array_equal(again.epoch(4)[:], order)


def test_other_arguments_and_states_are_refused(catalog):
    refused("refresh >= 1 must hold, but got 0", CleanSampler, catalog.label, refresh=0)
    refused("score must be margin or loss, but got 'guess'", CleanSampler, catalog.label, score="guess")
    refused("2 to 65535 classes, all below that number, but got 5 classes", CleanSampler, catalog.label, 5)
    refused("labels must be classes", CleanSampler, [[0, 1]])
    state = CleanSampler(catalog.label, refresh=2).state_dict()
    refused("must be of the same refresh", CleanSampler(catalog.label).load_state_dict, state)
    refused("state's p must be", CleanSampler(catalog.label, refresh=2).load_state_dict, state | {"p": np.ones(3)})
