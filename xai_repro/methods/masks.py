"""Masks of the image, weighed by the score of what they leave: random ones, and one for every collection of similar feature maps."""

import numpy as np
import torch
import torch.nn.functional as F

from xai_repro.errors import whole_number
from xai_repro.methods import lifts
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.network.forward import predict, top1
from xai_repro.network.pyramid import pyramid
from xai_repro.network.target import probabilities, resolve_target, target_logit
from xai_repro.numerics.algebra import normalize, ratio, wide
from xai_repro.numerics.clustering import best_partition
from xai_repro.registry import method

ROUNDING = 2e-6  # of the largest value: what lies no further apart is equal but for the rounding of float32


@method("rise", family="masks", cite="petsiuk2018rise")
def rise(model, x, y=None, *, masks=4000, cells=7, keep=0.5, seed=0, chunk=None):
    """Random masks, averaged with the probability that the class has in what they leave of the image.

    M_ij = 1/(N p) sum_n p_y(x H_n) H_nij, H_n = shift_n(up(B_n)), B_n in {0,1}^(s x s), P(B_nuv = 1) = p   [Petsiuk et al. 2018, eq. 6]

    M [B,H,W] >= 0, a probability with a large constant share (see `normalize`). masks: N, 4000 on VGG16 and 8000 on ResNet50 in
    the paper; cells: s, 7; keep: p, 0.5. The same masks, drawn from the seed, serve every image. chunk: masked images per forward
    pass. Costs N forward passes and, where y is not given, one more.
    Raises ValueError for fewer than one mask or cell and for a share outside (0,1].
    *Deviation*: the released code leaves out 1/(N p) for batches.
    """
    whole_number("masks", masks)
    whole_number("cells", cells)
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; a share in (0,1] is needed")
    y = top1(model, x, y)
    grids, shifts = draw_grids(masks, cells, keep, seed)
    B, size = len(x), x.shape[-2:]
    total = torch.zeros(B, size.numel(), device=x.device, dtype=wide(x).dtype)

    def scores(rows):
        """Adds what some (mask, image) pairs contribute to the total."""
        first, last = rows.start // B, (rows.stop - 1) // B
        H = random_masks(grids[first : last + 1].to(x), shifts[first : last + 1].to(x.device), size)
        pair = torch.arange(rows.start, rows.stop, device=x.device)
        of, image = pair // B - first, pair % B
        p = target_logit(probabilities(model, predict(model, x[image] * H[of, None], len(pair))), y[image])
        weights = total.new_zeros(B, len(H)).index_put((image, of), p.to(total))
        total.add_(weights @ H.flatten(1).to(total))
        return p

    in_chunks(scores, masks * B, default_chunk(x) if chunk is None else chunk)
    return (total / (masks * keep)).unflatten(1, size)


def draw_grids(masks, cells, keep, seed):
    """Grids B [N,s,s] of zeros and ones, and shifts [N,2] as fractions of a cell."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(masks, cells, cells, generator=generator) < keep, torch.rand(masks, 2, generator=generator)


def random_masks(grids, shifts, size):
    """Masks H [n,H,W] in [0,1]: grids [n,s,s] upsampled to one cell more than the image on each side, then cut at the shifts."""
    cells = grids.shape[-1]
    cell = [-(-side // cells) for side in size]
    large = lifts.upsample(grids, [(cells + 1) * side for side in cell])
    rows, columns = ((shifts[:, d] * cell[d]).long()[:, None] + torch.arange(size[d], device=shifts.device) for d in (0, 1))
    return large[torch.arange(len(grids), device=grids.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


@method("collection-cam", family="masks", cite="collection_cam")
def collection_cam(
    model, x, y=None, *, layers="all", layout=None, least=2, most=10, theta=0.1, denoise="quantile", score="logit", standardize=False,
    chunk=None,
):  # fmt: skip
    """Similar feature maps of several layers are put together into one mask each, and the masks are weighed by the score of what they leave.

    M_ij = sum_n alpha_n H_nij, alpha = softmax over the masks of all layers of S(x H_n),
    H_n = scale(denoise(up(ReLU(sum_{k in C_n} V_kij)))), V_k = A_k 1[G_k > 0], in the last layer V_k = A_k (1/Z) sum_ij G_kij
    [Collection-CAM, eqs. 17 to 25]

    The collections C_n of a layer are the clusters of psi_k = (mean A_k, std A_k, mean G_k, std G_k) in the partition of Ward's
    hierarchy with the largest `dsra` [eqs. 5 to 16]. M [B,H,W] in [0,1]. layers: the ends of all stages ("all"), of the last n, or
    names, from the input to the logits; layout: how they hold the maps. least, most: the number of collections of a layer; the paper gives no range, without which
    every feature map would be its own collection, and its times fit 4 to 7 masks a layer. theta, 0.1: what is not above this
    quantile of a mask becomes 0, or, with denoise="max-fraction", what is not above this fraction of its maximum (the paper writes
    "percentile", which at 0.1 does nothing). score: what S is, "logit" or "probability" (left open; the softmax over masks is
    argued for with unbounded scores). standardize: scale psi to unit variance over the channels first (the paper does not; the
    gradients then hardly count). chunk: masked images per forward pass. Costs one forward and backward pass to the first layer and
    one forward pass per mask that is not empty.
    Raises ValueError for a range, fraction or name that is not possible, and for a model whose stages are not known.
    *Deviation*: the score S(X_b) of an empty image is not subtracted, since it cancels in the softmax. Algorithm 1 upsamples before
    the ReLU, the equations after it; the equations are followed. "Above" the quantile, and above 0 of a gradient, means by more than
    2e-6 of the largest value: the border of an upsampled map repeats its values, so that the quantile often lies on several pixels at
    once, and rounding alone would keep or cut them.
    """
    if not 1 <= least <= most:
        raise ValueError(f"least is {least}, most is {most}; 1 <= least <= most is needed")
    if not 0 <= theta < 1:
        raise ValueError(f"theta is {theta}; a fraction in [0,1) is needed")
    if denoise not in ("quantile", "max-fraction"):
        raise ValueError(f"denoise is '{denoise}'; possible: quantile, max-fraction")
    if score not in ("logit", "probability"):
        raise ValueError(f"score is '{score}'; possible: logit, probability")
    pairs, y = pyramid(model, x, y, layers, layout)
    pairs = [tuple(map(wide, pair)) for pair in pairs]
    shallow, (A, G) = [A * above(G, 0) for A, G in pairs[:-1]], pairs[-1]
    values = [*shallow, A * G.mean((2, 3), keepdim=True)]
    found = [collect(V, membership(features(A, G, standardize), least, most)) for (A, G), V in zip(pairs, values)]
    found = [(small, image) for small, image in found if len(image)]
    chunk, total = default_chunk(x) if chunk is None else chunk, torch.zeros_like(wide(x[:, 0]))
    if not found:
        return total

    def masks(small):
        H = lifts.upsample(small, x.shape[-2:])
        floor = H.flatten(1).quantile(theta, 1) if denoise == "quantile" else theta * H.amax((1, 2))
        return normalize(H * above(H, floor[:, None, None]))

    def scores(small, image):
        logits = predict(model, x[image] * masks(small)[:, None].to(x), len(image))
        return target_logit(logits if score == "logit" else probabilities(model, logits), y[image])

    S = torch.cat([in_chunks(lambda rows: scores(small[rows], image[rows]), len(image), chunk) for small, image in found])
    images, place = torch.cat([image for _, image in found]), torch.arange(len(S), device=S.device)
    alpha = S.new_full((len(x), len(S)), -torch.inf).index_put((images, place), S).softmax(1)[images, place]
    for (small, image), weights in zip(found, alpha.split([len(image) for _, image in found])):
        for rows in place[: len(image)].split(chunk):  # made again, rather than kept
            total.index_add_(0, image[rows], weights[rows, None, None] * masks(small[rows]))
    return total


def above(values, floor):
    """Where values [B,...] are above a floor by more than rounding, each image by the measure of its own largest value."""
    return values > floor + ROUNDING * values.abs().amax(tuple(range(1, values.dim())), keepdim=True)


def features(A, G, standardize=False):
    """psi [B,K,4]: mean and (population) standard deviation over the positions of A and of G   [Collection-CAM, eq. 5]."""
    psi = torch.stack([statistic for T in (A, G) for statistic in (T.mean((2, 3)), T.std((2, 3), correction=0))], 2)
    if not standardize:
        return psi
    return ratio(psi - psi.mean(1, keepdim=True), psi.std(1, keepdim=True, correction=0))


def membership(psi, least, most):
    """Which channels make up each collection, [B,most,K] of zeros and ones; rows of zeros where there are fewer collections."""
    labels = np.stack([best_partition(one, least, most) for one in psi.double().cpu().numpy()])
    return (torch.as_tensor(labels, device=psi.device)[:, None] == torch.arange(labels.max() + 1, device=psi.device)[:, None]).to(psi)


def collect(V, members):
    """The sums of V [B,K,h,w] over each collection, after ReLU: [n,h,w] those that are not empty, and their images [n]."""
    small = torch.einsum("bnk,bkij->bnij", members, V).relu()
    live = small.amax((2, 3)) > 0
    return small[live], live.nonzero()[:, 0]
