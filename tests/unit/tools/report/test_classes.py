"""The report on unequal classes: groups, shares before and after, and what is no control."""

import json

import numpy as np
import pytest

from drawstream import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.tools.cli.app import main
from drawstream.tools.report.groups import control_of, groups_of
from drawstream.tools.report.pages.classes import class_section
from drawstream.tools.report.records import read_records
from shared.programs import cli
from shared.samples import LABELS, PIXELS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    pack(ArraySource(PIXELS[300:], LABELS[300:]), folder / "train", long_tail=40)
    pack(ArraySource(PIXELS[:300], LABELS[:300]), folder / "test")
    base = ("train", folder / "train", "--test", folder / "test", "--model", "mlp", "--epochs", 2, "--global-batch", 32)
    for name, options in {
        "uniform": (),
        "half": ("--balance", 0.5),
        "balanced": ("--sampler", "balanced"),
        "some": ("--where", "label < 5"),
    }.items():
        assert main([str(each) for each in (*base, "-o", folder / "runs" / name, *options)]) == 0
    return folder / "runs"


def test_uniform_draws_of_the_same_rows_are_the_control(runs):
    groups = groups_of(read_records(runs)[0])
    by_name = {group.runs[0].path.parent.name: group for group in groups}
    assert control_of(by_name["half"], groups) is by_name["uniform"] is control_of(by_name["balanced"], groups)
    assert control_of(by_name["some"], groups) in (None, by_name["some"])
    assert not by_name["half"].is_control and "0.5" in by_name["half"].name


def test_the_section_has_groups_shares_and_accuracies(runs):
    groups = groups_of(read_records(runs)[0])
    text = class_section(groups)
    few = json.loads((runs / "balanced/run.json").read_text())["result"]["shots"]["accuracy"]["few"]
    assert f"{few:.2f}" in text and "many: more than 100 training images, few: fewer than 20" in text
    assert "Share (%)" in text and "Accuracy of the class (%)" in text and "before" in text
    assert "fewer than 30" in class_section(groups, (30, 60))


def test_equal_classes_have_no_section_and_a_bad_bound_is_refused(runs, digits, tmp_path):
    line = ["train", digits.train, "-o", tmp_path / "equal", "--test", digits.test, "--model", "mlp", "--epochs", 1]
    assert main([str(each) for each in line]) == 0
    assert class_section(groups_of(read_records(tmp_path / "equal")[0])) == ""
    page = tmp_path / "page.html"
    cli("report", runs, "-o", page, "--shots", "30,60")
    assert "few: fewer than 30" in page.read_text(encoding="utf-8")
    assert "two numbers, as 20,100, but got 1" in cli("report", runs, "-o", page, "--shots", "30", status=2)
    assert "1 <= few <= many" in cli("report", runs, "-o", page, "--shots", "60,30", status=2)
    rows = json.loads((runs / "some/run.json").read_text())["class_rows"]
    assert np.count_nonzero(rows) == 5
