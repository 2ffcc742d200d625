"""Score-CAM: every activation map is tried as a mask of the image."""

import torch

from xai_repro.methods import lifts
from xai_repro.network.chunks import default_chunk, in_chunks
from xai_repro.network.forward import predict
from xai_repro.network.target import probabilities, target_logit
from xai_repro.numerics.algebra import normalize, wide
from xai_repro.registry import method


@method("score-cam", family="masks", cite="wang2020scorecam", lift=lifts.gradients)
def score_cam(split, y, *, weight="probability", chunk=None):
    """The probability of the class when the image is multiplied by an activation map is that map's coefficient.

    alpha_k = p_y(x H_k), H_k = (up(A_k) - min) / (max - min)   [Wang et al. 2020, algorithm 1]

    alpha [B,K]; 0 for a channel that is constant over the image, which is not tried: the cost is one forward pass per live
    channel and one more. weight: "probability" as in the released code; "softmax" for the paper's box, the softmax over the
    live channels of the logits S(x H_k) (a baseline S(X_b) would cancel); "increase" for p_y(x H_k) - p_y(X_b) with an image of
    zeros X_b [Collection-CAM, eqs. 1 to 3]. chunk: rows per forward pass.
    Raises ValueError for another weight.
    """
    if weight not in ("probability", "softmax", "increase"):
        raise ValueError(f"weight is '{weight}'; possible: probability, softmax, increase")
    A = wide(split.A)
    live = A.amax((2, 3)) > A.amin((2, 3))
    images, channels = live.nonzero(as_tuple=True)

    def scores(some):
        mask = normalize(lifts.upsample(A[images[some], channels[some]], split.x.shape[-2:]))
        logits = predict(split.model, split.x[images[some]] * mask[:, None].to(split.x), len(mask))
        return target_logit(logits if weight == "softmax" else probabilities(split.model, logits), y[images[some]])

    alpha = torch.full_like(A[..., 0, 0], -torch.inf if weight == "softmax" else 0)
    if len(images):
        alpha[live] = in_chunks(scores, len(images), default_chunk(split.x) if chunk is None else chunk)
    if weight == "increase":
        empty = probabilities(split.model, predict(split.model, torch.zeros_like(split.x[:1])))[0, y]
        alpha[live] -= empty[images]
    return alpha.softmax(1).nan_to_num(0) if weight == "softmax" else alpha
