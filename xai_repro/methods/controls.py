"""Controls: maps that know nothing of the model. A method that does not beat them has explained nothing."""

import torch
import torch.nn.functional as F

from xai_repro.errors import whole_number
from xai_repro.methods.lifts import upsample
from xai_repro.numerics.seeds import seed_of
from xai_repro.registry import method


@method("random", family="control", cite="")
def random(model, x, y=None, *, cells=7, seed=0):
    """Uniform noise on a coarse grid, upsampled: as smooth as a class activation map.

    M = up(U), U_ij ~ Uniform(0,1) on cells x cells positions

    M [B,H,W] in [0,1]. The noise is drawn from the seed and the pixels of the image, so that a map depends on its own
    image alone and every image has another one. cells: positions per side (7: VGG16's and ResNet50's last map at 224). Raises ValueError
    for fewer than one.
    """
    whole_number("cells", cells, most=10_000)

    def noise(image):
        return torch.rand(cells, cells, generator=torch.Generator().manual_seed(seed_of(image, seed)))

    return upsample(torch.stack([noise(image) for image in x]).to(x), x.shape[-2:])


@method("center", family="control", cite="")
def center(model, x, y=None, *, width=0.25):
    """A bump in the middle of the image: photographers centre their objects.

    M_ij = exp(-(u_i^2 + v_j^2) / (2 width^2)), with u, v in [-1/2, 1/2] across the image

    M [B,H,W] in (0,1]. width: standard deviation, as a fraction of the side. Raises ValueError for none.
    """
    if width <= 0:
        raise ValueError(f"width is {width}; a fraction of the side above 0 is needed")
    u, v = (((torch.arange(n, device=x.device) + 0.5) / n - 0.5).to(x) for n in x.shape[-2:])
    return torch.exp(-(u[:, None] ** 2 + v**2) / (2 * width**2)).repeat(len(x), 1, 1)


@method("edges", family="control", cite="adebayo2018sanity")
def edges(model, x, y=None):
    """The strength of the edges of the grey image: what an edge detector alone would show.

    M_ij = sqrt((s * g)_ij^2 + (s^T * g)_ij^2), with g the mean of the colours and s the Sobel filter

    M [B,H,W] >= 0. Motivated by [Adebayo et al. 2018, section 5.2]. No hyper-parameters.
    """
    sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]).to(x) / 8
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(grey, torch.stack([sobel, sobel.T])[:, None]).norm(dim=1)
