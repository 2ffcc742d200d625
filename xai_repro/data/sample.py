"""One annotated image, and the scaling between its pixels and what the models take."""

from dataclasses import dataclass, field

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

# ImageNet's statistics, the ones torchvision's pretrained models expect: one convention for drawn and real images.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(image):
    """Scale an image from [0, 1] to the models' units: image [..., 3, H, W] float, returned in the same shape."""
    return (image - _channels(MEAN, image)) / _channels(STD, image)


def denormalize(image, mean=MEAN, std=STD):
    """Bring a model input back to colours for display: image [..., 3, H, W], returned in [0, 1] in the same shape."""
    return (image * _channels(std, image) + _channels(mean, image)).clamp(0, 1)


def _channels(values, like):
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its annotation.

    image: float32 [3, H, W], normalised as the models take it.
    labels: the classes present, as indices, in ascending order.
    boxes: int64 [N, 5], a row (label, x0, y0, x1, y1) per object, in pixels, half-open (x1 and y1 lie outside).
    mask: int64 [H, W], the label of the object visible at each pixel, -1 for background.
    Of an image without boxes or mask (None) they show no object.
    parts: name -> bool [H, W], the visible pixels of each part of the object; empty where parts are not annotated.
    id: a name unique across data sets, such as "mini-birds/test/17".
    counterfactuals: the same picture with other shapes of the parts that decide, `xai_repro.data.counterfactuals.Counterfactuals`; None
    where there are none.
    regions: label -> bool [H, W], its visible pixels, where objects of several classes share a pixel and one `mask` cannot say so.
    scale: pixels of `image` for a pixel of the photograph that it was made from, (across, down).
    hard: the labels that TorchRay's rule calls difficult, where they are known from the annotation of the whole photograph; None: from the boxes.
    """

    image: Tensor
    labels: tuple[int, ...]
    boxes: Tensor | None = None
    mask: Tensor | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    id: str = ""
    counterfactuals: object | None = None
    regions: dict[int, Tensor] = field(default_factory=dict)
    scale: tuple[float, float] = (1.0, 1.0)
    hard: frozenset[int] | None = None

    def __post_init__(self):
        if self.boxes is None:
            object.__setattr__(self, "boxes", torch.zeros(0, 5, dtype=torch.int64))  # the class is frozen
        if self.mask is None:
            object.__setattr__(self, "mask", torch.full(self.image.shape[-2:], -1))

    def truth(self, label=None):
        """Visible pixels of a class (default: the first label), bool [H, W]; all false where it is absent."""
        if self.regions:
            return self.regions.get(self._label(label), torch.zeros_like(self.mask, dtype=torch.bool))
        return self.mask == self._label(label)

    def near(self, label=None, pixels=15):
        """Where less than so many pixels of the photograph lie between a place and the class (default: the first label), bool [H, W].

        The class is where its pixels are annotated or, where nobody annotated any, its boxes.
        """
        annotated = bool(self.regions) or bool((self.mask >= 0).any())
        seen = self.truth(label) if annotated else self.box_truth(label)
        if not seen.any():
            return seen
        away = distance_transform_edt(~seen.numpy(), sampling=[1 / one for one in reversed(self.scale)])
        return torch.from_numpy(away < pixels)

    def box_truth(self, label=None):
        """Union of the boxes of a class (default: the first label), bool [H, W]; all false where it is absent."""
        inside = torch.zeros_like(self.mask, dtype=torch.bool)
        for x0, y0, x1, y1 in self._boxes_of(label).tolist():
            inside[y0:y1, x0:x1] = True
        return inside

    def is_difficult(self, label=None):
        """TorchRay's rule for a class (default: the first label): its boxes together cover less than a quarter of the
        image, and another class is present."""
        if self.hard is not None:
            return self._label(label) in self.hard
        x0, y0, x1, y1 = self._boxes_of(label).unbind(1)
        area = int(((x1 - x0) * (y1 - y0)).sum())
        return 4 * area < self.mask.numel() and any(other != self._label(label) for other in self.labels)

    @property
    def difficult(self):
        """Whether the image is difficult for any of its labels."""
        return any(self.is_difficult(label) for label in self.labels)

    def _label(self, label):
        return self.labels[0] if label is None else int(label)

    def _boxes_of(self, label):
        return self.boxes[self.boxes[:, 0] == self._label(label), 1:]
