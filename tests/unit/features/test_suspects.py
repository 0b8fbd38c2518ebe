"""Suspects: joint and scores against plain loops, how much of made noise they find, and tables that are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from drawstream import SwiftFit, Tracker, clean_probabilities, clean_starts
from drawstream.features import find_suspects
from drawstream.features.suspects.find import METHODS
from drawstream.search.swift.space import Space
from shared.refusals import refused
from shared.samples import digits_catalog

ROWS, CLASSES = 400, 10


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("suspects") / "d", ROWS, shard_rows=150)


def predictions(label, wrong, classes, *, seed, sure=3):
    """Logits of a model that sees most true classes: those of wrong labels are the class after the given one."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(len(label), classes, generator=rng)
    true = torch.from_numpy(np.where(wrong, (label + 1) % classes, label))
    z[torch.arange(len(label)), true] += sure
    return z


@pytest.fixture(scope="module")
def made(catalog, tmp_path_factory):
    """A tracked table, the mean predictions (rows, C) of its tracker, and which labels are wrong."""
    label = np.array(catalog.label)
    wrong = np.random.default_rng(5).random(ROWS) < 0.3
    tracker, total = Tracker(ROWS, classes=CLASSES), np.zeros((ROWS, CLASSES))
    for epoch in range(4):
        tracker.set_epoch(epoch)
        z = predictions(label, wrong, CLASSES, seed=epoch)
        tracker.observe(torch.arange(ROWS), z, torch.from_numpy(label))
        tracker.reduce()
        total += z.double().softmax(1).numpy() / 4
    return tracker.export(tmp_path_factory.mktemp("table") / "t", catalog), total, wrong


def plain_joint(p, label):
    """Confident joint, row by row."""
    thresholds = [p[label == c, c].mean() for c in range(CLASSES)]
    counts = np.zeros((CLASSES, CLASSES))
    for row, y in zip(p, label, strict=True):
        reached = [c for c in range(CLASSES) if row[c] >= thresholds[c]]
        if reached:
            counts[y, max(reached, key=lambda c: row[c])] += 1
    return counts / counts.sum(1, keepdims=True) * np.bincount(label, minlength=CLASSES)[:, None], thresholds


def test_the_joint_the_share_and_the_scores_are_those_of_a_plain_loop(catalog, made):
    table, p, _ = made
    label = np.array(catalog.label)
    joint, thresholds = plain_joint(p, label)
    found = find_suspects(table, CLASSES)
    np.testing.assert_allclose(found.joint, joint, rtol=1e-6)
    assert found.share == pytest.approx(1 - np.trace(joint) / ROWS)
    assert found.interval[0] < found.share < found.interval[1]
    own = p[np.arange(ROWS), label]
    other = np.where(np.eye(CLASSES, dtype=bool)[label], -1, p)
    np.testing.assert_allclose(found.score, other.max(1) - own, atol=1e-6)
    assert found.suggested.tolist() == other.argmax(1).tolist()
    over = p - thresholds
    away = np.where(np.eye(CLASSES, dtype=bool)[label], -np.inf, over).max(1) - over[np.arange(ROWS), label]
    np.testing.assert_allclose(find_suspects(table, CLASSES, method="confident").score, away, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_made_noise_is_found_and_its_share_told(made, method):
    table, _, wrong = made
    found = find_suspects(table, CLASSES, method=method)
    assert wrong[found.order[: wrong.sum()]].mean() > 0.9
    assert found.wrong.mean() == pytest.approx(found.share) and found.share == pytest.approx(wrong.mean(), abs=0.05)
    assert found.wrong[wrong].mean() > 0.8 and found.wrong[~wrong].mean() < 0.1


def test_two_candidates_of_many_classes_do_nearly_as_well(tmp_path):
    many = digits_catalog(tmp_path / "d", ROWS, shard_rows=150)
    label, wrong = np.array(many.label), np.random.default_rng(6).random(ROWS) < 0.3
    tracker = Tracker(ROWS, classes=70)
    for epoch in range(4):
        tracker.set_epoch(epoch)
        tracker.observe(torch.arange(ROWS), predictions(label, wrong, 70, seed=epoch, sure=7), torch.from_numpy(label))
        tracker.reduce()
    found = find_suspects(tracker.export(tmp_path / "t", many), 70)
    assert wrong[found.order[: wrong.sum()]].mean() > 0.9 and found.share == pytest.approx(wrong.mean(), abs=0.05)


def test_other_tables_and_methods_are_refused(catalog, made, tmp_path):
    refused("no method 'guess': give one of margin", find_suspects, made[0], CLASSES, method="guess")
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    tracker.observe(torch.arange(ROWS), torch.randn(ROWS, CLASSES), torch.from_numpy(np.array(catalog.label)))
    tracker.reduce()
    refused("no column margin, other, .*train --track", find_suspects, tracker.export(tmp_path / "t", catalog), CLASSES)


@pytest.mark.parametrize("segments", [2, 4, 8])
def test_starts_of_a_search_are_near_p_clean_and_near_dropping(made, segments):
    table, *_ = made
    found = find_suspects(table, CLASSES)
    columns = {"other": np.linspace(0, 1, ROWS), "margin": found.score}
    fitted = SwiftFit(columns, features=("other", "margin"), mass=None, transform="cdf")
    ranks = np.argsort(np.argsort(found.score)) / ROWS
    starts = clean_starts(found, ranks, segments=segments, features=2, feature=1)
    space = Space("reduced", 2, segments)
    near, *step = (fitted.probabilities(space.decode(space.encode(each))) for each in starts)
    assert np.abs(near - clean_probabilities(found, table.label)).sum() / 2 < (0.2 if segments < 4 else 0.1)
    assert len(step) == (segments >= 3)
    for p in step:
        kept = found.wrong < 0.5
        assert np.abs(p - kept / kept.sum()).sum() / 2 < 0.05


def test_clean_data_give_a_search_no_starts(made):
    found = find_suspects(made[0], CLASSES)
    assert clean_starts(replace(found, share=0.02), np.linspace(0, 1, ROWS)) == []
