"""Samplers know nothing of images: Swift Sampler on a language model, over word frequency and perplexity.

    python -m drawstream.tools.examples.text

The text is Python's reference (`pydoc_data.topics`, in every installation), cut into windows of 16 words; in a share
of the training windows the words are shuffled, as by a bad extraction from PDFs. A small network is trained uniformly;
each window then has two features, and from there all is as with images: search over probabilities, an index
stream for the order, the uniform control beside it on test windows that chose nothing. All trainings that are compared
draw the same number of windows; what the search itself costs is in the time printed last.
"""

import argparse
import re
import time
from collections import Counter
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream import Guard, IndexStream, Proposals, Trial, call_measure, search_swift

WORDS, VOCABULARY, BATCH, LR = 16, 1000, 64, 0.01


@dataclass(frozen=True, slots=True)
class Text:
    """Windows of words as numbers, int64 (rows, 17): the model reads 16 and predicts each next one.

    Attributes:
        train: What samplers draw from.
        held_out: Chooses the sampler.
        test: Reports; chooses nothing.
        shuffled: Which training windows have lost their order; the methods are not told.
        frequency: Mean log frequency of the words of a training window, float32 (rows,).
    """

    train: Tensor
    held_out: Tensor
    test: Tensor
    shuffled: NDArray[np.bool_]
    frequency: NDArray[np.float32]


def read_text(limit: int, shuffled: float, seed: int) -> Text:
    """Cut the reference into windows, deal them out in blocks, shuffle the words of a share of the training rows."""
    words = re.findall(r"[A-Za-z_]+|[^\sA-Za-z_]", " ".join(topics.values()).lower())
    ranked = [word for word, _ in Counter(words).most_common(VOCABULARY - 1)]
    number = {word: i + 1 for i, word in enumerate(ranked)}  # 0: any other word
    ids = np.array([number.get(word, 0) for word in words])
    rows = min((len(ids) - 1) // WORDS, limit)
    windows = np.stack([ids[i * WORDS : i * WORDS + WORDS + 1] for i in range(rows)])
    part = (np.arange(rows) // 25) % 10  # blocks of 25 windows: neighbours are on one side
    rng = np.random.default_rng(seed)
    train = windows[part < 8]
    chosen = rng.random(len(train)) < shuffled
    train[chosen] = rng.permuted(train[chosen], axis=1)
    counts = np.bincount(train.ravel(), minlength=VOCABULARY) / train.size
    frequency = np.log(counts[train]).mean(1).astype(np.float32)
    held_out, test = (torch.from_numpy(windows[part == side]) for side in (8, 9))
    return Text(torch.from_numpy(train), held_out, test, chosen, frequency)


class Model(nn.Module):
    """A next-word model of two words of context (Bengio et al., 2003), output layer and embedding shared."""

    def __init__(self, seed: int, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words = nn.Embedding(VOCABULARY, width)
            nn.init.normal_(self.words.weight, std=0.1)
            self.mix = nn.Linear(2 * width, width)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits (n, 16, vocabulary) of windows (n, 16)."""
        now: Tensor = self.words(windows)
        before = F.pad(now, (0, 0, 1, 0))[:, :-1]
        states = torch.tanh(self.mix(torch.cat([now, before], dim=2)))
        return states @ self.words.weight.T


def perplexity(logits: Tensor, targets: Tensor, activations: Tensor | None) -> dict[str, Tensor]:  # noqa: ARG001
    """A measure as `drawstream features --measure` takes it; logits (n, 16, vocabulary), targets (n, 16)."""
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return {"perplexity": loss.view(targets.shape).mean(1).exp()}


@torch.inference_mode()
def score(model: Model, windows: Tensor) -> NDArray[np.float32]:
    """Perplexity of every window, float32 (rows,)."""
    model.eval()
    parts = [call_measure(perplexity, model(w[:, :-1]), w[:, 1:], None) for w in torch.split(windows, 512)]
    return torch.cat([part["perplexity"] for part in parts]).numpy()


def corpus_perplexity(model: Model, windows: Tensor) -> float:
    """The exponential of the mean loss over all words."""
    return float(np.exp(np.log(score(model, windows)).mean()))


def train(model: Model, windows: Tensor, stream: IndexStream, epochs: int, lr: float) -> Model:
    """Train; the stream says which windows come when, and that is all a sampler does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    steps = len(stream.epoch(0)) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    model.train()
    for epoch in range(epochs):
        order = stream.epoch(epoch)
        for step in range(steps):
            batch = windows[torch.from_numpy(order[step * BATCH : (step + 1) * BATCH])]
            loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model


def run(*, limit: int, shuffled: float, epochs: int, trials: int, confirm_seeds: int, seeds: int) -> dict[str, Any]:
    """Features, search, and the final comparison; prints as it goes and returns the numbers."""
    begin = time.perf_counter()
    text = read_text(limit, shuffled, seed=0)
    rows = len(text.train)
    print(f"{rows} training windows of {WORDS} words, {text.shuffled.mean():.0%} of them shuffled")
    start = train(Model(0), text.train, IndexStream(rows, seed=0), 2 * epochs, LR)
    columns = {"frequency": text.frequency, "perplexity": score(start, text.train)}
    for name, values in columns.items():
        plain, mixed = (float(np.median(values[side])) for side in (~text.shuffled, text.shuffled))
        print(f"  median {name}: {plain:.2f}, of shuffled windows {mixed:.2f}")

    def objective(p: NDArray[np.float64], trial: Trial) -> float:
        """Minus the perplexity on held-out windows: fine-tuned in the search, from scratch in the confirmation."""
        searching = trial.stage == "search"
        seed = 0 if searching else trial.seed
        model = Model(seed)
        if searching:
            model.load_state_dict(start.state_dict())
        stream = IndexStream(p, mode="stratified", seed=seed)
        train(model, text.train, stream, 1 if searching else epochs, LR / 4 if searching else LR)
        return -corpus_perplexity(model, text.held_out)

    found = search_swift(
        columns,
        objective,
        features=[*columns],
        mass=None,
        transform="cdf",
        proposals=Proposals(trials),
        guard=Guard(confirm_top=2, confirm_seeds=confirm_seeds),
    )
    drawn = float(found.probabilities[text.shuffled].sum())
    print(f"  {found.message}\n  share of shuffled windows among those drawn: {drawn:.0%}")
    results: dict[str, Any] = {"winner": found.winner, "shuffled_drawn": drawn}
    for name, weights in (("uniform", np.full(rows, 1 / rows)), ("swift", found.probabilities)):
        streams = {seed: IndexStream(weights, mode="stratified", seed=seed) for seed in range(100, 100 + seeds)}
        models = [train(Model(seed), text.train, stream, epochs, LR) for seed, stream in streams.items()]
        reached = results[name] = [corpus_perplexity(model, text.test) for model in models]
        print(f"  test perplexity, {name:8}{''.join(f'{x:8.2f}' for x in reached)}   mean {np.mean(reached):.2f}")
    print(f"  {time.perf_counter() - begin:.0f} s")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=6000, help="windows to take of the text")
    parser.add_argument("--shuffled", type=float, default=0.4, help="share of training windows with shuffled words")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--confirm-seeds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of the final comparison")
    torch.set_num_threads(1)  # layers this small run no faster on two
    run(**vars(parser.parse_args()))
