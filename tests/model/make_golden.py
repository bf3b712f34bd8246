"""Makes the golden files with PyTorch (>= 2.4, CPU), which nothing else here needs.

    python tests/model/make_golden.py conformer_layer --dim 32 --layers 1 --mels 40

This wrote tests/model/conformer_layer.npz with PyTorch 2.14.1. The twin follows the layout of
torchaudio.models.Conformer with FFN width = dim, a Linear before it, the mean over time and a
Linear to 128 after it, then L2 normalisation. Weights and BatchNorm statistics are random, dropout
is off. OUT.npz holds: input [B, T, F] float32; every parameter and buffer under its PyTorch name
(Linear weights are [out, in], Conv1d weights [out, in/groups, k], in_proj_weight stacks Q, K, V);
output_eval [B, 128] (BatchNorm by running statistics); output_train [B, 128] (BatchNorm by the
batch); loss [], grad_input [B, T, F] and grad:<parameter name> of NT-Xent over output_train, where
rows i and i + B/2 are a pair, temperature 0.07.
"""

import argparse

import numpy as np
import torch
from torch import nn

_SIZES = {"dim": 64, "layers": 2, "heads": 4, "frames": 47, "mels": 80, "batch": 6, "seed": 0}


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.sequential = nn.Sequential(
            nn.LayerNorm(d),
            nn.Linear(d, d),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Linear(d, d),
            nn.Dropout(0.0),
        )

    def forward(self, x):
        return self.sequential(x)


class ConvModule(nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.layer_norm = nn.LayerNorm(d)
        self.pointwise_in = nn.Conv1d(d, 2 * d, 1)
        self.depthwise = nn.Conv1d(d, d, k, padding=(k - 1) // 2, groups=d)
        self.norm = nn.BatchNorm1d(d)
        self.pointwise_out = nn.Conv1d(d, d, 1)

    def forward(self, x):
        y = self.layer_norm(x).transpose(1, 2)
        y = nn.functional.glu(self.pointwise_in(y), dim=1)
        y = nn.functional.silu(self.norm(self.depthwise(y)))
        return self.pointwise_out(y).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, d, h, k):
        super().__init__()
        self.ffn1 = FeedForward(d)
        self.ffn2 = FeedForward(d)
        self.attn_norm = nn.LayerNorm(d)
        self.attn = nn.MultiheadAttention(d, h, batch_first=True)
        self.conv = ConvModule(d, k)
        self.final_norm = nn.LayerNorm(d)

    def forward(self, x):
        x = x + 0.5 * self.ffn1(x)
        y = self.attn_norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        x = x + self.conv(x)
        x = x + 0.5 * self.ffn2(x)
        return self.final_norm(x)


class Encoder(nn.Module):
    def __init__(self, mels, d, layers, heads, k=5, embedding=128):
        super().__init__()
        self.input = nn.Linear(mels, d)
        self.layers = nn.ModuleList([Layer(d, heads, k) for _ in range(layers)])
        self.output = nn.Linear(d, embedding)

    def forward(self, x):
        x = self.input(x)
        for layer in self.layers:
            x = layer(x)
        return nn.functional.normalize(self.output(x.mean(1)), dim=-1)


def nt_xent(z, temperature):
    n = z.shape[0]
    logits = (z @ z.T / temperature).masked_fill(torch.eye(n, dtype=torch.bool), float("-inf"))
    return nn.functional.cross_entropy(logits, (torch.arange(n) + n // 2) % n)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    for name, value in _SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = Encoder(args.mels, args.dim, args.layers, args.heads)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if "running_mean" in name:
                b.normal_(0, 0.3)
            if "running_var" in name:
                b.uniform_(0.5, 1.5)
    x = torch.randn(args.batch, args.frames, args.mels, requires_grad=True)
    out = {"input": x.detach().numpy()}
    out |= {k: v.detach().clone().numpy() for k, v in model.state_dict().items()}
    model.eval()
    out["output_eval"] = model(x).detach().numpy()
    model.train()
    z = model(x)
    loss = nt_xent(z, 0.07)
    loss.backward()
    out |= {"output_train": z.detach().numpy(), "loss": loss.detach().numpy()}
    out |= {"grad_input": x.grad.numpy()}
    out |= {f"grad:{k}": p.grad.numpy() for k, p in model.named_parameters()}
    np.savez_compressed(args.out, **out)
    print("parameters", sum(p.numel() for p in model.parameters()), "loss", loss.item())


if __name__ == "__main__":
    main()
