"""How alike two maps of an image are: 1 for identical maps, undefined for a constant one, which has no structure to compare.

Maps [B,H,W] -> [B], computed on the CPU in float64, image by image where the reference implementation takes one image.
"""

import torch
from skimage.feature import hog as descriptor
from skimage.metrics import structural_similarity

from xai_repro.numerics.algebra import normalize

THRESHOLD, SMOOTHING = 100 / 255, 1e-6  # of LFI-CAM's released code
WINDOW, CELL = 11, 16  # pixels: SSIM's Gaussian window, the side of a cell of HOG


def spearman(a, b):
    """Whether two maps order the pixels alike.

    rho = sum_i (r_i - m)(s_i - m) / sqrt(sum_i (r_i - m)^2 sum_i (s_i - m)^2), with r and s the ranks of the n pixels in the two
    maps, equal values sharing their mean rank, and m = (n + 1) / 2   [Adebayo et al. 2018, section 2.2]

    In [-1,1]; NaN where a map is constant. The sign of the maps counts ("no ABS" in the paper's figure 4).
    """
    from scipy.stats import rankdata  # here, since its import takes a second

    r, s = (torch.from_numpy(rankdata(_plain(m).flatten(1), axis=1)) for m in (a, b))
    m = (r.shape[1] + 1) / 2
    across, own, other = ((u * v).sum(1) for u, v in ((r - m, s - m), (r - m, r - m), (s - m, s - m)))
    return (across / (own * other).sqrt()).to(a)


def ssim(a, b):
    """The structural similarity index: means, variances and covariance of the two maps in a window, averaged over its places.

    mean_ij (2 m_a m_b + c1)(2 v_ab + c2) / ((m_a^2 + m_b^2 + c1)(v_a + v_b + c2)), on maps scaled to [0,1], with moments under a
    Gaussian window of 11x11 pixels (sigma 1.5) around (i,j), c1 = 0.01^2 and c2 = 0.03^2   [Adebayo et al. 2018, section 2.2]

    In [-1,1]; NaN where a map is constant. Windows lie within the map; v are variances of a sample, 121/120 of those under the
    window. Raises ValueError for maps smaller than the window.
    *Deviation*: the released code leaves the range of the data open, which its library then took to be 2, so that its values
    are higher; here it is 1, that of the maps.
    """
    if min(a.shape[1:]) < WINDOW:
        raise ValueError(f"ssim looks through windows of {WINDOW}x{WINDOW} pixels; the maps have {a.shape[1]}x{a.shape[2]}")
    pairs = zip(normalize(_plain(a)).numpy(), normalize(_plain(b)).numpy())
    values = [structural_similarity(one, other, gaussian_weights=True, data_range=1) for one, other in pairs]
    return torch.tensor(values).to(a).where(_varies(a) & _varies(b), torch.nan)


def hog(a, b):
    """Whether the edges of two maps run alike: the rank correlation of their histograms of oriented gradients.

    spearman(h(a), h(b)), h: 9 orientations in cells of 16x16 pixels, normalised in blocks of 3x3 cells, of the map scaled to
    [0,1]   [Adebayo et al. 2018, section 2.2]

    In [-1,1]; NaN where a map is constant. Maps with a side below 48 pixels get cells of a third of it, the largest that make up
    a block. Raises ValueError for maps with a side below 3 pixels.
    *Deviation*: the paper names the Pearson correlation of the histograms; its released code, followed here, has Spearman's.
    """
    cell = min(CELL, min(a.shape[1:]) // 3)
    if cell < 1:
        raise ValueError(f"hog compares blocks of 3x3 cells; the maps have {a.shape[1]}x{a.shape[2]} pixels")

    def h(maps):
        return [torch.from_numpy(descriptor(one, pixels_per_cell=(cell, cell))) for one in normalize(_plain(maps)).numpy()]

    return spearman(torch.stack(h(a)), torch.stack(h(b))).to(a)


def overlap(a, b, threshold=THRESHOLD):
    """Whether the largest values of two maps are at the same places: intersection over union.

    |U and V| / |U or V|, U, V: where a map scaled to [0,1] is above the threshold

    In [0,1]; NaN where a map is constant. threshold: 100/255, as in the released code of LFI-CAM   [LFI-CAM, README].
    """
    u, v = (normalize(_plain(m)) > threshold for m in (a, b))
    return ((u & v).sum((1, 2)) / (u | v).sum((1, 2)).clamp(min=1)).to(a).where(_varies(a) & _varies(b), torch.nan)


def overlap_of_rows(a, b, threshold=THRESHOLD):
    """What the released code of LFI-CAM computes as IoU: the mean over rows of pixels of each row's intersection over union.

    (1/H) sum_i (3 sum_j u_ij v_ij + e) / (3 sum_j max(u_ij, v_ij) + e), e = 1e-6; a row where both are empty counts as 1   [LFI-CAM, released code]

    In [0,1]; NaN where a map is constant. Two maps that share no pixel can have .75: the more rows are empty, the higher. Values are stored there as bytes of 256 times
    the map, so that the largest, 256, becomes 0 and lies below the threshold, which is kept here.
    """
    u, v = ((normalize(_plain(m)) * 256).long() % 256 > threshold * 255 for m in (a, b))
    above, below = (3 * one.sum(2) + SMOOTHING for one in (u & v, u | v))
    return (above / below).mean(1).to(a).where(_varies(a) & _varies(b), torch.nan)


SIMILARITIES = {"spearman": spearman, "ssim": ssim, "hog": hog}


def _plain(maps):
    return maps.detach().cpu().double()


def _varies(maps):
    return maps.amax((1, 2)) > maps.amin((1, 2))
