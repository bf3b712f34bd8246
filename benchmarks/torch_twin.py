"""The encoder's twin in eager PyTorch, for benchmarks/train_step.py: torchaudio's conformer layout
with FFN width = dim.

The same parameters under the names that confp_jax.model.from_torch reads; dropout sits where ours
does. Needs PyTorch (`pip install torch`), which nothing else here does.
"""

import torch
from torch import nn

from confp_jax.config import EncoderConfig
from confp_jax.model.parts import pooling_weights


class FeedForward(nn.Module):
    """LayerNorm, Linear, SiLU, dropout, Linear, dropout."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        dim = config.dim
        dropout = config.dropout
        self.sequential = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, dim),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, D]."""
        return self.sequential(x)


class Convolution(nn.Module):
    """LayerNorm, pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise, dropout."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        dim = config.dim
        kernel = config.conv_kernel
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_in = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.has_layer_norm = config.conv_norm == "layer"
        self.norm = nn.LayerNorm(dim) if self.has_layer_norm else nn.BatchNorm1d(dim)
        self.pointwise_out = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, D]."""
        y = nn.functional.glu(self.pointwise_in(self.layer_norm(x).transpose(1, 2)), dim=1)
        y = self.depthwise(y)
        y = self.norm(y.transpose(1, 2)).transpose(1, 2) if self.has_layer_norm else self.norm(y)
        y = nn.functional.silu(y)
        return self.dropout(self.pointwise_out(y)).transpose(1, 2)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, LayerNorm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.ffn1 = FeedForward(config)
        self.ffn2 = FeedForward(config)
        self.attn_norm = nn.LayerNorm(config.dim)
        self.attn = nn.MultiheadAttention(
            config.dim, config.num_heads, dropout=config.dropout, batch_first=True
        )
        self.attn_dropout = nn.Dropout(config.dropout)
        self.conv = Convolution(config)
        self.final_norm = nn.LayerNorm(config.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, D]."""
        x = x + 0.5 * self.ffn1(x)
        y = self.attn_norm(x)
        x = x + self.attn_dropout(self.attn(y, y, y, need_weights=False)[0])
        x = x + self.conv(x)
        x = x + 0.5 * self.ffn2(x)
        return self.final_norm(x)


class TorchEncoder(nn.Module):
    """Linear, conformer blocks, mean over time (of overlapping parts), Linear, L2: all of
    confp_jax.model.encoder's options.
    """

    def __init__(self, config: EncoderConfig, *, num_mels: int, num_frames: int):
        super().__init__()
        self.frames_per_token = config.frames_per_token
        tokens = num_frames // config.frames_per_token
        self.register_buffer(
            "pooling",
            torch.from_numpy(pooling_weights(tokens, config.pool_segments)),
            persistent=False,
        )
        self.input = nn.Linear(num_mels * config.frames_per_token, config.dim)
        self.layers = nn.ModuleList([ConformerBlock(config) for _ in range(config.num_layers)])
        self.output = nn.Linear(config.dim * config.pool_segments, config.embedding_dim)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Log-mel frames [B, T, F] to unit vectors [B, E]."""
        batch, num_frames, num_mels = frames.shape
        tokens = num_frames // self.frames_per_token
        x = self.input(
            frames[:, : tokens * self.frames_per_token].reshape(
                batch, tokens, self.frames_per_token * num_mels
            )
        )
        for layer in self.layers:
            x = layer(x)
        pooled = torch.einsum("pt,btd->bpd", self.pooling, x).reshape(batch, -1)
        return nn.functional.normalize(self.output(pooled), dim=-1)


def compute_nt_xent(embeddings: torch.Tensor, temperature: float) -> torch.Tensor:
    """NT-Xent where rows 2i and 2i + 1 are a pair, as in training/losses.py."""
    rows = torch.arange(len(embeddings))
    logits = (embeddings @ embeddings.T / temperature).masked_fill(
        torch.eye(len(rows), dtype=torch.bool), float("-inf")
    )
    return nn.functional.cross_entropy(logits, rows ^ 1)
