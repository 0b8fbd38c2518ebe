"""A small GPT (Radford et al. 2018): decoder blocks with causal attention, embedding and output layer shared."""

import torch
from torch import Tensor, nn

__all__ = ["GPT"]


class GPT(nn.Module):
    """Logits of the next word.

    Args:
        words: V.
        length: L, the most words that it reads.
        width: Of the embedding; a multiple of `heads`.
        layers: Blocks.
        heads: Of the attention.
        seed: Of the initial weights.
        dropout: Share of activations that are left out in training.
    """

    def __init__(
        self, words: int, length: int, /, *, width: int, layers: int, heads: int, seed: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
            for table in (self.words, self.places):
                nn.init.normal_(table.weight, std=0.02)
            block = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
            for parameter in self.blocks.parameters():  # all copies of one block begin alike
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits (n, l, V) of windows int64 (n, l), l <= L."""
        length = windows.shape[1]
        x = self.words(windows) + self.places.weight[:length]
        ahead = nn.Transformer.generate_square_subsequent_mask(length, device=windows.device)
        states: Tensor = self.blocks(x, mask=ahead, is_causal=True)
        return states @ self.words.weight.T
