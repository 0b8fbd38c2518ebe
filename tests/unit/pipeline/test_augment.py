"""Mixup and RICAP against the papers' formulas, written out pixel by pixel."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare, kstest
from torch.nn import functional as F

from drawstream.pipeline.images.mixing import RICAP, Mixed, Mixup

N, H, W, K = 12, 9, 13, 5
IMAGES = torch.arange(N * 3 * H * W, dtype=torch.float32).reshape(N, 3, H, W)  # every value tells where it comes from
LABELS = torch.arange(N) % K
MIXERS = [Mixup(seed=3), RICAP(seed=3)]


def test_mixup_is_the_weighted_mean_of_two_images():
    mixup = Mixup(alpha=1.0, seed=1)
    for step in range(20):
        mixed = mixup(IMAGES, LABELS, epoch=2, step=step)
        share = mixup.share(2, step)
        assert 0 < share < 1 and torch.equal(mixed.shares, torch.tensor([[share, 1 - share]]).expand(N, 2))
        others = (mixed.images - share * IMAGES) / (1 - share)
        rows = (others[:, 0, 0, 0] / (3 * H * W)).round().long()
        assert sorted(rows.tolist()) == list(range(N))
        assert torch.allclose(mixed.images, share * IMAGES + (1 - share) * IMAGES[rows], atol=1e-2)
        assert torch.equal(mixed.labels, torch.stack([LABELS, LABELS[rows]], 1))


def test_ricap_is_four_patches_with_the_shares_of_their_areas():
    corners, places = set(), set()
    grid = torch.arange(H)[:, None] * W + torch.arange(W)
    for step in range(200):
        mixed = RICAP(beta=1.0, seed=1)(IMAGES, LABELS, epoch=2, step=step)
        source = mixed.images.long() // (3 * H * W)  # which image each value is from
        assert (source == source[:, :1]).all()  # all channels of a pixel are from the same one
        moved = mixed.images.long()[:, 0] % (H * W) - grid  # and how far it has moved there
        share = mixed.shares[0].double()
        h, w = round(float(share[0] + share[1]) * H), round(float(share[0] + share[2]) * W)
        corners.add((h, w))
        for k, (y, x) in enumerate([(y, x) for y in (slice(0, h), slice(h, H)) for x in (slice(0, w), slice(w, W))]):
            patch = source[:, 0, y, x].flatten(1)
            assert (mixed.shares[:, k] == torch.tensor(patch.shape[1] / (H * W))).all()
            if patch.shape[1] == 0:
                continue
            rows = patch[:, 0]
            assert (patch == rows[:, None]).all() and len(moved[:, y, x].unique()) == 1
            assert sorted(rows.tolist()) == list(range(N)) and (k > 0 or torch.equal(rows, torch.arange(N)))
            assert torch.equal(mixed.labels[:, k], LABELS[rows])
            places.add((k, h, w, int(moved[0, y, x][0, 0])))
    assert len(corners) > 60 and len(places) > 400


@pytest.mark.parametrize("mixer", MIXERS, ids=lambda m: type(m).__name__)
def test_loss_is_cross_entropy_with_soft_labels(mixer):
    mixed = mixer(IMAGES, LABELS, epoch=0, step=4)
    logits = torch.randn(N, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    soft = mixed.soft_labels(K)
    assert soft.dtype == torch.float32 and torch.allclose(soft.sum(1), torch.ones(N))
    rows = mixed.loss(logits, reduction="none")
    assert torch.allclose(rows, F.cross_entropy(logits, soft, reduction="none"), atol=1e-6)
    by_label = [F.cross_entropy(logits, mixed.labels[:, k], reduction="none") for k in range(mixed.labels.shape[1])]
    assert torch.allclose(rows, (torch.stack(by_label, 1) * mixed.shares).sum(1), atol=1e-6)
    assert torch.allclose(mixed.loss(logits), rows.mean())
    mixed.loss(logits).backward()
    assert torch.allclose(logits.grad, (logits.detach().softmax(1) - soft) / N, atol=1e-6)


def test_the_larger_share_is_the_rows_own():
    shares = [Mixup(alpha=1.0, seed=2).share(0, step) for step in range(50)]
    larger = [Mixup(alpha=1.0, seed=2, larger=True) for _ in shares]
    assert [mixup.share(0, step) for step, mixup in enumerate(larger)] == [max(s, 1 - s) for s in shares]
    mixed = larger[0](IMAGES, LABELS, epoch=0, step=3)
    assert torch.equal(mixed.labels[:, 0], LABELS) and float(mixed.shares[0, 0]) == pytest.approx(larger[0].share(0, 3))


def test_all_patches_are_of_other_rows():
    """The first patch is permuted too; the others are those of the plain mixer."""
    for step in range(20):
        plain = RICAP(beta=1.0, seed=1)(IMAGES, LABELS, epoch=2, step=step)
        mixed = RICAP(beta=1.0, seed=1, permuted=True)(IMAGES, LABELS, epoch=2, step=step)
        source = mixed.images.long()[:, 0] // (3 * H * W)
        share = mixed.shares[0].double()
        h, w = round(float(share[0] + share[1]) * H), round(float(share[0] + share[2]) * W)
        assert torch.equal(mixed.shares, plain.shares) and torch.equal(mixed.labels[:, 1:], plain.labels[:, 1:])
        assert torch.equal(mixed.images[:, :, h:], plain.images[:, :, h:])
        if h and w:
            rows = source[:, 0, 0]
            assert (source[:, :h, :w] == rows[:, None, None]).all() and sorted(rows.tolist()) == list(range(N))
            assert not torch.equal(rows, torch.arange(N)) and torch.equal(mixed.labels[:, 0], LABELS[rows])


def test_one_label_twice_counts_once():
    mixed = Mixed(IMAGES[:1], torch.tensor([[2, 2]]), torch.tensor([[0.25, 0.75]]))
    assert mixed.soft_labels(3).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("alpha", [0.2, 0.3, 1.0, 4.0])
def test_shares_follow_the_beta_law(alpha):
    mixup = Mixup(alpha=alpha, seed=2)
    assert kstest([mixup.share(0, step) for step in range(2000)], "beta", (alpha, alpha)).pvalue > 1e-3


def test_boundaries_follow_the_beta_law():
    """Rounded to pixels: P(w <= j) = F((j + 1/2) / W), with Kolmogorov's bound at 0.1 %."""
    ricap, image, steps = RICAP(beta=0.3, seed=2), torch.zeros(2, 1, 20, 50), 1000
    shares = [ricap(image, torch.zeros(2).long(), epoch=0, step=step).shares[0].double() for step in range(steps)]
    share = torch.stack(shares).numpy()
    for found, side in ((share[:, 0] + share[:, 1], 20), (share[:, 0] + share[:, 2], 50)):
        counted = np.bincount(np.rint(found * side).astype(int), minlength=side + 1).cumsum() / steps
        law = beta.cdf((np.arange(side) + 0.5) / side, 0.3, 0.3)
        assert np.abs(counted[:-1] - law).max() < 1.95 / steps**0.5


def test_partners_are_uniform():
    mixup, index = Mixup(seed=0), torch.arange(6)
    images = torch.zeros(6, 1, 1, 1)
    seen = torch.stack([mixup(images, index, epoch=1, step=step).labels[:, 1] for step in range(3000)])
    counts = torch.stack([torch.bincount(seen[:, i], minlength=6) for i in range(6)])
    assert all(chisquare(row).pvalue > 1e-4 for row in counts.numpy())


def test_a_small_alpha_leaves_images_whole():
    """As α goes to 0, λ is 0 or 1: each image is its own, or wholly its partner, and never a mixture."""
    for step in range(20):
        mixed = Mixup(alpha=1e-6, seed=0)(IMAGES, LABELS, epoch=0, step=step)
        share = float(mixed.shares[0, 0])
        assert share in (0, 1)
        rows = (mixed.images[:, 0, 0, 0] / (3 * H * W)).long()
        assert torch.equal(mixed.images, IMAGES[rows])
        assert torch.equal(LABELS[rows], mixed.labels[:, 0 if share == 1 else 1])
        assert share == 0 or torch.equal(rows, torch.arange(N))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Mixup(alpha=0), "`alpha > 0` must hold, but got 0"),
        (lambda: Mixup(alpha=float("nan")), "`alpha > 0` must hold"),
        (lambda: RICAP(beta=-1), "`beta > 0` must hold, but got -1"),
        (lambda: Mixup()(IMAGES, LABELS, epoch=0, step=-1), "`epoch, step, rank >= 0` must hold, but got 0, -1, 0"),
        (lambda: Mixed(IMAGES, LABELS, LABELS).loss(IMAGES, reduction="sum"), "`reduction` must be mean or none"),
    ],
)
def test_impossible_options_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
