"""Agreement: of coefficients with those of a reference, and of maps with those of another training of the same network."""

from collections import OrderedDict

import torch

from xai_repro.errors import NotApplicable
from xai_repro.explain import coefficients
from xai_repro.metrics.similarity import overlap, overlap_of_rows, THRESHOLD
from xai_repro.registry import method_info, metric
from xai_repro.store.fingerprint import digest, of_model

_KNOWN = OrderedDict()  # references computed last, since the same ones serve every method that is compared
KEPT = 256


@metric("cosine-to", higher_is_better=True, cite="lift_cam", maps="coefficients")
def cosine_to(model, x, y, alpha, truth=None, *, reference="shap-cam", permutations=10_000, sampling="plain", seed=1, layer=None):
    """The cosine between a method's coefficients and those of a reference, by default SHAP-CAM with 10,000 permutations.

    <alpha_b, beta_b> / (|alpha_b| |beta_b|), beta: the reference's coefficients   [LIFT-CAM supplement, tables 1, 2 and 6]

    In [-1,1] per image; NaN where either has no length. permutations, sampling, seed, layer: of the reference, as far as it has
    them; the layer has to be that of the method. Raises ValueError for another number of channels.

    *Misleads*: It compares coefficients, not maps: a channel that is off on the whole image counts as much as any other, and maps that differ
    little can have coefficients that differ much. A method that is close to the reference is as good as the reference, and no better.
    """
    settings = {"permutations": permutations, "sampling": sampling, "seed": seed, "layer": layer}
    settings = {name: value for name, value in settings.items() if name in method_info(reference).hyper}
    content = [tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in (x, y)]
    key = digest(of_model(model), *content, reference, settings)
    if key not in _KNOWN:
        _KNOWN[key] = coefficients(model, x, y, reference, **settings).cpu()
        while len(_KNOWN) > KEPT:
            _KNOWN.popitem(last=False)
    beta = _KNOWN[key].to(alpha)
    if alpha.shape != beta.shape:
        raise ValueError(f"{alpha.shape[1]} coefficients for a reference of {beta.shape[1]} channels: name the method's layer with layer=...")
    length = alpha.norm(dim=1) * beta.norm(dim=1)
    return torch.where(length > 0, (alpha * beta).sum(1) / length, torch.nan)


@metric("stability-iou", higher_is_better=True, cite="lfi_cam")
def stability_iou(model, x, y, maps, truth=None, *, others=None, threshold=THRESHOLD, rows=False):
    """How much of what a map shows is where another training of the same network has it: intersection over union of their largest values.

    |U and V| / |U or V|, U, V: where a map scaled to [0,1] is above the threshold   [LFI-CAM, released code and its figure; the supplement's section 2.3 has pictures alone]

    In [0,1]; NaN where a map is constant. others: maps [B,H,W] of the same images by the same method on the other network, or one map [1,H,W] for all. threshold: 100/255,
    as in the released code. rows: the mean over rows of pixels, as that code has it (`similarity.overlap_of_rows`). The study of all trainings is
    `study.stability`. Raises NotApplicable without others, ValueError for others of another shape.

    *Misleads*: A map that does not look at the network is perfectly stable: the same blob in the middle of every image has 1. And wide maps
    overlap by chance.
    """
    if others is None:
        raise NotApplicable("stability-iou compares maps with those of another training: others=maps; the study of several trainings is xai_repro.study.stability")
    if others.shape[1:] != maps.shape[1:] or len(others) not in (1, len(maps)):
        raise ValueError(f"others are maps {list(others.shape)}; {list(maps.shape)} are needed, those of the same images")
    others = others.to(maps).expand_as(maps)
    return (overlap_of_rows if rows else overlap)(maps, others, threshold)
