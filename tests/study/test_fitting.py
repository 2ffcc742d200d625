"""Fitting CLAM: patches by hand, attributes that tell classes apart, and a run that was interrupted."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from torch import nn

from xai_repro.data import Sample
from xai_repro.errors import UnknownName
from xai_repro.methods import cla, clam, clam_layers
from xai_repro.store import fingerprint
from xai_repro.study import fitting

SIDE, CLASSES = 64, 3


class Data(list):
    name, classes, multi_label, fingerprint = "squares", ("red", "green", "blue"), False, "v1"


def data(n=24):
    """Image i has a bright square of colour i % 3 somewhere."""
    generator, found = torch.Generator().manual_seed(0), Data()
    for i in range(n):
        image, (r, c) = torch.randn(3, SIDE, SIDE, generator=generator) * 0.05, torch.randint(4, 40, (2,), generator=generator).tolist()
        image[i % 3, r : r + 16, c : c + 16] += 2
        found.append(Sample(image=image, labels=(i % 3,), id=f"square/{i}"))
    return found


def network():
    """VGG16's layout, each convolution the identity of three channels: the class is the brightest colour."""
    from torchvision.models import VGG

    layers, left = [], iter([2, 2, 3, 3, 3])
    for count in left:
        for _ in range(count):
            one = nn.Conv2d(3, 3, 3, padding=1)
            nn.init.zeros_(one.weight), nn.init.zeros_(one.bias)
            for c in range(3):
                one.weight.data[c, c, 1, 1] = 1.0
            layers += [one, nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    net = VGG(nn.Sequential(*layers), num_classes=CLASSES, init_weights=False)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(3, CLASSES)
    net.classifier.weight.data = 30 * torch.eye(3)
    nn.init.zeros_(net.classifier.bias)
    net.classes, net.name = Data.classes, "squares"
    return net.eval()


# -- patches ----------------------------------------------------------------------------------------------------------------


def test_patches_are_cut_where_relevance_is_most():
    R, A = torch.zeros(2, 3, 6, 7), torch.arange(2 * 3 * 6 * 7.0).view(2, 3, 6, 7)
    R[0, 1, 2:4, 3:5], R[0, 0, 5, 6], R[1, 2, 0, 0] = 1.0, 3.9, 4.0
    R[0, 2] = -9.0  # the largest of the channels counts
    corners = fitting.top_places(R, 2, 2)
    assert corners[0].tolist() == [[2, 3], [4, 5]] and corners[1][0].tolist() == [0, 0]
    cut = fitting.cut(A, corners, 2)
    assert cut.shape == (2, 2, 3, 2, 2) and torch.equal(cut[0, 0], A[0, :, 2:4, 3:5]) and torch.equal(cut[1, 0], A[1, :, 0:2, 0:2])
    assert fitting.top_places(torch.rand(1, 1, 2, 2), 2, 3).tolist() == [[[0, 0]] * 3]  # fewer places than attributes


def test_the_largest_channel_counts():
    R = torch.zeros(1, 2, 3, 3)
    R[0, 0, 0, 0], R[0, 1, 0, 0] = 3.0, -2.9
    R[0, :, 2, 2] = 1.0
    assert fitting.top_places(R, 1, 2)[0].tolist() == [[0, 0], [2, 2]]  # by the sum it would be the other way round


def test_while_others_learn_an_attribute_is_looked_for_in_its_own_patch():
    generator = torch.Generator().manual_seed(0)
    K, p, a, N = 3, 4, 2, 2
    pairs = [(torch.randn(K + 1, K + 1, generator=generator, dtype=torch.float64), torch.randn(K + 1, generator=generator, dtype=torch.float64)) for _ in range(2)]
    one = cla.CLA(torch.rand(N, K + 1, a, a, generator=generator, dtype=torch.float64), *pairs, cla.class_patterns(2, p, generator).double(), 1.3)
    A, R = (torch.rand(1, K, 9, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    found = fitting.refined_by_own_patches(A, R, torch.tensor([1]), one, "corner")
    expected = R.clone()
    for n, corner in enumerate(fitting.top_places(R, p, N)[0].tolist()):
        E = cla.embedded(A[:, :, corner[0] : corner[0] + p, corner[1] : corner[1] + p], one.patterns[1][None], one)[0]
        windows = {(i, j): float(((E[:, i : i + a, j : j + a] - one.attributes[n]) ** 2).sum()) for i in range(p - a + 1) for j in range(p - a + 1)}
        i, j = min(windows, key=windows.get)
        expected *= cla.strengthened(torch.tensor([[[corner[0] + i, corner[1] + j]]]), p, (9, 9), 1.3)
    torch.testing.assert_close(found, expected)
    whole = cla.strengthened(fitting.top_places(R, p, N), p, (9, 9), 1.3, "patch")
    torch.testing.assert_close(fitting.refined_by_own_patches(A, R, torch.tensor([1]), one, "patch"), R * whole)


# -- what is learnt -----------------------------------------------------------------------------------------------------------


def test_attributes_tell_classes_apart_where_a_line_does():
    """Patches of short features that show their class, as a linear probe would see: the right pattern is nearer than another one."""
    y, K = torch.arange(90) % CLASSES, 12
    shown = nn.functional.one_hot(torch.stack([y, y + 4, y + 8], 1), K).sum(1).float()[:, None, :, None, None].expand(-1, 4, -1, 3, 3)
    patches = 0.3 * shown + 0.01 * torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    spec = clam_layers.Spec("any", 4, 3, 2, 1.2)
    told = []
    for epochs in (1, 100):  # 100 as in the paper
        one = fitting.learn(patches, patches, y, spec, CLASSES, torch.Generator().manual_seed(1), epochs=epochs, patience=epochs)
        near, far = (cla.distances(cla.embedded_patches(patches, one.patterns[label], one), one.attributes).mean((1, 2, 3)) for label in (y, (y + 1) % CLASSES))
        told.append((float((near < far).float().mean()), float((far / near).mean())))
    assert told[0][1] < 1.5 and told[1][1] > 2 and told[1][0] > 0.95


def test_what_is_written_says_how_it_was_made(tmp_path):
    net, samples = network(), data(9)
    path = fitting.fit_clam(net, samples, "lrp", "core", epochs=2, out=tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    assert facts.pop("code") == fingerprint.of_code(fitting._fit)
    assert facts == {
        "network": clam.network_of(net), "model": "squares", "data": "v1", "base": "lrp", "layers": "core", "images": "9", "epochs": "2", "patience": "1",
        "batch": "8", "seed": "0", "negatives": "patch", "normaliser": "size", "mask": "corner",
    }  # fmt: skip
    x = torch.stack([one.image for one in samples[:2]])
    found = clam.clam(net, x, None, base="lrp", layers="core", attributes=str(path))
    assert found.shape == (2, SIDE, SIDE) and (found >= 0).all() and torch.equal(found, clam.clam(net, x, None, base="lrp", layers="core", attributes=str(tmp_path)))


def tensors(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def same(one, other):
    return same_numbers(tensors(one), tensors(other))


def same_numbers(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_an_interrupted_run_ends_the_same(tmp_path, monkeypatch):
    net, samples = network(), data(9)
    options = {"layers": "core", "epochs": 2}
    whole = fitting.fit_clam(net, samples, out=tmp_path / "whole.safetensors", **options)
    learn, calls, stops = fitting.learn, [], [1, 3, 4]

    def dies(*arguments, **options):
        calls.append(1)
        if stops and len(calls) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        return learn(*arguments, **options)

    monkeypatch.setattr(fitting, "learn", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            fitting.fit_clam(net, samples, out=tmp_path / "again.safetensors", **options)
        assert not (tmp_path / "again.safetensors").exists()
    again = fitting.fit_clam(net, samples, out=tmp_path / "again.safetensors", **options)
    assert len(calls) == 5 + 3 and same(whole, again)  # each of five layers was learnt once
    assert not (tmp_path / "again.part").exists()
    fitting.fit_clam(net, samples, out=again, **options)
    assert len(calls) == 8  # what is done is not done again
    fitting.fit_clam(net, samples, out=again, **options | {"epochs": 1})
    assert len(calls) == 13 and not same(whole, again)  # other arguments begin anew


def test_other_images_are_learnt_anew(tmp_path):
    """Also those of data sets that say nothing of themselves."""
    net, samples, options = network(), list(data(12)), {"layers": "core", "epochs": 1, "out": tmp_path / "a.safetensors"}
    first = tensors(fitting.fit_clam(net, samples[:6], **options))
    again = tensors(fitting.fit_clam(net, samples[6:], **options))
    assert not same_numbers(first, again)
    more = tensors(fitting.fit_clam(net, data(12), **options))
    assert not same_numbers(more, tensors(fitting.fit_clam(net, data(6), **options)))  # of one name


def test_relevance_goes_on_from_a_layer_as_if_it_came_from_the_logits(tmp_path, monkeypatch):
    net, samples = network(), data(9)
    options = {"layers": "core", "epochs": 2}
    kept = fitting.fit_clam(net, samples, out=tmp_path / "kept.safetensors", **options)
    monkeypatch.setattr(fitting, "MOST", 0)
    monkeypatch.setattr(fitting, "relevance_between", None)  # is not called
    assert same(kept, fitting.fit_clam(net, samples, out=tmp_path / "anew.safetensors", **options))


def test_a_file_is_busy_while_it_is_fitted(tmp_path, monkeypatch):
    out, learn, seen = tmp_path / "a.safetensors", fitting.learn, []

    def asks(*arguments, **options):
        with ThreadPoolExecutor() as pool:  # locks are held by threads
            seen.append(pool.submit(fitting.busy, out).result())
        return learn(*arguments, **options)

    monkeypatch.setattr(fitting, "learn", asks)
    fitting.fit_clam(network(), data(9), layers="core", epochs=1, out=out)
    assert seen == [True] * 5 and not fitting.busy(out)


def test_layers_begin_differently_and_go_on_with_what_the_file_holds(tmp_path, monkeypatch):
    net, samples, seen, refined = network(), data(9), {}, fitting.refined_by_own_patches

    def noted(A, R, y, cla, mask):
        seen[tuple(A.shape)] = cla
        return refined(A, R, y, cla, mask)

    monkeypatch.setattr(fitting, "refined_by_own_patches", noted)
    path = fitting.fit_clam(net, samples, layers="core", epochs=1, out=tmp_path / "a.safetensors")
    kept = list(clam.attributes_of(net, "clrp", "core", path).values())
    assert len(seen) == 5 and all(any(torch.equal(one.attributes, other.attributes) for other in kept) for one in seen.values())
    found = clam.attributes_of(net, "clrp", "core", fitting.fit_clam(net, samples, layers="core", epochs=0, out=tmp_path / "b.safetensors"))
    one, other = (found[f"features.{n}"].first[0] for n in (29, 22))
    assert one.shape == other.shape and not torch.equal(one, other)


@pytest.mark.parametrize("choice", [{"negatives": "random"}, {"normaliser": "count"}, {"mask": "patch"}, {"seed": 1}, {"images": 5}, {"batch": 2}])
def test_every_choice_makes_a_difference(tmp_path, choice):
    net, samples = network(), data(9)
    usual, other = (fitting.fit_clam(net, samples, out=tmp_path / f"{n}.safetensors", **{"layers": "core", "epochs": 2} | some) for n, some in enumerate(({}, choice)))
    assert not same(usual, other)


def test_what_is_refused(tmp_path):
    net, samples = network(), data(3)
    for options, error, message in (
        ({"base": "lpr"}, UnknownName, "unknown base of CLAM 'lpr'; did you mean 'lrp'"), ({"negatives": "none"}, UnknownName, "unknown negatives 'none'"),
        ({"normaliser": "n"}, UnknownName, "unknown normaliser"), ({"mask": "m"}, UnknownName, "unknown mask"), ({"epochs": -1}, ValueError, "epochs is -1"),
        ({"base": ["lrp"]}, UnknownName, "unknown base of CLAM"), ({"out": tmp_path / "a.part"}, ValueError, "a.part does not end in .safetensors"), ({"out": 3}, ValueError, "out is 3"),
        ({"images": 1.5}, ValueError, "images is 1.5"), ({"layers": "most"}, UnknownName, "unknown layers of CLAM"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            fitting.fit_clam(net, samples, **{"out": tmp_path / "a.safetensors"} | options)
    wrong = Data(Sample(image=one.image, labels=((one.labels[0] + 1) % CLASSES,)) for one in samples)
    with pytest.raises(ValueError, match="recognises none of 3 images with a probability above 0.2"):
        fitting.fit_clam(net, wrong, out=tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("a.*"))
