"""Image files of a data set: read as RGB, or refused by name."""

from pathlib import Path

from PIL import Image

from xai_repro.errors import short

FORMATS = ("JPEG", "PNG", "TIFF", "BMP")  # what the data sets hold, whatever the ending says
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


def picture(path):
    """The image of a file in RGB, whatever its mode; not turned by EXIF, since annotations are of the pixels as they are stored.

    Raises FileNotFoundError, and ValueError for a file that is no whole image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ValueError(f"{path} is not a readable image: {short(str(error), 200)}") from error


def pictures(folder):
    """The image files in a folder, sorted by name."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in ENDINGS)
