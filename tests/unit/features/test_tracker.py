"""The tracker: values against a plain loop, forgetting by hand, windows, its table, its state, and what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from drawstream import FeatureTable, SwiftFit, SwiftParams, SwiftSampler, Tracker, write_part
from drawstream.features import measure
from drawstream.features.table import part_path
from shared.refusals import refused
from shared.samples import digits_catalog

ROWS = 50


def batches(epochs=3, steps=12, n=16, classes=4, seed=0):
    """Random visits: (epoch, ids, logits, labels, weights), some of weight 0, ids with repeats."""
    rng = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        for _ in range(steps):
            ids = torch.randint(0, ROWS, (n,), generator=rng)
            logits = 3 * torch.randn(n, classes, generator=rng)
            labels = torch.randint(0, classes, (n,), generator=rng)
            weights = (torch.rand(n, generator=rng) > 0.1).float() * 2.5
            yield epoch, ids, logits, labels, weights


def follow(tracker, given):
    """Run a tracker over visits; each epoch is opened and reduced."""
    epoch = None
    for now, *batch in given:
        if epoch is not None and now != epoch:
            tracker.reduce()
        tracker.set_epoch(now)
        tracker.observe(*batch)
        epoch = now
    tracker.reduce()
    return tracker


def one_hot(correct):
    """Logits of class 0 or 1, for label 0."""
    return torch.tensor([[2.0, 0.0, 0.0] if c else [0.0, 2.0, 0.0] for c in correct])


def same(a, b):
    assert a["meta"] == b["meta"] and a["tensors"].keys() == b["tensors"].keys()
    return all(torch.equal(a["tensors"][name], b["tensors"][name]) for name in a["tensors"])


def test_equals_a_plain_loop():
    given = list(batches())
    columns = follow(Tracker(ROWS), given).columns()
    seen = {row: [] for row in range(ROWS)}
    for epoch, ids, z, y, weights in given:
        z = z.double()
        p = z.softmax(1)
        hot = F.one_hot(y, 4)
        rest = p * (1 - hot)
        q = rest / rest.sum(1, keepdim=True)
        entropy = -(q * (q + hot).log()).sum(1)
        measured = torch.stack([F.cross_entropy(z, y, reduction="none"), entropy, (p - hot).norm(dim=1), rest.sum(1)])
        for i, row in enumerate(ids.tolist()):
            if weights[i] > 0:
                seen[row].append((epoch, *measured[:, i].tolist()))
    assert columns["seen"].tolist() == [len(seen[row]) for row in range(ROWS)]
    assert columns["last_epoch"].tolist() == [seen[row][-1][0] for row in range(ROWS)]
    for k, name in enumerate(("loss", "entropy", "grad_norm", "uncertainty"), start=1):
        expected = [np.mean([visit[k] for visit in seen[row]]) for row in range(ROWS)]
        np.testing.assert_allclose(columns[name], expected, rtol=2e-6, err_msg=name)
        assert columns[name].dtype == np.float32


@pytest.mark.parametrize(
    ("history", "events", "learned"),
    [("1111", 0, 1), ("0101", 1, 1), ("1010", 2, 1), ("1000", 1, 1), ("0001", 0, 1), ("1.0.", 1, 1), ("1..1", 0, 1)],
)
def test_forgetting_counts_flips_between_consecutive_visits(history, events, learned):
    tracker = Tracker(1)
    for epoch, correct in enumerate(history):
        tracker.set_epoch(epoch)
        if correct != ".":
            tracker.observe(torch.tensor([0]), one_hot([correct == "1"]), torch.tensor([0]))
        tracker.reduce()
    columns = tracker.columns()
    assert columns["forgetting"][0] == events and columns["learned"][0] == learned


def plain_means(given, classes):
    """Mean probabilities (rows, C) over all visits, 0 for the label's own, and those of the labels (rows,)."""
    total, own, visits = np.zeros((ROWS, classes)), np.zeros(ROWS), np.zeros(ROWS)
    for _, ids, z, y, weights in given:
        p = z.double().softmax(1).numpy()
        for row, chances, label, weight in zip(ids.tolist(), p, y.tolist(), weights.tolist(), strict=True):
            if weight:
                own[row] += chances[label]
                chances[label] = 0
                total[row] += chances
                visits[row] += 1
    return total / visits[:, None], own / visits


def test_probabilities_of_other_classes_are_means_over_visits():
    given = list(batches())
    columns = follow(Tracker(ROWS, classes=4, decay=0.9), given).columns()
    mean, own = plain_means(given, 4)
    np.testing.assert_allclose(np.stack([columns[f"other_{c}"] for c in range(4)], 1), mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(columns["other"], mean.max(1), rtol=1e-6)
    np.testing.assert_allclose(columns["margin"], mean.max(1) - own, rtol=1e-5, atol=1e-7)
    assert columns["other_label"].tolist() == mean.argmax(1).tolist()


def test_two_candidates_of_many_classes_hold_the_one_that_stands_out():
    """Each row leans to one class in four of five epochs; the candidates' mean is never above the exact one."""
    rng, classes = torch.Generator().manual_seed(3), 70
    leaning, given = torch.randint(1, classes, (ROWS,), generator=rng), []
    for epoch in range(10):
        z = torch.randn(ROWS, classes, generator=rng)
        name = leaning if epoch % 5 else torch.randint(1, classes, (ROWS,), generator=rng)
        z[torch.arange(ROWS), name] += 7
        ids = torch.randperm(ROWS, generator=rng)
        given.append((epoch, ids, z[ids], torch.zeros(ROWS, dtype=torch.int64), torch.ones(ROWS)))
    columns = follow(Tracker(ROWS, classes=classes), given).columns()
    mean, own = plain_means(given, classes)
    assert columns["other_label"].tolist() == mean.argmax(1).tolist() == leaning.tolist()
    assert (columns["other"] <= mean.max(1) + 1e-4).all() and (columns["other"] > mean.max(1) - 1 / 3).all()
    np.testing.assert_allclose(columns["margin"], columns["other"] - own, atol=1e-6)
    assert "other_0" not in columns
    once = follow(Tracker(ROWS, classes=classes), given[:1]).columns()
    twice = [(0, *(torch.cat([part, part]) for part in given[0][1:]))]
    np.testing.assert_allclose(
        follow(Tracker(ROWS, classes=classes), twice).columns()["other"], once["other"], atol=1e-4
    )


def test_a_row_is_right_since_the_epoch_after_its_last_mistake():
    tracker = Tracker(4)
    for epoch, right in enumerate(["0110", "0100", "1101", "1101"]):
        tracker.set_epoch(epoch)
        tracker.observe(torch.arange(4), one_hot([each == "1" for each in right]), torch.zeros(4, dtype=torch.int64))
        tracker.reduce()
    assert tracker.columns()["right_since"].tolist() == [2, 0, 4, 2]


def test_within_an_epoch_the_last_visit_decides():
    tracker = Tracker(2)
    for epoch, correct in enumerate([(0, 0, 1), (1, 1, 0), (0, 1, 1)]):  # 1, 0, 1 at the last visit
        tracker.set_epoch(epoch)
        tracker.observe(torch.zeros(2, dtype=torch.int64), one_hot(correct[:2]), torch.zeros(2, dtype=torch.int64))
        tracker.observe(torch.tensor([0]), one_hot(correct[2:]), torch.tensor([0]))
        tracker.reduce()
    assert tracker.columns()["forgetting"].tolist() == [1, 2]  # row 1 was never seen


def test_rows_never_learned_or_seen_come_first():
    tracker = Tracker(4)
    y = torch.zeros(3, dtype=torch.int64)
    for epoch, correct in enumerate([(1, 1, 0), (0, 1, 0), (1, 1, 0)]):
        tracker.set_epoch(epoch)
        tracker.observe(torch.arange(3), one_hot(correct), y)
        tracker.reduce()
    columns = tracker.columns()
    assert columns["forgetting"].tolist() == [1, 0, 2, 2]
    assert columns["learned"].tolist() == [1, 1, 0, 0]
    assert columns["seen"].tolist() == [3, 3, 3, 0]
    assert columns["last_epoch"].tolist() == [2, 2, 2, -1]
    for name in ("loss", "entropy", "grad_norm", "uncertainty"):
        assert columns[name][3] == columns[name][:3].max()


def test_a_window_takes_its_epochs_alone():
    given = list(batches(epochs=5))
    part = follow(Tracker(ROWS, since=1, until=3), given).columns()
    alone = follow(Tracker(ROWS), [batch for batch in given if 1 <= batch[0] < 3]).columns()
    for name, values in alone.items():
        np.testing.assert_array_equal(part[name], values)


def test_a_moving_average_goes_by_epochs():
    given = list(batches(epochs=4))
    columns = follow(Tracker(ROWS, decay=0.7), given).columns()
    expected = np.full(ROWS, np.nan)
    for epoch in range(4):
        only = follow(Tracker(ROWS), [batch for batch in given if batch[0] == epoch]).columns()
        mean, seen = only["loss"].astype(float), only["seen"] > 0
        first = np.isnan(expected)
        expected = np.where(seen, np.where(first, mean, 0.7 * expected + 0.3 * mean), expected)
    np.testing.assert_allclose(columns["loss"], expected, rtol=1e-6)


def test_early_gradient_norms_are_means_over_the_first_epochs():
    """EL2N and GraNd are those of autograd; epochs before `since` and after the early ones do not count."""
    given, rng = list(batches(epochs=5)), torch.Generator().manual_seed(1)
    inputs = [torch.randn(16, 7, generator=rng) for _ in given]
    tracker, layer = Tracker(ROWS, since=1, early=2, grand=True), torch.nn.Linear(7, 4)
    wanted = [[] for _ in range(ROWS)]
    for at, ((epoch, ids, z, y, weights), h) in enumerate(zip(given, inputs, strict=True)):
        tracker.set_epoch(epoch)
        tracker.observe(ids, z, y, weights, inputs=h)
        if at % 12 == 11:
            tracker.reduce()
        for i in torch.nonzero(weights).ravel().tolist() if epoch in (1, 2) else []:
            error = z[i].softmax(0) - F.one_hot(y[i], 4)
            layer.zero_grad()
            (layer(h[i]) @ error).backward()  # the gradient of the logits is the error
            norms = [part.grad.norm() for part in layer.parameters()]
            wanted[int(ids[i])].append((float(error.norm()), float(torch.stack(norms).norm())))
    columns = tracker.columns()
    means = np.array([np.mean(visits, 0) for visits in wanted])
    np.testing.assert_allclose(columns["el2n"], means[:, 0], rtol=1e-5)
    np.testing.assert_allclose(columns["grand"], means[:, 1], rtol=1e-5)
    whole = follow(Tracker(ROWS, since=1, until=3), given).columns()
    np.testing.assert_array_equal(columns["el2n"], whole["grad_norm"])
    assert "grand" not in whole
    late = follow(Tracker(ROWS, early=1), [batch for batch in given if batch[0] > 0]).columns()
    assert "el2n" not in late  # none of the early epochs was trained
    refused("`grand` needs `inputs`", lambda: (tracker.set_epoch(5), tracker.observe(*given[0][1:])))


def test_a_row_first_seen_later_has_the_largest_early_norm():
    y = torch.zeros(1, dtype=torch.int64)
    given = [(epoch, torch.tensor([min(epoch, 2)]), one_hot([epoch != 1]), y, None) for epoch in range(3)]
    found = follow(Tracker(3, early=2), given).columns()["el2n"]
    assert found[0] < found[1] == found[2]


def test_losses_near_zero_and_huge_ones_keep_their_digits():
    z = torch.tensor([[0.0, 20.0], [0.0, 30000.0]])
    tracker = follow(Tracker(2), [(0, torch.arange(2), z, torch.tensor([1, 0]), None)])
    loss = tracker.columns()["loss"]
    assert loss[0] == pytest.approx(2.06e-9, abs=2e-11)  # a unit is 1.5e-11
    assert loss[1] == 2**14  # the ceiling of one visit
    assert "entropy" not in tracker.columns()  # two classes have none


def test_what_is_observed_may_change_afterwards():
    given = list(batches())
    expected = follow(Tracker(ROWS), given).state_dict()

    def reused():
        for epoch, *batch in given:
            copies = [value.clone().requires_grad_(value.dtype == torch.float32) for value in batch]
            yield epoch, *copies
            for value in copies:
                value.detach().zero_()

    assert same(follow(Tracker(ROWS), reused()).state_dict(), expected)


def test_a_state_is_a_copy_and_plain(tmp_path):
    tracker = follow(Tracker(ROWS), batches(epochs=1))
    state = tracker.state_dict()
    before = {name: value.clone() for name, value in state["tensors"].items()}
    tracker.set_epoch(1)
    tracker.observe(torch.tensor([3]), torch.zeros(1, 4), torch.tensor([1]))
    tracker.reduce()
    assert all(torch.equal(state["tensors"][name], before[name]) for name in before)
    torch.save(state, tmp_path / "s.pt")
    assert same(torch.load(tmp_path / "s.pt", weights_only=True), state)


def test_memory_is_what_the_docstring_says():
    def size(tracker):
        return sum(a.nbytes for a in tracker._arrays(True).values()) / 1000

    assert size(Tracker(1000)) == 99
    assert size(Tracker(1000, decay=0.5)) == 99 + 32
    assert size(Tracker(1000, grand=True)) == 99 + 12
    assert size(Tracker(1000, classes=10)) == 99 + 160
    assert size(Tracker(1000, classes=1000)) == 99 + 20


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows": 0}, "rows >= 1"),
        ({"since": -1}, "0 <= since < until"),
        ({"since": 3, "until": 3}, "got since 3 and until 3"),
        ({"decay": 1.0}, "0 < decay < 1"),
        ({"early": 0}, "early >= 1"),
        ({"classes": 1}, r"classes.* 0 or in \[2, 65535\], but got 1"),
    ],
)
def test_bad_arguments(change, text):
    rows = change.pop("rows", ROWS)
    refused(text, Tracker, rows, **change)


def test_epochs_are_opened_and_ended_in_order():
    tracker = Tracker(ROWS)
    visit = torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0])
    refused("no epoch is open: call `set_epoch", tracker.observe, *visit)
    refused("no epoch is open: `reduce", tracker.reduce)
    tracker.set_epoch(1)
    refused("epoch 1 is still open", tracker.set_epoch, 2)
    refused("epoch 1 is still open", tracker.columns)
    tracker.reduce()
    refused("none of the 50 rows was seen", tracker.columns)
    refused("epochs must rise, but 1 comes after 1", tracker.set_epoch, 1)


@pytest.mark.parametrize(
    ("visit", "text"),
    [
        ((torch.tensor([0]), torch.zeros(1, 1), torch.tensor([0])), "must fit"),
        ((torch.tensor([0, 1]), torch.zeros(1, 3), torch.tensor([0, 0])), "must fit"),
        ((torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0, 0])), "must fit"),
        ((torch.tensor([0]), torch.zeros(1, 5), torch.tensor([0])), "5 classes, but the batches before had 3"),
        ((torch.tensor([ROWS]), torch.zeros(1, 3), torch.tensor([0])), r"ids must lie in \[0, 50\), but got 50"),
        ((torch.tensor([-1]), torch.zeros(1, 3), torch.tensor([0])), "but got -1 in epoch 0"),
        ((torch.tensor([7]), torch.full((1, 3), torch.nan), torch.tensor([0])), "row 7 are not finite in epoch 0"),
    ],
)
def test_bad_batches(visit, text):
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    tracker.observe(torch.tensor([0]), torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match=text):
        tracker.observe(*visit)
        tracker.reduce()


def test_a_bad_row_of_weight_0_is_nobodys():
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    z = torch.tensor([[1.0, 0.0, 0.0], [torch.nan] * 3])
    tracker.observe(torch.tensor([0, 5]), z, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    tracker.reduce()
    assert tracker.columns()["seen"].sum() == 1


def test_states_of_other_trackers_are_refused():
    state = follow(Tracker(ROWS), batches(epochs=1)).state_dict()
    for other, text in [
        (Tracker(ROWS + 1), "rows 50, but here it is 51"),
        (Tracker(ROWS, until=3), "until None, but here it is 3"),
        (Tracker(ROWS, decay=0.5), "decay None, but here it is 0.5"),
    ]:
        refused(text, other.load_state_dict, state)
    state["tensors"]["flags"] = state["tensors"]["flags"][:-1]
    with pytest.raises(ValueError, match=r"flags is torch.uint8 \(49,\), not torch.uint8 \(50,\): it is damaged"):
        Tracker(ROWS).load_state_dict(state)
    refused("state is of another tracker: format None", lambda: Tracker(ROWS).load_state_dict({}))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("tracker") / "d", ROWS, shard_rows=20)


def test_the_table_is_read_and_sampled_from(catalog, tmp_path):
    tracker = follow(Tracker(ROWS), batches())
    table = tracker.export(tmp_path / "f", catalog, model_name="cnn")
    assert len(list((tmp_path / "f").iterdir())) == len(catalog.shards) == 3
    columns = tracker.columns()
    assert table.names == tuple(columns)
    for name in columns:
        np.testing.assert_array_equal(table.columns(name)[name], columns[name])
    assert table.sample_id.tolist() == list(range(ROWS)) and (table.label == catalog.label).all()
    assert table.provenance["tracker"] == {
        "classes": 0,
        "since": 0,
        "until": None,
        "decay": None,
        "early": 10,
        "epochs": 3,
    }
    table.check(catalog.fingerprint, "here")
    fit = SwiftFit(table.columns("loss", "entropy", "grad_norm"), features=["loss", "entropy"], transform="cgf")
    fit.sampler(SwiftParams((1, 0.5), (0.25, 0.5, 0.75), (1, 1, 1, 0, 0))).save(tmp_path / "s.json")
    p = SwiftSampler.load(tmp_path / "s.json").probabilities(table.columns("loss", "entropy"))
    assert p.shape == (ROWS,) and p[np.argmax(columns["loss"] + columns["entropy"])] < 1 / ROWS


def test_an_export_is_repeatable_and_replaces_no_other(catalog, tmp_path):
    tracker = follow(Tracker(ROWS), batches())
    tracker.export(tmp_path, catalog)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    part_path(tmp_path, 1).unlink()  # as a killed export leaves it
    tracker.export(tmp_path, catalog)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match=r"give another output folder \(-o\), or remove this one"):
        follow(Tracker(ROWS), batches(seed=1)).export(tmp_path, catalog)
    with pytest.raises(ValueError, match=r"the tracker has 60 rows, but .* has 50"):
        follow(Tracker(60), batches()).export(tmp_path / "other", catalog)


def test_ids_may_be_rows_of_a_table_of_crops(catalog, tmp_path):
    crops = 2
    for shard in range(len(catalog.shards)):
        rows = np.repeat(np.arange(*catalog.shard_rows(shard)), crops)
        window = np.tile(np.array([0, 0.5], np.float32), len(rows) // crops)
        parts = {"sample_id": rows, "crop": np.tile(np.arange(crops, dtype=np.int32), len(rows) // crops)}
        parts |= dict.fromkeys(("y0", "x0"), window) | dict.fromkeys(("y1", "x1"), window + 0.5)
        parts |= {"flip": window > 0, "label": catalog.label[rows], "loss": window}
        write_part(part_path(tmp_path, shard), parts, {"catalog": catalog.fingerprint, "parts": 3})
    scored = FeatureTable.open(tmp_path)
    tracker = follow(Tracker(ROWS * crops), batches())
    table = tracker.export(tmp_path / "f", catalog, rows=scored)
    np.testing.assert_array_equal(table.windows, scored.windows)
    for name in ("sample_id", "crop", "label", "flip"):
        np.testing.assert_array_equal(getattr(table, name), getattr(scored, name))
    np.testing.assert_array_equal(table.columns("loss")["loss"], tracker.columns()["loss"])


class Event:
    """A copy from a GPU that is there once it is waited for."""

    def __init__(self):
        self.done, self.waited = False, 0

    def query(self):
        return self.done

    def synchronize(self):
        self.waited += not self.done
        self.done = True


def test_batches_on_their_way_are_waited_for_only_where_too_many_are():
    tracker, events = Tracker(ROWS), [Event() for _ in range(6)]
    tracker.set_epoch(0)
    for i, event in enumerate(events):
        step = torch.tensor([i]), torch.zeros(1, 3), torch.tensor([0])
        tracker._copies._pending.append((event, step, partial(tracker._add, i)))
    tracker._copies.drain(4)
    assert [event.waited for event in events] == [1, 1, 0, 0, 0, 0]
    events[2].done = events[4].done = True  # the fourth, before it, is not: order is kept
    tracker._copies.drain(4)
    assert len(tracker._copies._pending) == 3 and not any(event.waited for event in events[2:])
    assert tracker.state_dict()["tensors"]["sums"][:, -1].tolist() == [1] * 6 + [0] * (ROWS - 6)
    assert [event.waited for event in events] == [1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("kind", ["multi", "value"])
def test_rows_with_several_classes_or_values(kind):
    """Means over visits are those of the features; a row with several classes is right where all of them are."""
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(3, 12, 3)).astype(np.float32))
    marks = torch.from_numpy(rng.integers(0, 2, (12, 3)).astype(np.uint8))
    labels = marks if kind == "multi" else torch.from_numpy(rng.normal(size=(12, 3)).astype(np.float32))
    z[1, :4] = 3 * (2.0 * marks[:4] - 1)  # right in the second epoch
    z[2, :4] = -z[1, :4]  # and wrong in the third
    tracker = Tracker(13, kind=kind)
    for epoch in range(3):
        tracker.set_epoch(epoch)
        tracker.observe(torch.arange(12), z[epoch], labels, torch.ones(12))
        tracker.reduce()
        state, tracker = tracker.state_dict(), Tracker(13, kind=kind)
        tracker.load_state_dict(state)
    columns = tracker.columns()
    names = ("loss", "grad_norm") if kind == "value" else ("loss", "entropy", "grad_norm")
    for name in names:
        expected = np.mean([measure(z[epoch], labels, None, (name,))[name].numpy() for epoch in range(3)], axis=0)
        np.testing.assert_allclose(columns[name][:12], expected, rtol=1e-4)
        assert columns[name][12] == columns[name].max() and columns["seen"].tolist() == [3.0] * 12 + [0.0]
    if kind == "multi":
        wrong = torch.where(marks > 0, -z, z).sigmoid().mean((0, 2))
        np.testing.assert_allclose(columns["uncertainty"][:12], wrong, rtol=1e-5)
        assert (columns["forgetting"][:4] == 1).all() and (columns["learned"][:4] == 1).all()
    else:
        assert not {"uncertainty", "entropy", "forgetting", "learned", "right_since"} & set(columns)
    refused(f"kind '{kind}', but here it is 'class'", Tracker(13).load_state_dict, state)
    refused("leave `classes` out", Tracker, 13, kind=kind, classes=3)
    tracker.set_epoch(3)
    refused(r"labels \(n, C\) must fit", tracker.observe, torch.arange(12), z[0], torch.zeros(12, dtype=torch.int64))
