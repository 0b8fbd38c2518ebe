"""Bad arguments of benchmarks end with one line, and nothing is written."""

import pytest

from shared.programs import cli


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("auto --data digits --methods dynamic", "unknown methods 'dynamic': give some of uniform, best-of"),
        ("auto --data digits --seeds 0,0", "seeds must be given and differ"),
        ("auto --data digits --noise 1", "0 <= noise < 1"),
        ("auto --data cifar", "no plan for 'cifar'"),
        ("stream --rows ten", "--rows must be"),
        ("stream --rows 1.5", "--rows must be"),
        ("loader --rounds 0", "--rounds must be"),
        ("budget --data digits --methods p,magic", "unknown methods 'magic': give some of full, unif"),
        ("budget --data digits --augments cutout", "unknown augments 'cutout': give some of none, standard"),
        ("budget --data digits --schedules cosine", "unknown schedules 'cosine': give some of linear, step"),
        ("budget --data digits --budgets 0.3,x", "--budgets must be numbers separated by commas, but got '0.3,x'"),
        ("budget --data digits --budgets 1.5", "0 < budget <= 1"),
        ("budget --data digits --seeds 0,0", "seeds must be given and differ, but got [0, 0]"),
        ("budget --data digits --engine slurm", "the engine must be local, ray or ray:ADDRESS, but got 'slurm'"),
        ("budget --data cifar", "'cifar' is neither one of digits, fashion-mnist nor the folder of a catalog"),
        ("noise --methods uniform,magic", "unknown methods 'magic': give some of uniform, swift"),
        ("noise --validation dirty", "unknown validation 'dirty': give some of clean, noisy"),
        (
            "noise --noise 0.4,x",
            "--noise must be shares of wrong labels such as 0.4 or a file such as labels.npy, but got 'x'",
        ),
        ("noise --noise 1", "0 <= noise < 1"),
        ("noise --seeds 0,0", "seeds must be given and differ, but got [0, 0]"),
        ("noise --rank-study 2", "a rank study needs at least 3 candidates, but got 2"),
        ("noise --data cifar", "no plan for 'cifar': give one of digits, fashion-mnist"),
        ("transfer --data letters", "no plan for 'letters'"),
        ("transfer --targets mlp", "also from the source mlp"),
        ("transfer --seeds 0,0", "seeds must be given and differ"),
        ("transfer --noise 1", "`0 <= noise < 1`"),
        ("language --heads 3", "`width` must be a multiple of the heads, but got 64 and 3"),
        ("language --shuffled 1", "`0 <= shuffled < 1` must hold"),
        ("language --seeds 0,0", "seeds must be given and differ"),
        ("novel --data digits --novel 8", "10 classes, but 8 held out leave fewer than 3"),
        ("novel --data digits --novel 1", "at least 2 classes must be held out"),
        ("novel --data digits --methods drop", "methods must be some of uniform, swift, swift-cgf"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, command, text):
    out = () if command.startswith(("stream", "loader")) else ("-o", tmp_path / "out")
    told = cli("bench", *command.split(), *out, status=2)
    assert text in told and told.count("\n") == 1 and not (tmp_path / "out").exists()
