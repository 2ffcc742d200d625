"""What every method promises, checked for each of them by its existence."""

import functools
import random

import numpy as np
import pytest
import torch
import xai_repro as xr
from contract import Boom, counting, hyper, METHODS, raises_about, TOYS, used
from toys import CLASSES, SIZE, images, seeded, state

from xai_repro.errors import UnknownName

COEFFICIENTS = [name for name in METHODS if xr.method_info(name).coefficients]


@functools.cache
def home(name):
    """The first toy that the method explains. A method without `needs` explains every toy."""
    for key, toy in TOYS.items():
        try:
            xr.explain(seeded(toy.build), images(1), 1, name, **hyper(name, toy))
            return key
        except (ValueError, LookupError):
            assert xr.method_info(name).needs, f"{name} fails on {key} and does not say what it needs"
    pytest.fail(f"{name} needs {xr.method_info(name).needs}: add a toy that has it to tests/toys.py")


def setting(name, dtype=torch.float64):
    """(model, x [3,3,H,W], y [3], hyper-parameters) that the method explains."""
    toy = TOYS[home(name)]
    return seeded(toy.build, dtype=dtype), images(dtype=dtype), torch.tensor([1, 4, 0]), hyper(name, toy)


def run(name, model, x, y, **options):
    return xr.explain(model, x, y, name, **options)


def close(got, expected, dtype=torch.float64):
    """Equal but for rounding, relative to the largest value of each map."""
    scale = expected.abs().amax((-2, -1), keepdim=True)
    scale = torch.where(scale == 0, 1, scale)
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-9)


# -- methods: the map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_every_model_or_says_what_it_needs(name, toy):
    model, x = seeded(TOYS[toy].build), images()
    before = state(model)
    try:
        maps = run(name, model, x, 2, **hyper(name, TOYS[toy]))
    except ValueError as error:
        assert xr.method_info(name).needs and len(str(error)) > 20
    else:
        assert maps.shape == (3, SIZE, SIZE) and torch.isfinite(maps).all()
        assert xr.method_info(name).signed or (maps >= 0).all(), "negative values, and not registered as signed"
    assert state(model) == before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_map(name, dtype):
    model, x, y, options = setting(name, dtype)
    maps = run(name, model, x, y, **options)
    assert maps.shape == (3, SIZE, SIZE) and maps.dtype == dtype and maps.device == x.device
    assert torch.isfinite(maps).all() and not maps.requires_grad and not maps.is_inference()
    assert (maps.amax((1, 2)) > maps.amin((1, 2))).any(), "constant maps throughout"
    close(torch.cat([run(name, model, x[i : i + 1], y[i : i + 1], **options) for i in range(3)]), maps, dtype)
    close(run(name, model, x, y, chunk=1, **options), maps, dtype)
    close(run(name, model, x, y, chunk=2, **options), maps, dtype)
    close(run(name, model, x.flip(0), y.flip(0), **options).flip(0), maps, dtype)


@pytest.mark.parametrize("name", METHODS)
def test_an_oblong_image(name):
    model, x, y, options = setting(name)
    if home(name) == "vgg":
        model.avgpool = torch.nn.AdaptiveAvgPool2d((4, 4))
    wide = torch.cat([x, x.flip(-1)], -1)
    assert run(name, model, wide, y, **options).shape == (3, SIZE, 2 * SIZE)


@pytest.mark.parametrize("name", METHODS)
def test_class_forms(name):
    model, x, _, options = setting(name)
    top = model(x).argmax(1)
    expected = run(name, model, x, top, **options)
    assert torch.equal(run(name, model, x, None, **options), expected)
    assert torch.equal(run(name, model, x, top.int(), **options), expected)
    assert torch.equal(run(name, model, x, top.tolist(), **options), expected)
    assert torch.equal(run(name, model, x, 3, **options), run(name, model, x, torch.full((3,), 3), **options))


@pytest.mark.parametrize("name", METHODS)
def test_deterministic_under_a_seed(name):
    model, x, y, options = setting(name)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = run(name, model, x, y, **options)
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert torch.equal(run(name, model, x, y, **options), first)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    if "seed" in xr.method_info(name).hyper:
        assert not torch.equal(run(name, model, x, y, seed=12345, **options), first)


@pytest.mark.parametrize("name", METHODS)
def test_layouts_and_precisions_of_the_image(name):
    model, x, y, options = setting(name, torch.float32)
    expected = run(name, model, x, y, **options)
    close(run(name, model, x.contiguous(memory_format=torch.channels_last), y, **options), expected, torch.float32)
    strided = torch.zeros(3, 3, SIZE, 2 * SIZE)[..., ::2].copy_(x)
    close(run(name, model, strided, y, **options), expected, torch.float32)
    half = x.half()
    maps = run(name, model, half, y, **options)
    assert maps.dtype == torch.float32
    close(maps, run(name, model, half.float(), y, **options), torch.float32)
    assert run(name, model, x.double(), y, **options).dtype == torch.float64


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", METHODS)
def test_model_and_arguments_untouched(name):
    model, x, y, options = setting(name)
    before, given, classes = state(used(model)), x.clone(), y.clone()
    run(name, model, x, y, **options)
    with raises_about("99") if _looks_at_the_model(name) else _nothing():
        run(name, model, x, 99, **options)
    assert state(model) == before
    assert torch.equal(x, given) and torch.equal(y, classes) and x.grad is None


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def _calls(name):
    model, x, y, options = setting(name)
    calls = []
    handle = counting(calls)
    try:
        run(name, model, x, y, **options)
    finally:
        handle.remove()
    return len(calls)


def _looks_at_the_model(name):
    return _calls(name) > 0


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("name", METHODS)
def test_model_untouched_after_a_forward_that_raises(name):
    total = _calls(name)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    for limit in sorted({1, 2, 3, 5, total // 3, total // 2, total - 1, total} & set(range(1, total + 1))):
        model, x, y, options = setting(name)
        before, given = state(used(model)), x.clone()
        handle = counting([], limit)
        try:
            with pytest.raises(Boom):
                run(name, model, x, y, **options)
        finally:
            handle.remove()
        assert state(model) == before and torch.equal(x, given)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes


@pytest.mark.parametrize("name", METHODS)
def test_a_first_layer_that_writes_the_image(name):
    toy = TOYS[home(name)]
    if toy.layer.startswith("features."):
        model, x = seeded(toy.build), images()
        inner = torch.nn.Sequential(torch.nn.ReLU(inplace=True), model)
        layered = {k: f"1.{v}" if k == "layer" else [f"1.{one}" for one in v] if isinstance(v, list) else v for k, v in hyper(name, toy).items()}
        given = x.clone()
        try:
            run(name, inner, x, 1, **layered)
        except ValueError:
            assert xr.method_info(name).needs
        assert torch.equal(x, given)


@pytest.mark.parametrize("name", METHODS)
def test_modes_of_the_caller(name):
    model, x, y, options = setting(name)
    expected = run(name, model, x, y, **options)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            close(run(name, model, x, y, **options), expected)
            close(run(name, model, x.clone(), y.clone(), **options), expected)  # tensors made in the mode
            close(run(name, model, x, 1, **options)[:1], expected[:1])
    with torch.inference_mode():
        made = x.clone()
    close(run(name, model, made, y, **options), expected)
    close(run(name, model, x.clone().requires_grad_(), y, **options), expected)
    for p in model.parameters():
        p.requires_grad_(False)
    close(run(name, model, x, y, **options), expected)


@pytest.mark.parametrize("toy", ["vgg", "residual"])
@pytest.mark.parametrize("name", METHODS)
def test_a_model_in_train_mode(name, toy):
    """Dropout (vgg) and BatchNorm (residual): explained as in eval mode, flags and statistics as before."""
    model, x, y = seeded(TOYS[toy].build), images(), torch.tensor([1, 4, 0])
    options = hyper(name, TOYS[toy])
    try:
        expected = run(name, model, x, y, **options)
    except ValueError:
        assert xr.method_info(name).needs
        return
    model.train()
    next(model.children()).eval()
    before = state(model)
    assert torch.equal(run(name, model, x, y, **options), expected)
    assert state(model) == before


# -- methods: errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_wrong_arguments(name):
    model, x, y, options = setting(name)
    before = state(model)

    def refused(given, model=model, x=x, y=y, kind=ValueError, **more):
        with raises_about(given, kind):
            run(name, model, x, y, **(options | more))

    refused(r"got \[3, 1, 16, 16\].*expand", x=x[:, :1])
    refused(r"got \[3, 16, 16\].*x\[None\]", x=x[0])
    refused(r"got \[0, 3, 16, 16\]", x=x[:0])
    refused(r"got \[3, 3, 0, 16\]", x=x[:, :, :0])
    refused("got torch.uint8", x=x.byte())
    refused("got ndarray", x=x.numpy())
    bad = x.clone()
    bad[1, 0, 3, 3], bad[2, 0, 0, 0] = torch.nan, torch.inf
    refused(r"row\(s\) \[1, 2\]", x=bad)
    refused("images are on meta, the model is on cpu", x=x.to("meta"))
    refused("got torch.float64", y=y.double())
    refused("got torch.bool", y=y.bool())
    refused(r"\[3\]; got \[2\]", y=y[:2])
    refused(r"\[3\]; got \[3, 1\]", y=y[:, None])
    refused("class -2", y=-2)
    refused("class -1", y=torch.tensor([0, -1, 2]))
    if _looks_at_the_model(name):
        refused(f"class {CLASSES}; the model has classes 0 to {CLASSES - 1}", y=CLASSES)
        refused(f"class {CLASSES + 3}", y=torch.tensor([0, CLASSES + 3, 1]))
    for chunk in (0, -1, 1.5, "all"):
        refused(f"chunk is {chunk!r}", chunk=chunk)
    refused(f"unknown hyper-parameter of {name}.*'sede'".replace("+", r"\+"), kind=UnknownName, sede=1)
    if "layer" in xr.method_info(name).hyper:
        last = options["layer"]
        refused(f"unknown layer '{last}x'; did you mean '{last}'", kind=UnknownName, layer=f"{last}x")
    else:
        refused("'layer'", kind=UnknownName, layer="features")
    assert state(model) == before


@pytest.mark.parametrize("name", METHODS)
def test_unknown_method_names_the_nearest(name):
    for function in (xr.method_info, lambda wrong: xr.explain(seeded(TOYS["gap"].build), images(), 0, wrong)):
        with pytest.raises(UnknownName, match=f"unknown method '{name}x'; did you mean '".replace("+", r"\+")):
            function(f"{name}x")


@pytest.mark.parametrize("name", METHODS)
def test_documented(name):
    info = xr.method_info(name)
    assert info.summary.endswith(".") and info.family and info.cite is not None
    assert info.family == "control" or info.cite
    assert all(key in info.formula for key in info.hyper if key not in ("layer", "layers", "layout", "chunk", "seed"))


# -- coefficients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_coefficients_give_the_map(name):
    from xai_repro.network.split import Split

    model, x, y, options = setting(name)
    before = state(model)
    alpha = xr.coefficients(model, x, y, name, **options)
    A = Split(model, x, options["layer"]).A
    assert alpha.shape == A.shape[:2] and alpha.dtype == x.dtype and not alpha.requires_grad
    small = torch.stack([sum(a * plane for a, plane in zip(row, planes)).clamp(min=0) for row, planes in zip(alpha, A)])
    maps = torch.nn.functional.interpolate(small[:, None], size=(SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0]
    close(run(name, model, x, y, **options), maps)
    torch.testing.assert_close(torch.cat([xr.coefficients(model, x[i : i + 1], y[i : i + 1], name, **options) for i in range(3)]), alpha)
    assert state(model) == before


@pytest.mark.parametrize("name", [name for name in METHODS if name not in COEFFICIENTS])
def test_methods_without_coefficients_say_so(name):
    with pytest.raises(ValueError, match=f"{name} has no coefficients"):
        xr.coefficients(seeded(TOYS["gap"].build), images(), 0, name)
