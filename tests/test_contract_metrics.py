"""What every metric promises, checked for each of them by its existence; the registry, chunks."""

import pytest
import torch
import xai_repro as xr
from contract import Boom, counting, hyper, METRICS, raises_about, used
from toys import SIZE, TOYS, images, seeded, state

from xai_repro.errors import UnknownName


# -- metrics ------------------------------------------------------------------------------------------------------------------


def metric_setting(name, dtype=torch.float64):
    """(model, x, y, maps, truth, hyper-parameters): an object, a map that mostly hits it, noise, a map of the corner."""
    model, x, y = seeded(TOYS["vgg"].build, dtype=dtype), images(dtype=dtype), torch.tensor([1, 4, 0])
    truth = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    truth[:, 4:11, 5:12] = True
    maps = xr.normalize(torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(5), dtype=dtype))
    maps[0] = maps[0] * 0.3 + 0.7 * truth[0]
    maps[2, :3, :3] = 1
    takes = xr.metric_info(name).maps
    maps = xr.normalize(maps) if takes == "unit" else maps - 0.4
    if takes == "coefficients":
        maps = xr.coefficients(model, x, y, "grad-cam", layer=TOYS["vgg"].layer).to(dtype)
    if xr.metric_info(name).truth == "parts":
        truth = parts_in(truth, dtype)
    if name in ("lerf-perturbation", "morf-perturbation"):  # undefined for a class that the model does not have on top
        y = model(x).argmax(1)
    options = hyper(name, TOYS["vgg"], xr.metric_info)
    if name == "stability-iou":
        options["others"] = maps[1:2].flip(-1)
    return model, x, y, maps, truth, options


def parts_in(truth, dtype):
    """Four strips of an object as parts, [B,4,H,W], worth 1.5, 0.5, 2 and -1."""
    strips = torch.stack([truth & (torch.arange(SIZE) // 2 == n + 2) for n in range(4)], 1)
    effect = torch.tensor([1.5, 0.5, 2.0, -1.0], dtype=dtype)[:, None, None]
    return torch.where(strips, effect, torch.nan)


def measure(name, model, x, y, maps, truth, **options):
    return xr.score(name, model, x, y, maps, truth if xr.metric_info(name).truth else None, **options)


@pytest.mark.parametrize("name", METRICS)
def test_metric(name):
    model, x, y, maps, truth, options = metric_setting(name)
    before, given = state(used(model)), [t.clone() for t in (x, y, maps, truth)]
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    values = measure(name, model, x, y, maps, truth, **options)
    assert values.shape == (3,) and values.device == x.device and values.dtype == x.dtype
    assert torch.isfinite(values).all() and not values.requires_grad and not values.is_inference()
    rows = [slice(i, i + 1) for i in range(3)]
    alone = torch.cat([measure(name, model, x[r], y[r], maps[r], truth[r], **options) for r in rows])
    torch.testing.assert_close(alone, values, rtol=0, atol=1e-9)
    assert torch.equal(measure(name, model, x, y, maps, truth, **options), values)
    assert state(model) == before and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(a.nan_to_num(9), b.nan_to_num(9)) for a, b in zip(given, (x, y, maps, truth)))
    info = xr.metric_info(name)
    assert isinstance(info.higher_is_better, bool) and info.summary.endswith(".")
    assert info.definition and info.misleads.endswith(".") and "\n" not in info.misleads and "*Misleads*" not in info.misleads, "where does it mislead?"


@pytest.mark.parametrize("name", METRICS)
def test_metric_in_other_modes(name):
    model, x, y, maps, truth, options = metric_setting(name)
    expected = measure(name, model, x, y, maps, truth, **options)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = measure(name, model, x.clone(), y.clone(), maps.clone(), truth.clone(), **options)
            torch.testing.assert_close(got, expected)
    model.train()
    torch.testing.assert_close(measure(name, model, x, y, maps, truth, **options), expected)
    assert all(m.training for m in model.modules())
    top = model.eval()(x).argmax(1)
    assert torch.equal(measure(name, model, x, None, maps, truth, **options), measure(name, model, x, top, maps, truth, **options))


@pytest.mark.parametrize("name", METRICS)
def test_metric_untouched_after_a_forward_that_raises(name):
    model, x, y, maps, truth, options = metric_setting(name)
    model.train()
    before, calls = state(used(model)), []
    handle = counting(calls)
    measure(name, model, x, y, maps, truth, **options)
    handle.remove()
    for limit in {1, 2, len(calls)} if calls else ():
        handle = counting([], limit)
        try:
            with pytest.raises(Boom):
                measure(name, model, x, y, maps, truth, **options)
        finally:
            handle.remove()
        assert state(model) == before


@pytest.mark.parametrize("name", METRICS)
def test_metric_with_wrong_arguments(name):
    model, x, y, maps, truth, options = metric_setting(name)

    def refused(given, x=x, y=y, maps=maps, truth=truth, kind=ValueError, **more):
        with raises_about(given, kind):
            measure(name, model, x, y, maps, truth, **(options | more))

    if xr.metric_info(name).maps == "coefficients":
        refused(rf"{name} takes coefficients \[3,K\].*got \[3, 16, 16\]", maps=x[:, 0])
        refused(r"got \[2, 6\]", maps=maps[:2])
    else:
        refused(r"maps must be \[3, 16, 16\].*got \[3, 8, 8\]", maps=maps[:, ::2, ::2])
        refused(r"got \[2, 16, 16\]", maps=maps[:2])
    refused("NaN", maps=maps.clone().fill_(torch.nan))
    if xr.metric_info(name).maps == "unit":
        refused(rf"{name} takes maps in \[0,1\]; got .* to 2", maps=maps * 2)
        refused(r"got -", maps=maps - 0.5)
    if xr.metric_info(name).truth:
        refused(f"{name} needs truth", truth=None)
    if xr.metric_info(name).truth == "parts":
        refused(r"must be numbers \[3,P,16,16\].*got torch.bool \[3, 4, 16, 16\]", truth=truth > 0)
        refused(r"got torch.float64 \[3, 4, 8, 16\]", truth=truth[:, :, ::2])
        refused(r"got torch.float64 \[3, 16, 16\]", truth=truth[:, 0])
        refused(r"got torch.float64 \[2, 4, 16, 16\]", truth=truth[:2])
        refused("got infinity", truth=truth / 0)
    elif xr.metric_info(name).truth:
        refused(r"got torch.float64 \[3, 16, 16\]", truth=truth.double())
        refused(r"got torch.bool \[3, 8, 16\]", truth=truth[:, ::2])
    refused(r"got \[3, 1, 16, 16\]", x=x[:, :1])
    refused("got torch.float64", y=y.double())
    refused(f"unknown hyper-parameter of {name}", kind=UnknownName, sede=1)
    with pytest.raises(UnknownName, match=f"unknown metric '{name}x'; did you mean"):
        xr.score(f"{name}x", model, x, y, maps, truth)


# -- the registry, and chunks -------------------------------------------------------------------------------------------------


def test_patterns():
    assert xr.methods("*cam*") == [name for name in xr.methods() if "cam" in name]
    assert xr.metrics("average-*") == [name for name in xr.metrics() if name.startswith("average-")]
    assert xr.methods("nothing") == []


def test_a_name_used_twice_and_a_missing_docstring():
    with pytest.raises(ValueError, match="'grad-cam' is registered twice"):
        xr.method("grad-cam", family="cam", cite="")(lambda model, x, y: None)
    with pytest.raises(ValueError, match="'undocumented' has no docstring"):
        xr.method("undocumented", family="cam", cite="")(lambda model, x, y: None)
    assert "undocumented" not in xr.methods()


def test_normalize():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[4.0, 4.0], [4.0, 4.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    expected = torch.tensor([[[0, 0.5], [0.25, 1]], [[0, 0], [0, 0]], [[0, 0.5], [0.5, 1]]])
    assert torch.equal(xr.normalize(maps), expected)
    tiny = torch.tensor([[[0.0, 1e-30], [3e-30, 4e-30]]])
    torch.testing.assert_close(xr.normalize(tiny), torch.tensor([[[0, 0.25], [0.75, 1]]]))


def test_chunks_are_halved_where_memory_runs_out():
    from xai_repro.network.chunks import in_chunks

    data, sizes = torch.arange(11.0), []

    def work(rows):
        sizes.append(len(data[rows]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return data[rows] * 2

    assert torch.equal(in_chunks(work, 11, 8), data * 2)
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]

    def never(rows):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_chunks(never, 3, 2)


def test_predict_leaves_images_and_model_alone():
    from xai_repro.network.forward import predict

    model, x = torch.nn.Sequential(torch.nn.ReLU(True), seeded(TOYS["vgg"].build)), images()
    expected, given = model(x.clone()).detach(), x.clone()
    model.train()
    assert torch.equal(predict(model, x), expected) and torch.equal(x, given) and model.training
    torch.testing.assert_close(predict(model, x, chunk=1), expected, rtol=0, atol=1e-12)
    assert not predict(model, x).requires_grad
