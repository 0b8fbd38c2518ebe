"""Metrics of an evaluation against plain counts, and where they are told."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from drawstream.search import Trial
from drawstream.tools.cli.app import main
from drawstream.tools.training.evaluation import ClassScores, Evaluation, evaluate
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.setup import Setup


def test_metrics_against_scikit_learn(digits):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=64)
    model, (held_out,) = setup.build(0), setup.evaluation_loaders().values()
    run = train(model, setup.training_loader(), Recipe(2), evaluation=Evaluation({"held_out": held_out}))
    held_out.set_epoch(0)
    with torch.no_grad():
        parts = [(model(batch.images).numpy(), batch.labels.numpy()) for batch in held_out]
    logits, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    guess = logits.argmax(1)
    found = evaluate(model, held_out)
    expected = {"top1": (guess == labels).mean(), "top5": top_k_accuracy_score(labels, logits, k=5)}
    expected["balanced"] = balanced_accuracy_score(labels, guess)
    assert found.metrics() == pytest.approx({name: 100 * value for name, value in expected.items()})
    assert found.per_class() == pytest.approx(100 * recall_score(labels, guess, average=None))
    last = run.history[-1]
    assert last.metrics == {"held_out": found.metrics()} and last.classes == {"held_out": found.per_class()}
    assert run.last("held_out", "balanced") == found.metrics()["balanced"] and not run.history[0].classes
    assert found.metrics()["top1"] < found.metrics()["top5"] < 100


def test_other_batches_and_mirror_images(digits):
    """Whatever the batch, the metrics are the same; `flip` takes the mean of the outputs of both."""
    setups = [Setup(digits.train, "mlp", digits.held_out, global_batch=64, eval_batch=size) for size in (512, 7)]
    model, loaders = setups[0].build(0), [setup.evaluation_loaders()["held_out"] for setup in setups]
    found = [evaluate(model, loader, flip=True).per_class() for loader in loaders]
    assert found[0] == found[1] and len(loaders[1]) == 15
    right, rows = np.zeros(10), np.zeros(10)
    loaders[0].set_epoch(0)
    with torch.no_grad():
        for batch in loaders[0]:
            guess = (model(batch.images) + model(batch.images.flip(-1))).argmax(1)
            right += np.bincount(batch.labels[guess == batch.labels], minlength=10)
            rows += np.bincount(batch.labels, minlength=10)
    assert found[0] == pytest.approx((100 * right / rows).tolist())
    assert evaluate(model, loaders[0]).per_class() != found[0]


def test_a_class_without_rows_counts_in_nothing():
    found = ClassScores(*(np.array(each) for each in ([4, 0, 1], [2, 0, 1], [4, 0, 1])))
    assert found.metrics() == pytest.approx({"top1": 60, "top5": 100, "balanced": 75})
    assert found.per_class() == [50, None, 100]


def test_records_have_all_metrics(digits, tmp_path, capsys):
    command = ("train", digits.train, "-o", tmp_path, "--model", "mlp", "--epochs", "2", "--held-out", digits.held_out)
    assert main([str(each) for each in (*command, "--json", tmp_path / "found.json")]) == 0
    record, told = json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out
    result, last = record["result"], record["history"][-1]
    assert list(result["classes"]) == [str(digit) for digit in range(10)]
    assert np.mean(list(result["classes"].values())) == pytest.approx(result["metrics"]["balanced"])
    assert result["metrics"] == last["metrics"]["held_out"] and result["metrics"]["top1"] == result["last"]
    for name, words in (("balanced", "balanced"), ("top5", "top-5")):
        assert f"{result['metrics'][name]:.2f} % {words}" in told
    assert "classes" not in last


def test_a_candidate_is_scored_by_the_metric_of_the_search(digits, tmp_path):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=64)
    torch.save(setup.build(0).state_dict(), tmp_path / "w.pt")
    scores, identities = {}, []
    for metric in ("top1", "top5", "balanced"):
        objective = FineTune(setup, tmp_path / "w.pt", Recipe(1), Recipe(1), metric=metric)
        scores[metric] = objective(np.full(500, 1 / 500), Trial(0, 0, "search"))
        identities.append(objective.identity["metric"])
        objective.close()
    assert identities == list(scores) and scores["top1"] < scores["top5"] and scores["top1"] != scores["balanced"]
    with pytest.raises(ValueError, match="must be one of top1, top5, balanced, map, rmse, mae, but got 'f1'"):
        FineTune(setup, tmp_path / "w.pt", Recipe(1), Recipe(1), metric="f1")
