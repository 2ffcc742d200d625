"""Explanation by example: what is found again, a search by hand, what is kept and when it is made anew, the picture."""

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
import toys
import xai_repro as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from safetensors.torch import save_file
from toy_clam import Fitted, WIDTH
from toys import CLASSES, seeded

from xai_repro.data import Sample
from xai_repro.errors import UnknownName
from xai_repro.methods import cla, clam, clam_layers
from xai_repro.study import examples as by_example, fitting
from xai_repro.study.plots import COLOURS

HALF = 1e-2  # of a map's length: what half precision may change


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """mini-vgg, 40 training images, and the index of them."""
    net, samples = xr.load_model("mini-vgg", device="cpu"), xr.load_data("mini-birds", "train", limit=40)
    return net, samples, xr.build_index(net, samples, out=tmp_path_factory.mktemp("birds") / "index.safetensors")


def toy(n=12, p=4, a=2):
    """A small network in float64, images that it is sure of, and {layer: CLA} that have learnt nothing, of patches with 3 x 3 windows."""
    net, generator = seeded(Fitted), torch.Generator().manual_seed(2)
    x = toys.images(n)
    samples = [Sample(image=image, labels=(label,), id=f"toy/{k}") for k, (image, label) in enumerate(zip(x, net(x).argmax(1).tolist()))]
    learnt = {}
    for spec in clam_layers.specs(net, x, "core"):
        pairs = [(torch.randn(WIDTH + 1, WIDTH + 1, generator=generator), torch.randn(WIDTH + 1, generator=generator)) for _ in range(2)]
        kept = torch.rand(spec.number, WIDTH + 1, a, a, generator=generator)
        learnt[spec.name] = cla.CLA(kept, *pairs, cla.class_patterns(CLASSES, p, generator), 1.2)
    return net, samples, learnt


def kept(learnt, path, base="clrp"):
    save_file(clam.packed(learnt), path, {"network": "fitted toy", "base": base, "layers": "core"})
    return path


# -- what is found ---------------------------------------------------------------------------------------------------------------


def test_a_training_image_is_its_own_example(birds):
    net, samples, index = birds
    label = Counter(index.y.tolist()).most_common(1)[0][0]
    name, number = next((name, n) for name, n, y in zip(index.ids, index.numbers, index.y.tolist()) if y == label)
    found = xr.examples(net, samples[number].image[None], index)
    assert list(found.columns) == by_example.COLUMNS and set(found["layer"]) == set(index.found) and (found["image"] == 0).all()
    nearest = found[found["rank"] == 1]
    assert (nearest["example"] == name).all() and (nearest["gap"] <= HALF * nearest["distance"] * 4).all()  # up to 4 x 4 windows
    assert (nearest["at_row"] == nearest["row"]).all() and (nearest["at_column"] == nearest["column"]).all()
    for layer, stride, p in (("features.29", 16, 2), ("features.11", 4, 3), ("features.1", 1, 6)):
        rows = found[found["layer"] == layer]
        assert (rows["side"] == p * stride).all() and 0 < rows["row"].max() <= 96 - p * stride  # in pixels of the image
        assert not (rows[["row", "column", "at_row", "at_column"]] % stride).to_numpy().any()
    others = found[found["rank"] > 1]
    assert set(found["rank"]) == {1, 2, 3} and (others["example"] != name).all() and others["gap"].median() > 5 * nearest["gap"].median()
    assert {samples[index.numbers[index.ids.index(one)]].labels[0] for one in found["example"]} == {label}


def by_hand(A, label, one, number):
    """Every place (row, column) of features A [K,h,w] with the map [q,q] of attribute `number` there, the least mean first."""
    attribute, a, q = one.attributes[number], one.a, one.q
    found = []
    for row in range(A.shape[1] - one.p + 1):
        for column in range(A.shape[2] - one.p + 1):
            E = cla.embedded(A[None, :, row : row + one.p, column : column + one.p], one.patterns[label][None], one)[0]
            D = [[sum(((E[:, u : u + a, v : v + a] - attribute) ** 2).flatten().tolist()) for v in range(q)] for u in range(q)]
            found.append((sum(map(sum, D)) / q**2, row, column, D))
    return sorted(found)


def apart(one, other):
    return sum((u - v) ** 2 for ours, theirs in zip(one, other) for u, v in zip(ours, theirs)) ** 0.5


def test_the_same_is_found_window_by_window(tmp_path):
    net, samples, learnt = toy()
    path = kept(learnt, tmp_path / "a.safetensors")
    index = xr.build_index(net, samples, layers="core", attributes=str(path))
    query = toys.images(3, seed=9)[:1]
    label = int(net(query).argmax(1))
    number, name = 1, "features.22"
    assert name in learnt and index.y.tolist().count(label) > 3
    one = clam.attributes_of(net, "clrp", "core", str(path), torch.float64)[name]
    taken = {}
    hook = net.get_submodule(name).register_forward_hook(lambda module, args, output: taken.update(A=output.detach().clone()))
    net(torch.stack([sample.image for sample in samples])), hook.remove()
    there = [by_hand(A, label, one, number)[: by_example.TOP] for A, y in zip(taken["A"], index.y.tolist()) if y == label]
    hook = net.get_submodule(name).register_forward_hook(lambda module, args, output: taken.update(A=output.detach().clone()))
    net(query), hook.remove()
    d, row, column, D = by_hand(taken["A"][0], label, one, number)[0]
    gaps = [min(apart(D, other) for *_, other in places) for places in there]
    of_class = [name for name, y in zip(index.ids, index.y.tolist()) if y == label]
    rows = xr.examples(net, query, index, attributes=str(path), number=len(of_class))
    rows = rows[(rows["layer"] == name) & (rows["attribute"] == number)]
    assert (rows["row"] == row).all() and (rows["column"] == column).all() and rows["distance"].iloc[0] == pytest.approx(d)
    assert rows["example"].tolist() == [of_class[k] for k in sorted(range(len(gaps)), key=gaps.__getitem__)]
    assert rows["gap"].tolist() == pytest.approx(sorted(gaps), rel=HALF)
    for row in rows.itertuples():
        places = there[of_class.index(row.example)]
        _, *at, _ = min(places, key=lambda place: apart(D, place[3]))
        assert [row.at_row, row.at_column] == at  # as large as the image


def test_only_what_is_recognised_is_an_example(tmp_path, monkeypatch):
    assert by_example.SURE == 0.2
    net, samples, learnt = toy()
    path = kept(learnt, tmp_path / "a.safetensors")
    p = net(torch.stack([sample.image for sample in samples])).softmax(1).amax(1).detach()
    wrong = [Sample(image=one.image, labels=((one.labels[0] + k % 2) % CLASSES,), id=one.id) for k, one in enumerate(samples)] + [Sample(image=samples[0].image, labels=())]
    monkeypatch.setattr(by_example, "SURE", float(p[::2].median()))
    monkeypatch.setattr(fitting, "SURE", by_example.SURE)  # where images are recognised, for both
    index = by_example.build_index(net, wrong, layers="core", attributes=path)
    expected = [k for k in range(0, len(samples), 2) if p[k] > by_example.SURE]
    assert 0 < len(expected) < 6 and index.numbers == tuple(expected) and index.ids == tuple(f"toy/{k}" for k in expected)
    assert index.y.tolist() == [samples[k].labels[0] for k in expected] and all(len(corners) == len(expected) for corners, _ in index.found.values())
    with pytest.raises(ValueError, match="the network recognises none of 2 training images with a probability above"):
        by_example.build_index(net, wrong[1:4:2], layers="core", attributes=path)


def test_of_attributes_that_find_the_same_place_the_nearest_stays():
    corners = torch.tensor([[1, 2], [0, 0], [1, 2], [2, 1], [0, 0]])
    assert by_example.without_doubles(corners, torch.tensor([0.4, 0.3, 0.2, 0.5, 0.1])) == [4, 2, 3]


def test_there_are_no_examples_of_a_class_that_nothing_shows(birds):
    net, samples, index = birds
    few = by_example.Index(index.y[:0], (), (), {name: (corners[:0], maps[:0]) for name, (corners, maps) in index.found.items()}, "clrp", "full", index.network)
    assert len(xr.examples(net, samples[0].image[None], few)) == 0


def test_maps_too_large_for_half_precision_are_kept(tmp_path):
    net, samples, learnt = toy(4)
    large = {name: replace(one, attributes=300 * one.attributes) for name, one in learnt.items()}
    index = xr.build_index(net, samples, layers="core", attributes=str(kept(large, tmp_path / "a.safetensors")))
    assert all(maps.isfinite().all() and maps.max() > 65504 for _, maps in index.found.values())


# -- the file --------------------------------------------------------------------------------------------------------------------


def test_an_index_is_built_once_and_read_again(cache, tmp_path):
    net, samples, learnt = toy()
    one, lrp, calls = kept(learnt, tmp_path / "one.safetensors"), kept(learnt, tmp_path / "lrp.safetensors", "lrp"), []
    other = kept({name: replace(layer, strength=1.5) for name, layer in learnt.items()}, tmp_path / "other.safetensors")
    net.register_forward_hook(lambda *_: calls.append(1))

    def index(data=samples, base="clrp", attributes=one, **more):
        calls.clear()
        found = xr.build_index(net, data, base, "core", attributes=attributes, **more)
        return found, len(calls), len(list((cache / "examples").glob("*.safetensors")))

    first, ran, files = index()
    (path,) = (cache / "examples").glob("*.safetensors")
    assert ran and files == 1
    again, ran, files = index()
    assert not ran and files == 1 and same(first, again)
    for count, more in enumerate(({"images": 5}, {"attributes": other}, {"base": "lrp", "attributes": lrp}, {"data": samples[1:]}), 2):
        found, ran, files = index(**more)
        assert ran and files == count and (len(found.ids) < len(first.ids) or "data" not in more)
    assert index()[1:] == (0, 5)
    path.write_bytes(path.read_bytes()[:-100])
    mended, ran, files = index()
    assert ran and files == 5 and same(first, mended)


def same(one, other):
    pairs = zip(one.found.values(), other.found.values())
    return one.ids == other.ids and torch.equal(one.y, other.y) and all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs))


def test_other_networks_and_other_pictures_have_another_index(cache):
    data, nets = xr.load_data("mini-birds", "train"), [xr.load_model("mini-vgg", weights=name, device="cpu") for name in ("mini-birds", "mini-birds-1")]
    first, other = (xr.build_index(net, data[:4]) for net in nets)
    assert len(list((cache / "examples").glob("*.safetensors"))) == 2 and first.network != other.network
    assert len(xr.build_index(nets[0], data[:6]).ids) == len(xr.build_index(nets[0], data, images=6).ids) == 6
    assert xr.build_index(nets[0], data[4:8]).ids == tuple(f"mini-birds/train/{n}" for n in range(4, 8))
    x = data[0].image[None]
    for index in (other, None):
        with pytest.raises(ValueError, match="was not made of this network"):
            xr.examples(nets[0], x, index)


def test_what_is_refused(birds):
    net, samples, index = birds
    x = samples[0].image[None]
    for call, error, message in (
        (lambda: xr.build_index("mini-vgg"), ValueError, "torch.nn.Module; got str"), (lambda: xr.build_index(net, base="lpr"), UnknownName, "unknown base of CLAM 'lpr'"),
        (lambda: xr.build_index(net, layers="most"), UnknownName, "unknown layers of CLAM 'most'"), (lambda: xr.build_index(net, []), ValueError, "a data set is a name or a sequence"),
        (lambda: xr.build_index(net, 3), ValueError, "given: 3"), (lambda: xr.build_index(net, [(x, 1)]), ValueError, r"an image is a tensor \[C,H,W\]"),
        (lambda: xr.build_index(net, images=0), ValueError, "images is 0"), (lambda: xr.build_index(net, attributes="nowhere"), FileNotFoundError, "no attributes file or folder nowhere"),
        (lambda: xr.build_index(net, out=3), ValueError, "out is 3"), (lambda: xr.examples(net, x, index, number=0), ValueError, "number is 0"),
        (lambda: xr.examples(net, x[0], index), ValueError, "add the batch dimension"), (lambda: xr.examples(net, x, index, 99), ValueError, "y holds class 99"),
        (lambda: xr.examples(net, x, index, "crow"), UnknownName, "unknown class 'crow'"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    by_name = xr.examples(net, x, index, net.classes[samples[0].labels[0]])
    assert by_name.equals(xr.examples(net, x, index, torch.tensor(samples[0].labels[:1]))) and len(by_name)


# -- the picture -----------------------------------------------------------------------------------------------------------------


def test_relevance_on_its_way_is_that_of_the_map(tmp_path):
    net, samples, learnt = toy(3)
    path = kept(learnt, tmp_path / "a.safetensors", "lrp")
    x = torch.stack([sample.image for sample in samples])
    maps = by_example.maps_on_the_way(net, x, None, "lrp", "core", path)
    assert list(maps) == [f"features.{n}" for n in (29, 22, 15, 8, 3)] and all(one.shape == (3, 16, 16) for one in maps.values())
    M = clam.clam(net, x, None, base="lrp", layers="core", attributes=path)
    torch.testing.assert_close(maps["features.3"].sum((1, 2)), M.sum((1, 2)))  # nothing is lost below the last CLA-layer
    assert not torch.allclose(maps["features.8"].sum((1, 2)), M.sum((1, 2)), rtol=1e-3)


def test_the_picture_has_a_row_for_each_layer(birds):
    net, samples, index = birds
    sample, shown, layers = samples[index.numbers[0]], 3, ["features.22", "features.8", "features.1"]
    x = sample.image[None]
    found, maps = xr.examples(net, x, index), {name: R[0] for name, R in by_example.maps_on_the_way(net, x, None).items()}
    asked = []

    def training(name):
        asked.append(name)
        return samples[index.numbers[index.ids.index(name)]]

    figure = by_example.draw(sample, found, maps, training, layers, shown)
    assert isinstance(figure, Figure) and len(figure.axes) == 3 * (shown + 2) and not any(axis.axison for axis in figure.axes)
    for number, layer in enumerate(layers):
        first, heat, *others = figure.axes[number * (shown + 2) : (number + 1) * (shown + 2)]
        rows = found[(found["layer"] == layer) & (found["rank"] == 1)].sort_values("distance").head(shown)
        assert first.get_title() == layer and heat.get_title() == "relevance" and [axis.get_title() for axis in others] == [f"like {k}" for k in range(1, len(rows) + 1)] + [""] * (shown - len(rows))
        assert framed(first) == [(COLOURS[1 + k], row.column, row.row, row.side) for k, row in enumerate(rows.itertuples())]
        assert [frame for axis in others for frame in framed(axis)] == [(COLOURS[1 + k], row.at_column, row.at_row, row.side) for k, row in enumerate(rows.itertuples())]
        assert asked[: len(rows)] == rows["example"].tolist()
        del asked[: len(rows)]
    assert not asked


def framed(axis):
    return [(to_hex(one.get_edgecolor()).upper(), *one.get_xy(), one.get_width()) for one in axis.patches if isinstance(one, Rectangle)]


# -- time ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_examples_of_an_image_come_within_a_second():
    """From 2,000 training images, on one core."""
    net, threads = xr.load_model("mini-vgg", device="cpu"), torch.get_num_threads()
    x, n, found = xr.load_data("mini-birds")[0].image[None], 2000, {}
    for name, one in clam.attributes_of(net, "clrp", "full").items():
        N = len(one.attributes)
        found[name] = torch.randint(6 - one.p + 1, (n, N, by_example.TOP, 2)), torch.rand(n, N, by_example.TOP, one.q, one.q)
    index = by_example.Index(torch.randint(16, (n,)), tuple(map(str, range(n))), tuple(range(n)), found, "clrp", "full", net.fingerprint)
    torch.set_num_threads(1)
    try:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            rows = xr.examples(net, x, index)
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert len(rows) > 100 and sorted(seconds)[2] < 1, seconds
