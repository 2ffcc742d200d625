"""Object proposals: candidate boxes by selective search, chosen at the peaks of a map.

Boxes are int64 [N,4], a row (x0, y0, x1, y1) in pixels, half-open, as in the data sets.
"""

import zlib

import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

PEAKS, RANKED, CENTRAL = "at the peaks of the map", "highest scores", "random around the centre"


def selective_search(image, *, seed=0):
    """Candidate boxes of one image with a confidence score, the highest first.

    boxes: of the regions met while similar neighbours are merged until one region is left; v_n = u_n n with n = 1 for the
    largest box and u_n ~ Uniform(0,1), score = 1 - (place of v_n in ascending order, from 0) / N
    [Uijlings et al. 2013, sections 3.1 and 3.3]

    image [3,H,W] in any units, scaled to 0..255 by its least and greatest value. Boxes int64 [N,4] and scores float32 [N] in
    (0,1], on its device; large boxes tend to come first, often the whole image. The regions are those of OpenCV's "fast" mode.
    seed: of u, which is drawn from it and from the image's own pixels. Raises ValueError for another shape or values that are
    not finite, ModuleNotFoundError without OpenCV's extra modules. *Deviation*: OpenCV ranks by the C library's generator,
    which cannot be seeded on every system, and puts the smallest regions first, the reverse of the paper. We keep its boxes and
    draw the ranks again; n counts all distinct boxes by area, as OpenCV does not hand out the twelve hierarchies behind them.
    """
    search = _opencv().createSelectiveSearchSegmentation()
    pixels = _pixels(image)
    search.setBaseImage(pixels)
    search.switchToSelectiveSearchFast()
    x, y, width, height = search.process().astype(np.int64).T
    by_size = np.lexsort((y, x, -width, -width * height))
    boxes = np.stack([x, y, x + width, y + height], 1)[by_size]
    N = len(boxes)
    v = np.random.default_rng(zlib.crc32(pixels.tobytes(), seed)).random(N) * np.arange(1, N + 1)
    return torch.from_numpy(boxes[np.argsort(v)]).to(image.device), 1 - torch.arange(N, device=image.device) / N


def peaks(maps, *, threshold=0.5):
    """Where each map has its local maxima, the highest first: a list of int64 [P,2], a row (x, y) per peak.

    PL = {(x,y): M_yx > threshold max M, and M_yx >= M_vu for |u - x|, |v - y| <= max(H,W) / 10}   [Collection-CAM, section IV.F]

    maps [B,H,W], raw or normalised. A map that is constant or nowhere positive has no peak; of equal maxima so close to each
    other one counts, since upsampling repeats a map's border. threshold: the paper gives none, nor a distance. Raises ValueError
    for another shape or values that are not finite.
    """
    from skimage.feature import peak_local_max

    if not isinstance(maps, torch.Tensor) or maps.dim() != 3 or not torch.isfinite(maps).all():
        raise ValueError(f"maps must be a finite tensor [B,H,W]; got {_said(maps)}")
    near = max(1, max(maps.shape[1:]) // 10)
    found = [peak_local_max(m, near, threshold_rel=threshold, exclude_border=False) for m in maps.detach().cpu().numpy()]
    return [torch.from_numpy(rows[:, ::-1].astype(np.int64)).to(maps.device) for rows in found]


def propose(image, map=None, *, threshold=0.5, seed=0):
    """Boxes proposed for the object that a map shows in one image, or without a map for whatever the image shows.

    {argmax_{box containing pl} score(box): pl in PL}; without a map, argmax_box score(box)   [Collection-CAM, section IV.F]

    image [3,H,W], map [H,W]; boxes int64 [P,4], each once, the highest score first, none for a map without peaks.
    threshold: of `peaks`; seed: of `selective_search`; errors as there, and ValueError for a map of another size.
    """
    boxes, _ = selective_search(image, seed=seed)
    return boxes[:1] if map is None else _at_peaks(boxes, image, map, threshold)


def iou(boxes, others):
    """Intersection over union of every pair of half-open boxes: |a and b| / |a or b|, [N,4] and [M,4] -> float32 [N,M]."""
    return box_iou(boxes, others)


def best_overlap(proposed, true):
    """How well boxes find the objects: (1/N) sum_n max_p iou(true_n, proposed_p); 0 without proposals, NaN without objects."""
    nothing = torch.zeros(len(true), 1, device=true.device)
    return torch.cat([nothing, iou(true, proposed)], 1).amax(1).mean().item()


def compare(samples, maps, labels=None, *, threshold=0.5, seed=0):
    """Proposals at the peaks of maps against as many that need no map: one row per image and way to choose.

    samples: B of `xr.load_data`, maps [B,H,W] of their classes `labels` (default: each sample's first). Per image, k boxes are
    proposed in three ways: `propose` with the map, which gives k; the k of the highest scores; k drawn among the candidates that
    contain the centre of the image (all, where there are fewer). threshold, seed: as for `propose`.

    Returns image_id, method (the way to choose), best overlap (with the boxes of that class), proposals (their number),
    whole (how many of them are the whole image). Raises ValueError when there are not as many maps or labels as samples.
    """
    labels = [sample.labels[0] for sample in samples] if labels is None else [int(label) for label in labels]
    if not len(samples) == len(maps) == len(labels):
        raise ValueError(f"{len(samples)} samples need as many maps and labels; got {len(maps)} and {len(labels)}")
    rows = []
    for sample, map, label in zip(samples, maps, labels):
        H, W = sample.image.shape[1:]
        true = sample.boxes[sample.boxes[:, 0] == label, 1:]
        boxes, _ = selective_search(sample.image, seed=seed)
        chosen = _at_peaks(boxes, sample.image, map.to(boxes.device), threshold)
        central = boxes[_contain(boxes, torch.tensor([[W // 2, H // 2]], device=boxes.device))[0]]
        drawn = torch.randperm(len(central), generator=torch.Generator().manual_seed(seed)).to(boxes.device)
        ways = {PEAKS: chosen, RANKED: boxes[: len(chosen)], CENTRAL: central[drawn[: len(chosen)]]}
        for way, proposed in ways.items():
            whole = (proposed == torch.tensor([0, 0, W, H], device=boxes.device)).all(1).sum().item()
            rows.append([sample.id, way, best_overlap(proposed, true), len(proposed), whole])
    return pd.DataFrame(rows, columns=["image_id", "method", "best overlap", "proposals", "whole"])


def _at_peaks(boxes, image, map, threshold):
    """The first of the boxes to contain each peak of a map, every box once, in the order of the boxes."""
    if map.shape != image.shape[1:]:
        raise ValueError(f"the map must have the size of the image, {list(image.shape[1:])}; got {list(map.shape)}")
    (points,) = peaks(map[None], threshold=threshold)
    inside = _contain(boxes, points.to(boxes.device))
    return boxes[inside[inside.any(1)].int().argmax(1).unique()]  # argmax: the first of equals


def _contain(boxes, points):
    """Whether box n contains point p: points [P,2] -> bool [P,N]."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0, x1, y1 = boxes.T
    return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def _pixels(image):
    """An image [3,H,W] as OpenCV takes it: uint8 [H,W,3], blue first."""
    if not isinstance(image, torch.Tensor) or image.dim() != 3 or image.shape[0] != 3 or not torch.isfinite(image).all():
        raise ValueError(f"selective search takes one finite image [3,H,W]; got {_said(image)}")
    low, high = image.aminmax()
    scaled = (image - low) / (high - low if high > low else 1)
    return np.ascontiguousarray((255 * scaled).round().byte().cpu().numpy()[::-1].transpose(1, 2, 0))


def _opencv():
    try:
        from cv2.ximgproc import segmentation
    except ImportError as error:
        raise ModuleNotFoundError(
            "selective search needs OpenCV's extra modules (cv2.ximgproc): pip install opencv-contrib-python-headless; where "
            "another OpenCV wheel has overwritten them (grad-cam and quantus ask for one, and all write to the folder cv2): "
            "pip install --force-reinstall --no-deps opencv-contrib-python-headless"
        ) from error
    return segmentation


def _said(tensor):
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    return f"{list(tensor.shape)}" + ("" if torch.isfinite(tensor).all() else " with NaN or infinity")
