"""timm's networks, by name: "timm/NAME". The package is optional."""

import torch

from xai_repro.data import View
from xai_repro.errors import short, unknown

PREFIX = "timm/"


def is_one(name):
    return isinstance(name, str) and name.startswith(PREFIX)


def build(name, classes=1000, pretrained=False):
    """One of timm's networks, randomly initialised under a seed, or with the weights that timm fetches; the global random state is left alone.

    Raises UnknownName for a name that timm does not have, ModuleNotFoundError without timm, OSError where weights cannot be fetched.
    """
    timm, short_name = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(short_name):
        raise unknown("model of timm", short_name, timm.list_models())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not pretrained:
            return timm.create_model(short_name, num_classes=classes)
        try:
            return timm.create_model(short_name, pretrained=True)
        except RuntimeError as error:  # timm has none for this name
            raise ValueError(f"timm has no weights for {short_name}: {error}") from error
        except OSError as error:
            raise OSError(f"timm could not fetch the weights of {short_name} ({short(str(error), 200)}); a file of yours: load_model('timm/{short_name}', 'FILE.safetensors')") from error


def is_imagenet(model):
    """Whether a network of timm tells ImageNet's 1,000 classes apart, in their usual order."""
    return model.num_classes == 1000 and "in1k" in str(model.pretrained_cfg.get("tag") or "in1k")


def view(model):
    """What a network of timm sees of a photograph. Raises ValueError for one that is not square, or pads with a border."""
    from timm.data import resolve_model_data_config

    plan = resolve_model_data_config(model)
    (_, high, wide), mode = plan["input_size"], plan["crop_mode"]
    if high != wide or mode not in ("center", "squash"):
        raise ValueError(f"{model.default_cfg.get('architecture')} takes images {high} x {wide}, {mode}; square ones, from the middle or squashed, are known here")
    larger = int(high / plan["crop_pct"])
    return View((larger, larger) if mode == "squash" else larger, high, plan["interpolation"], tuple(plan["mean"]), tuple(plan["std"]))


def _timm():
    try:
        import timm
    except ImportError:
        raise ModuleNotFoundError("timm is not installed, which has this network: pip install 'xai-repro[timm]'") from None
    return timm
