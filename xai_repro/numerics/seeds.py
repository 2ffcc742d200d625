"""Seeds that depend on the image, so that a map depends on its own image alone and every image has noise of its own."""

import zlib


def seed_of(image, seed):
    """A seed of 32 bits, no more than a generator takes, from a seed and the pixels of an image."""
    return zlib.crc32(image.contiguous().float().cpu().numpy().tobytes(), seed)
