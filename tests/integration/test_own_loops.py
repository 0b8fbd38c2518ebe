"""Loaders and samplers in the loops of Lightning, Accelerate and torch.distributed, as they come by default."""

import json

import pytest

from shared.processes import run, torchrun

COMMON = """
import json, sys, warnings
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from drawstream.pipeline import StreamBatchSampler, StreamDataLoader, StreamSampler
from drawstream import IndexStream

class Rows(Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, row):
        return row

def stream():
    return IndexStream(np.arange(1.0, 101), seed=0)

def order(epoch):
    return stream().epoch(epoch)[:].tolist()

def make(kind, rank=0, world_size=1, workers=0):
    options = {"rank": rank, "world_size": world_size}
    if kind == "loader":
        return StreamDataLoader(Rows(), stream(), batch_size=8, num_workers=workers, **options)
    if kind == "batches":
        sampler = StreamBatchSampler(stream(), batch_size=8, **options)
        return DataLoader(Rows(), batch_sampler=sampler, num_workers=workers)
    sampler = StreamSampler(stream(), batch_size=8, **options)
    return DataLoader(Rows(), batch_size=8, sampler=sampler, num_workers=workers)

def joined(ranks):
    "Rows of all ranks, step by step."
    return [row for step in zip(*ranks, strict=True) for part in step for row in part]

def gathered(mine):
    parts = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return parts
"""

LIGHTNING = """
import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

class Model(lightning.LightningModule):
    def __init__(self, kind="loader", workers=0, ranks=True):
        super().__init__()
        self.layer, self.given, self.seen = nn.Linear(1, 1), (kind, workers, ranks), []
    def train_dataloader(self):
        kind, workers, ranks = self.given
        where = (self.trainer.global_rank, self.trainer.world_size) if ranks else (0, 1)
        return make(kind, *where, workers)
    def training_step(self, rows, step):
        self.seen.append([self.current_epoch, rows.tolist()])
        return self.layer(torch.ones(1, 1)).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
    def rows(self, epoch):
        return [rows for at, rows in self.seen if at == epoch]

def fit(model, out, epochs=3, checkpoint=None, **options):
    keep = ModelCheckpoint(out, every_n_train_steps=4, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
    lightning.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[keep], logger=False, default_root_dir=out,
                      enable_progress_bar=False, enable_model_summary=False, **options).fit(
                      model, ckpt_path=checkpoint, weights_only=False)
    return model
"""


def result_of(tmp_path, code, *, processes=None):
    """The result.json that a script writes into its folder; under torchrun where `processes` are given."""
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    run(*(torchrun(processes, script) if processes else [script]), cwd=tmp_path)
    return json.loads((tmp_path / "result.json").read_text())


ONE_PROCESS = f"""{COMMON}{LIGHTNING}
result = {{}}
for kind in ("loader", "batches", "rows"):
    model = fit(Model(kind), f"{{kind}}-whole")
    result[kind] = [joined([model.rows(epoch)]) == order(epoch) for epoch in range(3)]
whole = fit(Model(), "whole").seen
for workers in (0, 2):
    for step in (4, 16, 24):
        model = fit(Model(workers=workers), f"again-{{workers}}-{{step}}", checkpoint=f"whole/step={{step}}.ckpt")
        result[f"{{workers}} workers from {{step}}"] = model.seen == whole[step:]
try:
    fit(Model("batches", workers=1), "refused", checkpoint="batches-whole/step=16.ckpt")
except ValueError as error:
    result["refused"] = str(error)
Path("result.json").write_text(json.dumps(result))
"""


def test_lightning_sets_the_epoch_and_restores_the_place(tmp_path):
    pytest.importorskip("lightning")
    result = result_of(tmp_path, ONE_PROCESS)
    text = result.pop("refused", "")
    assert "set_epoch(1) comes after workers of a DataLoader asked for rows of epoch 0" in text
    assert {name: flag for name, flag in result.items() if flag not in (True, [True] * 3)} == {} and len(result) == 9


ACCELERATE = f"""{COMMON}
from accelerate import Accelerator, skip_first_batches

accelerator = Accelerator(cpu=True)
rank, world_size = accelerator.process_index, accelerator.num_processes
result = {{}}

def rows_of(loader, set_epoch=None):
    found = []
    for epoch in range(2):
        if set_epoch:
            set_epoch(epoch)
        found.append(joined(gathered([rows.tolist() for rows in loader])))
    return found

def outcome(work):
    try:
        return work()
    except ValueError as error:
        return str(error)

loader = make("loader", rank, world_size, workers=1)
result["loader"] = rows_of(loader, loader.set_epoch) == [order(0), order(1)]
loader.set_epoch(2)
for number, _ in enumerate(loader, 1):
    if number == 3:
        break
accelerator.register_for_checkpointing(loader)
accelerator.save_state("state")
accelerator.wait_for_everyone()
loader.set_epoch(0)
accelerator.load_state("state")
result["restored"] = joined(gathered([rows.tolist() for rows in loader])) == order(2)[48:]
result["prepared loader"] = outcome(lambda: list(accelerator.prepare(make("loader", rank, world_size))))
result["skipped loader"] = outcome(lambda: list(skip_first_batches(make("loader", rank, world_size), 2)))
for kind in ("batches", "rows"):
    result[f"prepared {{kind}}"] = outcome(lambda: list(accelerator.prepare(make(kind, rank, world_size))))
    plain = make(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = rows_of(accelerator.prepare(plain))
    result[f"divided {{kind}}"] = [sorted(set(rows[epoch])) == sorted(set(order(epoch))) for epoch in range(2)]
    sampler = plain.batch_sampler if kind == "batches" else plain.sampler
    result[f"state {{kind}}"] = outcome(sampler.state_dict)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    list(make("loader")), list(make("batches"))
    result["warned"] = [str(each.message).split(",")[0] for each in caught]
if rank == 0:
    Path("result.json").write_text(json.dumps(result))
accelerator.end_training()
"""


def test_two_processes_under_accelerate(tmp_path):
    pytest.importorskip("accelerate")
    result = result_of(tmp_path, ACCELERATE, processes=2)
    assert result["loader"] is True and result["restored"] is True
    for name in ("prepared loader", "skipped loader"):
        assert "leave the loader out of accelerator.prepare" in result[name]
    for kind in ("batches", "rows"):
        assert "would divide once more what is the part of rank 0 of 2" in result[f"prepared {kind}"]
        assert result[f"divided {kind}"] == [True, True]
        assert "use StreamDataLoader" in result[f"state {kind}"]
    assert result["warned"] == ["torch.distributed has 2 processes"] * 2


TWO_PROCESSES = f"""{COMMON}{LIGHTNING}
import os
result = {{}}
for kind, ranks in (("loader", True), ("rows", True), ("rows", False)):
    model = fit(Model(kind, 1, ranks), f"{{kind}}-{{ranks}}", devices=2, strategy="ddp")
    seen = gathered(model.seen)
    for epoch in range(3):
        rows = joined([[rows for at, rows in each if at == epoch] for each in seen])
        exact = rows == order(epoch) if ranks else sorted(rows) == sorted(order(epoch))
        result[f"{{kind}} {{ranks}} {{epoch}}"] = exact
model = fit(Model("loader", 1), "again", devices=2, strategy="ddp", checkpoint="loader-True/step=8.ckpt")
seen = gathered(model.seen)
result["again"] = [joined([[rows for at, rows in each if at == epoch] for each in seen]) for epoch in range(3)] == [
    [], order(1)[16:], order(2)]
try:
    fit(Model("batches"), "refused", devices=2, strategy="ddp")
except TypeError as error:
    result["refused"] = str(error)
if model.trainer.global_rank == 0:
    Path("result.json").write_text(json.dumps(result))
"""


@pytest.mark.slow
def test_two_processes_under_lightning(tmp_path):
    pytest.importorskip("lightning")
    result = result_of(tmp_path, TWO_PROCESSES, processes=2)
    assert "set Trainer(use_distributed_sampler=False)" in result.pop("refused")
    assert {name: flag for name, flag in result.items() if flag is not True} == {} and len(result) == 10
