"""A reader's own photos, explained side by side, or by training images that are like them."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import xai_repro as xr
from xai_repro.errors import like, short, unknown, whole_number
from xai_repro.registry import expected
from xai_repro.store.fetch import cache_dir, NETWORKS, not_fetched, TORCHVISION
from xai_repro.store.files import path_of, whole, writable

# Pictures made of pixels. Pillow opens drawings, too (EPS), and has another program of the machine run what is in them.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
PIXELS = 120_000_000  # cameras have up to about 100 million; what is larger takes gigabytes
ASPECT = 100  # long side / short side: the short side is brought to the model's size, and the long one with it
ENDINGS = (".png", ".svg", ".pdf", ".jpg")
SHOWN = 4  # training images named of each layer


def open_photo(path):
    """A photo as an upright RGB image, whatever its mode: transparency becomes white, 16 bits become 8.

    Of several pictures in one file the first is taken. Raises FileNotFoundError, and ValueError for a file that is not a
    readable image, is too large or too narrow, or holds values that are not finite.
    """
    name = _shown(path_of("photo", path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no image {name}")
    Image.init()
    try:
        formats = [one for one in FORMATS if one in Image.OPEN]  # AVIF is not everywhere
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats) as photo:
            problem = _misshapen(*photo.size)
            photo = None if problem else ImageOps.exif_transpose(photo)  # reads the pixels
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ValueError(f"{name} is not a readable image: {short(str(error), 200)}") from error
    if problem:
        raise ValueError(f"{name} is {problem}")
    if photo.mode.startswith(("I", "F")):  # Pillow clips these where it should scale
        photo = _eight_bits(photo, name)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def _misshapen(width, height):
    """What is wrong with the size of a photo, "" if nothing is."""
    if width * height > PIXELS:
        return f"{width} x {height} pixels; up to {PIXELS // 10**6} million are read"
    if max(width, height) > ASPECT * min(width, height):
        return f"{width} x {height} pixels; one side may be up to {ASPECT} times as long as the other"
    return ""


def _eight_bits(photo, name):
    values = np.array(photo, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    values *= 255 / (65535 if photo.mode != "F" else max(values.max(), 1e-12))
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def explain_photos(paths, model, weights, methods, layer, target, out, device="auto", hyper=None):
    """Write one picture with a row per photo and a column per method; returns the three likeliest classes as text.

    target: class to explain, a number or a name; None: each photo's top-1. hyper: hyper-parameters, given to the methods
    that have them. Raises UnknownName for a name that does not exist, ValueError for what is out of range or contradicts
    itself, OSError for a picture that cannot be written; and does so, where it can, before torch is loaded.
    """
    out, hyper = path_of("out", out), like("hyper", hyper or {}, {})
    photos = [open_photo(path) for path in like("paths", paths, [])]
    _check_output(out, paths)
    _check_request(paths, like("methods", methods, []), model, weights, layer, target, hyper)
    import torch

    from xai_repro.study.plots import panel

    infos = [xr.method_info(name) for name in methods]
    for name in hyper:
        if not any(name in info.hyper for info in infos):
            raise unknown(f"hyper-parameter of {', '.join(methods)}", name, {h for info in infos for h in info.hyper})
    net = _load(model, weights, device)
    prepare, place = xr.transform(net), next(net.parameters()).device
    x = torch.stack([prepare(photo) for photo in photos]).to(place)
    with torch.inference_mode():
        logits = net(x)
    names = net.classes or [str(n) for n in range(logits.shape[1])]
    y = logits.argmax(1).clone() if target is None else torch.full((len(x),), _class_number(target, names), device=place)
    maps = {info.name: xr.explain(net, x, y, method=info.name, **_given(info, layer, hyper)).cpu() for info in infos}
    titles = [f"{_shown(Path(path).stem, 20)}\n{names[c]}" for path, c in zip(paths, y.tolist())]
    figure = panel(x.cpu(), maps, titles=titles, signed=[info.name for info in infos if info.signed], view=net.view)
    with whole(out) as part:
        figure.savefig(part, format=out.suffix.lower()[1:], dpi=150)
    _warn_of_drawn(net)
    lines = [f"{_shown(path)}: {_likeliest(row, names)}" for path, row in zip(paths, _chances(net, logits))]
    return "\n".join([*lines, f"written: {_shown(out)}"])


def examples_of_photo(
    path, model="mini-vgg", weights=None, base="clrp", layers="full", attributes=None, data="mini-birds", images=2000, target=None, out="examples.png", device="auto",
):  # fmt: skip
    """Write a picture of a photo and the training images that CLAM's attributes find most like it; returns their names as text, layer by layer.

    weights: as for `load_model`; None: those trained on the data. base, layers, attributes, data, images: as for `build_index`. target: as for
    `explain_photos`. Shown are a few layers from the logits down, and of each the attributes that are nearest to the photo. Raises the errors of
    `explain_photos` and `build_index`, and ValueError where no training image of the class is recognised.
    """
    out, images = path_of("out", out), whole_number("images", images)
    photo = open_photo(path)
    _check_output(out, [path])
    _check_weights(weights, model)
    _check_target(target)
    import torch

    from xai_repro.models.zoo import weights_for
    from xai_repro.study.examples import explained

    samples = xr.load_data(data, "train", limit=images)
    net = _load(model, weights_for(model, data) if weights is None else weights, device)
    x = xr.transform(net)(photo)[None].to(next(net.parameters()).device)
    with torch.inference_mode():
        logits = net(x)
    names = net.classes or [str(n) for n in range(logits.shape[1])]
    y = logits.argmax(1).clone() if target is None else torch.tensor([_class_number(target, names)], device=x.device)
    index = xr.build_index(net, data, base, layers, attributes=attributes, images=images)
    found, figure = explained(net, x[0], index, samples, y, attributes=attributes)
    with whole(out) as part:
        figure.savefig(part, format=out.suffix.lower()[1:], dpi=150)
    _warn_of_drawn(net)
    nearest = found[found["rank"] == 1].groupby("layer", sort=False)["example"]  # the nearest attributes come first
    lines = [f"{layer}: {', '.join(some.head(SHOWN))}" for layer, some in nearest]
    return "\n".join([f"{_shown(path)}: {_likeliest(_chances(net, logits)[0], names)}", *lines, f"written: {_shown(out)}"])


def _chances(net, logits):
    return (logits.sigmoid() if net.multi_label else logits.softmax(1)).cpu()


def _shown(path, most=200):
    """A name of a file as it can be shown: on one line, cut where it is long, with a mark for bytes that are no letter."""
    return short(os.fsencode(path).decode("utf-8", "replace"), most)


def _given(info, layer, hyper):
    """Of the hyper-parameters, those that a method has."""
    return {name: value for name, value in (hyper | ({} if layer is None else {"layer": layer})).items() if name in info.hyper}


def _likeliest(chances, names):
    return ", ".join(f"{names[i]} {p:.3f}" for p, i in zip(*(t.tolist() for t in chances.topk(min(3, len(chances))))))


def _check_output(out, paths):
    """Refuse a picture that cannot be written, and one that would take the place of a photo."""
    if out.suffix.lower() not in ENDINGS:
        raise ValueError(f"cannot write a picture as '{out.suffix}'; possible: {', '.join(ENDINGS)}")
    writable(out)
    for path in paths:
        if out.exists() and out.samefile(path):
            raise ValueError(f"the picture would be written over the photo {_shown(path)}: name another file with --out")


def _check_request(paths, methods, model, weights, layer, target, hyper):
    """Refuse what can be seen to be wrong without a model."""
    for kind, given in (("photo", paths), ("method", methods)):
        if not given or "" in given:
            raise ValueError(f"a {kind} is missing: at least one is needed, each with its name")
    known = expected("method")
    if strange := [name for name in methods if name not in known]:
        raise unknown("method", strange[0], known)
    if twice := sorted({str(name) for name in methods if methods.count(name) > 1}):
        raise ValueError(f"methods named twice: {', '.join(twice)}")
    if layer is not None and "layer" in hyper:
        raise ValueError("the layer is given twice, by --layer and by --set layer=...: which one?")
    _check_target(target)
    _check_weights(weights, model)


def _check_target(target):
    if target == "":
        raise ValueError("the class is empty: it takes a number or a name")


def _check_weights(weights, model):
    if weights is not None and (file := path_of("weights", weights)).suffix == ".safetensors" and not os.path.isfile(file):
        raise FileNotFoundError(f"no weights file {short(weights)}")
    file = NETWORKS.get(str(model)) if weights in (None, "imagenet") else None
    if file and not (cache_dir() / file).with_suffix(".safetensors").exists():
        raise not_fetched(model, f"{TORCHVISION}/{file}", file)


def _load(model, weights, device):
    from xai_repro.models.zoo import weights_for

    trained = weights_for(like("model", model, "vgg16"), None) if weights is None else weights  # random ones explain nothing
    return xr.load_model(model, weights=trained, device=device)


def _warn_of_drawn(net):
    """Say of a network that has seen drawn pictures alone what its answers for photos are worth."""
    from xai_repro.models.zoo import EMBEDDED

    if net.name in EMBEDDED:
        known = "things in drawn scenes" if net.multi_label else "drawn birds"
        print(f"warning: {net.name} knows {len(net.classes)} kinds of {known} and no photographs: it names one whatever a photo shows", file=sys.stderr)


def _class_number(target, names):
    """The class that a number or a name stands for."""
    if str(target).isdecimal():
        if len(str(target)) > 9 or int(target) >= len(names):
            raise ValueError(f"class {short(str(target))} does not exist: the model has classes 0 to {len(names) - 1}")
        return int(target)
    from xai_repro.explain import number_of

    return number_of(target, list(names))
