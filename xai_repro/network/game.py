"""The game of the channels: v(a') = logit of the class when only the channels with a'_k = 1 keep their activations.

Where the head begins with per-channel operations followed by a linear map (global pooling or VGG's pool, flatten and first
fully connected layer; a convolution), its pre-activation is a sum over channels, z(a') = z_0 + sum_k a'_k u_k: removing or
adding a channel is one vector addition, and only what follows z runs again. Any other head runs whole on masked activations.
"""

import torch
import torch.nn.functional as F
from torch import nn

from xai_repro.network.chunks import in_chunks
from xai_repro.network.borrow import borrowed
from xai_repro.network.forward import evaluating
from xai_repro.network.standin import NeedsValues
from xai_repro.numerics.algebra import wide

ELEMENTS = {"cpu": 2**20}  # of z per forward pass of the rest of the head, unless a chunk is given; elsewhere 2**24


class Game:
    """The game of the channels of some of the images of a split, [B] of them.

    u [B,K,D...] and z0 [B,D...], in float32 at least: contributions of the channels to the pre-activation and its value without any; None for a
    head that does not begin so. linear: whether the logit itself is z0 + sum_k u_k (then u is [B,K,1]).
    """

    def __init__(self, split, y, rows, chunk=None):
        self.split, self.y, self.of = split, y[rows], torch.arange(len(split.A), device=split.A.device)[rows]
        self.A, self.channels = split.A[rows], split.A.shape[1]
        self.z0, self.u, self.linear = borrowed(split.model, lambda: _contributions(split, self.of, self.y))
        size = self.A[0].numel() if self.u is None else self.u[0, 0].numel()
        self.chunk = max(1, ELEMENTS.get(split.A.device.type, 2**24) // size) if chunk is None else chunk

    def values(self, present):
        """v [B,n] of coalitions: present [n,K], 1 where a channel keeps its activations."""
        def of_some(cells):
            if self.u is None:
                z = self.A[:, None] * present[cells, :, None, None].to(self.A)
            else:
                z = self.z0[:, None] + torch.einsum("nk,bk...->bn...", present[cells].to(self.u), self.u)
            return self._score(z).T

        return in_chunks(of_some, len(present), max(1, self.chunk // len(self.A))).T

    def drops(self):
        """v(all) - v(all but k), [B,K]."""
        if self.linear:
            return self.u[..., 0]
        everything = torch.ones(1, self.channels, device=self.A.device)
        full = self.values(everything)
        if self.u is None:
            return full - self.values(1 - torch.eye(self.channels, device=self.A.device))
        z = self.z0 + self.u.sum(1)

        def of_some(cells):
            return self._score(z[:, None] - self.u[:, cells]).T

        return full - in_chunks(of_some, self.channels, max(1, self.chunk // len(self.A))).T

    def marginals(self, permutations):
        """sum over permutations [n,K] of v(predecessors of k and k) - v(predecessors of k), [B,K].

        Each permutation is worked off in stretches that fit the chunk; the prefix sum is carried from one to the next.
        The chunk is halved where memory runs out.
        """
        while True:
            try:
                return self._marginals(permutations)
            except torch.OutOfMemoryError:
                if self.chunk <= len(self.A):
                    raise
                self.chunk //= 2

    def _marginals(self, permutations):
        B, K = len(self.A), self.channels
        total, empty = wide(self.A).new_zeros(B, K), self.values(torch.zeros(1, K, device=self.A.device))
        together = max(1, self.chunk // (B * K))  # permutations at once
        stretch = min(K, max(1, self.chunk // B))
        for group in permutations.split(together):
            n, before, carry = len(group), empty.expand(B, len(group)), None
            for order in group.split(stretch, dim=1):  # [n,s]
                z, carry = self._prefixes(order, carry)  # [B,n,s,...]
                v = self._score(z.flatten(1, 2)).view(B, n, -1)
                gains = v.diff(dim=2, prepend=before[..., None])
                total.scatter_add_(1, order.flatten().expand(B, -1), gains.flatten(1))
                before = v[..., -1]
        return total

    def _prefixes(self, order, carry):
        """Pre-activations after each of the channels of order [n,s] has joined those of carry, and the new carry."""
        if self.u is None:
            joined = F.one_hot(order, self.channels).cumsum(1)
            joined = joined if carry is None else joined + carry
            return self.A[:, None, None] * joined[..., None, None].to(self.A), joined[:, -1:]
        z = self.u[:, order].cumsum(2) + (self.z0[:, None, None] if carry is None else carry)
        return z, z[:, :, -1:]

    def _score(self, z):
        """Logits [B,n] of the pre-activations (or, without contributions, activations) z [B,n,...]."""
        if self.linear:
            return z[..., 0]
        B, n = z.shape[:2]
        of, y = self.of.repeat_interleave(n), self.y.repeat_interleave(n)
        with torch.no_grad():
            scores = self.split.scores(z.flatten(0, 1).to(self.A), y, of, beyond_first=self.u is not None)
        return wide(scores).view(B, n)


def _contributions(split, of, y):
    """z0, u and whether the head is linear; (None, None, False) for a head without channel contributions."""
    first, A, nothing = split.first, split.A[of], (None, None, False)
    K = A.shape[1]
    conv = isinstance(first, nn.Conv2d)
    if not isinstance(first, (nn.Linear, nn.Conv2d)) or conv and (first.groups > 1 or first.padding_mode != "zeros"):
        return nothing
    with evaluating(split.model), torch.no_grad():
        present = (torch.arange(K, device=A.device) % 2).to(A)[:, None, None]  # every other channel: is the head what it looks?
        inputs = split.first_input(torch.cat([A, torch.zeros_like(A), A * present]), of.repeat(3)).chunk(3)
        if inputs[0].dim() != (4 if conv else 2) or inputs[0].shape[1] % K or (conv and inputs[0].shape[1] != K):
            return nothing
        p, p0, some = (wide(rows).reshape(len(of), K, -1) for rows in inputs)
        if not _equal(some, torch.where(present[..., 0] > 0, p, p0), 1e-5 * p):
            return nothing
        W, z, z0 = wide(first.weight), wide(first(inputs[0])), wide(first(inputs[1]))
        linear = split.first is split.last
        if linear:  # the class's row alone
            z, z0 = (rows.gather(1, y[:, None]) for rows in (z, z0))
            u = torch.einsum("bkm,bkm->bk", p - p0, W.view(len(W), K, -1)[y])[..., None]
        elif conv:
            each = W.transpose(0, 1).reshape(-1, 1, *W.shape[2:])  # every channel convolved by itself
            settings = dict(stride=first.stride, padding=first.padding, dilation=first.dilation)
            u = F.conv2d((p - p0).view_as(inputs[0]), each, groups=K, **settings).unflatten(1, (K, -1))
        else:
            u = torch.einsum("bkm,dkm->bkd", p - p0, W.view(len(W), K, -1))
        if not _equal(z0 + u.sum(1), z, 1e-3 * u.abs().sum(1)):  # a layer that only looks linear
            return nothing
        if not linear:
            try:  # whether the logits rest on this pre-activation alone: a shortcut around it would show
                again = split.scores(z.to(A), y, of, beyond_first=True)
            except NeedsValues:
                return nothing
            if not _equal(wide(again), split.logits[of].gather(1, y[:, None])[:, 0], 1e-3 * split.logits):
                return nothing
    return z0, u, linear


def _equal(a, b, error):
    """Equal but for rounding and the largest value of error."""
    return bool(((a - b).abs() <= error.abs().max() + 1e-6 * b.abs().max()).all())
