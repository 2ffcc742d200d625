"""What training shows a network, how sure it leaves it, and how well it then recognises what is masked."""

from importlib import import_module

import pytest
import torch
from drawn import drawn
from torch import nn

from xai_repro.data import load_data, Sample
from xai_repro.models import load_model, recognised, trainings
from xai_repro.models.measure import largest, said_of_trainings, SHOWN

training = import_module("xai_repro.models.train")  # the package exports a function of that name


def shown(pixels, objects, progress, seed=0):
    torch.manual_seed(seed)
    return training._augment(pixels, objects, progress)


def batch(n=64):
    pixels, objects, _ = training._draw(load_data("mini-birds", "train", limit=n), progress=False)
    return pixels, objects


def test_what_is_hidden_grows_while_training():
    pixels, objects = batch()
    hidden = [(shown(pixels, objects, progress) == 0).all(1).float().mean().item() for progress in (0.0, 0.5, 0.99)]
    assert hidden[0] < 0.001 < hidden[1] < 1 and hidden[2] > 0.02
    assert torch.equal(shown(pixels, objects, 0.5), shown(pixels, objects, 0.5)) and not torch.equal(shown(pixels, objects, 0.5), shown(pixels, objects, 0.5, seed=1))


def test_masks_move_with_the_image(monkeypatch):
    """Of white images with a black object only the object is left, wherever mirroring and shifting bring it."""
    objects = torch.zeros(32, 1, 96, 96, dtype=torch.bool)
    objects[:, :, 20:40, 10:30] = True
    pixels = torch.where(objects, 0, 255).expand(-1, 3, -1, -1).to(torch.uint8)
    monkeypatch.setattr(torch, "randint", lambda high, *more, size=None, device=None: torch.full(size, 2) if size else torch.full(more[-1], 4))
    seen = shown(pixels, objects, 0.9)
    alone = 0
    for image in seen:
        object_ = (image < -0.1).all(0)  # black, however dimmed; white is above 0
        rows, columns = object_.any(1).nonzero()[:, 0], object_.any(0).nonzero()[:, 0]
        assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (20, 20) and object_.sum() == 400
        alone += bool((image[:, ~object_] == 0).all())
    assert 0 < alone < 32  # a fifth of these lose all of the background, the others a part


def test_greyness_and_light_leave_the_picture_as_it_is_in_some():
    pixels, objects = batch(256)
    flat = torch.zeros_like(pixels) + torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    seen = shown(flat, objects, 0.0)
    assert (seen.amax((2, 3)) - seen.amin((2, 3))).max() < 1e-5  # at the start of training nothing is hidden
    spread = seen[..., 0, 0].amax(1) - seen[..., 0, 0].amin(1)
    assert spread.max() / spread.min() > 3  # some grey or dimmed, some as they are


@pytest.mark.parametrize("data", ["mini-birds", "mini-scenes"])
def test_a_tempered_network_is_as_sure_as_wanted_and_decides_as_before(data):
    test = load_data(data, "val", limit=60)
    net = load_model("mini-resnet", data, device="cpu")
    with torch.no_grad():
        net.fc.weight.mul_(3), net.fc.bias.mul_(3)
    before = training.predicted(net, test)[0].detach()
    training._temper(net, test)
    after = training.predicted(net, test)[0].detach()
    assert largest(after, test.multi_label).median() == pytest.approx(training.CONFIDENCE, abs=1e-4)
    assert torch.equal(after.argsort(1), before.argsort(1))
    ratio = after / before
    assert ratio.std() < 1e-3 * ratio.mean()


BIRDS = load_data("mini-birds")


class Ideal(nn.Module):
    """Answers with the mean of the first colour: above a threshold class 1, else class 0."""

    def forward(self, x):
        return torch.stack([-x[:, 0].mean((1, 2)), x[:, 0].mean((1, 2))], 1) * 50


class Two:
    """Images that are 1 on an object (and -1 elsewhere): the object covers more than half of every other one."""

    multi_label, classes = False, ("small", "large")

    def __init__(self, numbers=range(10)):
        self.numbers = list(numbers)

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Two(self.numbers[index])
        if index >= len(self):
            raise IndexError
        large = self.numbers[index] % 2
        mask = torch.full((8, 8), -1)
        mask[: 6 if large else 2] = large
        return Sample(image=torch.where(mask >= 0, 1.0, -1.0).expand(3, 8, 8), labels=(large,), mask=mask)


def test_recognised_by_hand():
    net = Ideal()
    net.register_parameter("unused", nn.Parameter(torch.ones(())))
    found = recognised(net, Two(), limit=10)
    assert set(found) == set(SHOWN)
    # The mean is 0.5 and -0.5 as drawn; of the objects alone 0.75 and 0.25, both above 0; of the background alone -0.25 and -0.75; with
    # the objects half dimmed 0.125 and -0.625, the background 0.625 and -0.125; a blurred mask is about the same everywhere.
    assert {name: share for name, (share, _) in found.items()} == {
        "as drawn": 1.0, "objects alone": 0.5, "objects alone, edges soft": 1.0, "half dimmed": 1.0, "objects half dimmed": 1.0,
        "background half dimmed": 1.0, "grey": 1.0, "background alone": 0.5,
    }  # fmt: skip
    assert all(sure > 0.99 for _, sure in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mini-vgg", "mini-resnet"])
def test_shipped_networks_survive_being_masked(model):
    """What metrics show a network are objects alone and images dimmed; one that answers them at random makes metrics of noise."""
    assert len(trainings(model)) == 5
    for weights in trainings(model):
        found = recognised(load_model(model, weights), drawn("mini-birds", 300), limit=300)
        for name in ("as drawn", "objects alone", "objects alone, edges soft", "half dimmed", "background half dimmed", "grey"):
            assert found[name][0] >= 0.9, (weights, name, found)


def test_trainings_in_words():
    one = {"model": "a", "data set": "birds", "accuracy": 0.971, "median_top1_probability": 0.851, "n": 40}
    other = {"model": "b", "data set": "scenes", "mean_average_precision": 0.95, "median_top1_probability": 0.7, "n": 30}
    assert said_of_trainings([one, other, one | {"accuracy": 0.989, "median_top1_probability": 0.854}]) == (
        "a on birds: accuracy 0.971 to 0.989 on 40 test images in 2 trainings, median of the top-1 probability 0.85. "
        "b on scenes: mean average precision 0.950 on 30 test images in one training, median of the top-1 probability 0.70."
    )
