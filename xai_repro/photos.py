"""A reader's own photos, explained side by side."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

import xai_repro as xr
from xai_repro.errors import unknown
from xai_repro.models.zoo import EMBEDDED
from xai_repro.study.plots import panel


def open_photo(path):
    """A photo as an upright RGB image, whatever its mode: transparency becomes white, 16 bits become 8.

    Raises FileNotFoundError, and ValueError for a file that is not a readable image.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no image {path}")
    try:
        photo = ImageOps.exif_transpose(Image.open(path))
        photo.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if photo.mode.startswith(("I", "F")):  # Pillow clips these where it should scale
        values = np.asarray(photo, dtype=np.float64)
        top = 65535 if photo.mode != "F" else max(values.max(), 1e-12)
        photo = Image.fromarray((255 * values / top).clip(0, 255).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def explain_photos(paths, model, weights, methods, layer, target, out, device="auto", hyper=None):
    """Write one picture with a row per photo and a column per method; returns the three likeliest classes as text.

    target: class to explain, a number or a name; None: each photo's top-1. hyper: hyper-parameters, given to the methods
    that have them. Raises UnknownName for a name that does not exist, ValueError for what is out of range.
    """
    infos, out = [xr.method_info(name) for name in methods], Path(out)
    for name in hyper or {}:
        if not any(name in info.hyper for info in infos):
            raise unknown(f"hyper-parameter of {', '.join(methods)}", name, {h for info in infos for h in info.hyper})
    if out.suffix.lower() not in (".png", ".svg", ".pdf", ".jpg"):
        raise ValueError(f"cannot write a picture as '{out.suffix}'; possible: .png, .svg, .pdf, .jpg")
    photos = [open_photo(path) for path in paths]
    if weights is None and model not in EMBEDDED:
        weights = "imagenet"  # random weights explain nothing
    net = xr.load_model(model, weights=weights, device=device)
    prepare, place = xr.transform(net), next(net.parameters()).device
    x = torch.stack([prepare(photo) for photo in photos]).to(place)
    with torch.inference_mode():
        logits = net(x)
    chances = (logits.sigmoid() if net.multi_label else logits.softmax(1)).cpu()
    names = net.classes or [str(n) for n in range(chances.shape[1])]
    y = logits.argmax(1).clone() if target is None else torch.full((len(x),), _class_number(target, names), device=place)

    maps = {}
    for info in infos:
        extra = {name: value for name, value in (hyper or {}).items() if name in info.hyper}
        if layer is not None and "layer" in info.hyper:
            extra["layer"] = layer
        maps[info.name] = xr.explain(net, x, y, method=info.name, **extra).cpu()
    titles = [f"{Path(path).stem}: {names[c]}" for path, c in zip(paths, y.tolist())]
    figure = panel(x.cpu(), maps, titles=titles, signed=[info.name for info in infos if info.signed])
    part = out.with_name(f".{out.stem}.part{out.suffix}")
    figure.savefig(part, dpi=150)
    os.replace(part, out)

    lines = []
    for path, row in zip(paths, chances):
        best = ", ".join(f"{names[i]} {p:.3f}" for p, i in zip(*(t.tolist() for t in row.topk(min(3, len(row))))))
        lines.append(f"{path}: {best}")
    return "\n".join([*lines, f"written: {out}"])


def _class_number(target, names):
    """The class that a number or a name stands for."""
    if str(target).isdigit():
        if int(target) >= len(names):
            raise ValueError(f"class {target} does not exist: the model has classes 0 to {len(names) - 1}")
        return int(target)
    if target not in names:
        raise unknown("class", target, names if len(names) <= 40 else [*names[:10], "..."])
    return list(names).index(target)
