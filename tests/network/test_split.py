"""The cut: what it computes equals the whole model, and it never runs the trunk again."""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from toy_untidy import ATOL, replaced, untidy, WrittenAbove, WrittenAfter
from toys import CLASSES, VGGLike, flops, images, peak_bytes, seeded

from xai_repro.network.split import Split


def whole_grad(model, x, layer, y):
    """d logit_y / d A by autograd through the whole model, trunk included."""
    model, kept = copy.deepcopy(model), []
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    score = model(x)[torch.arange(len(x)), y].sum()
    return torch.autograd.grad(score, kept[0])[0]


class Wrapped(nn.Module):
    """A network behind a normalisation by buffers, returned as the field `logits` of a record."""

    class Output(dict):
        logits = property(lambda self: self["logits"])

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.3))
        self.net = VGGLike()

    def forward(self, x):
        return self.Output(logits=self.net(x - self.mean))


# -- what it computes -------------------------------------------------------------------------------------------------


def test_head_of_A_is_the_logits(untidy):
    model, layer = untidy
    x = images()
    with torch.no_grad():
        expected = model(x.clone())
    split = Split(model, x, layer)
    torch.testing.assert_close(split.logits, expected, rtol=0, atol=ATOL)
    for _ in range(2):  # a head that writes in place must find everything unspoilt the second time
        torch.testing.assert_close(split.head(split.A), expected, rtol=0, atol=ATOL)


def test_head_of_other_activations_on_repeated_rows(untidy):
    model, layer = untidy
    x = images()
    split = Split(model, x, layer)
    of = torch.tensor([2, 0, 0, 1, 2, 1, 0])
    noise = torch.randn(len(of), *split.A.shape[1:], generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    other = split.A[of] + noise
    with torch.no_grad():
        given = other.clone()
        expected = replaced(model, x[of].clone(), layer, other)
        torch.testing.assert_close(split.head(other, of), expected, rtol=0, atol=ATOL)
        assert torch.equal(other, given)
        torch.testing.assert_close(split.head(split.A), split.logits, rtol=0, atol=ATOL)


def test_one_image_with_many_rows(untidy):
    model, layer = untidy
    split = Split(model, images(1), layer)
    scale = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None, None, None]
    rows = split.A * scale
    with torch.no_grad():
        expected = torch.cat([replaced(model, images(1), layer, row[None]) for row in rows])
        got = split.head(rows, torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(got, expected, rtol=0, atol=ATOL)


def test_grad_is_that_of_the_whole_model(untidy):
    model, layer = untidy
    x, y = images(), torch.tensor([0, 3, 4])
    split = Split(model, x, layer)
    for classes in (y, y.flip(0)):  # twice: the graph above the cut is kept
        torch.testing.assert_close(split.grad(classes), whole_grad(model, x.clone(), layer, classes), rtol=0, atol=ATOL)


def test_head_is_differentiable_in_A(untidy):
    model, layer = untidy
    x, y = images(), torch.tensor([1, 1, 2])
    split = Split(model, x, layer)
    leaf = split.A.clone().requires_grad_()
    score = split.head(leaf)[torch.arange(3), y].sum()
    torch.testing.assert_close(torch.autograd.grad(score, leaf)[0], split.grad(y), rtol=0, atol=ATOL)


def test_a_normalising_wrapper_and_a_record_of_logits():
    model, x = seeded(Wrapped), images()
    split = Split(model, x, "net.features.4")
    torch.testing.assert_close(split.head(split.A), model.net(x - 0.3), rtol=0, atol=1e-7)  # the buffer was float32 once
    assert split.target(None).tolist() == model.net(x - model.mean).argmax(1).tolist()


def test_activations_that_the_logits_do_not_read_have_gradient_zero():
    class Unread(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

        def forward(self, x):
            a = self.conv(x)
            return self.fc(a.detach().mean((2, 3)))

    split = Split(seeded(Unread), images(), "conv")
    assert torch.equal(split.grad(torch.tensor([0, 1, 2])), torch.zeros_like(split.A))


# -- what it costs ----------------------------------------------------------------------------------------------------


def test_the_trunk_runs_once_and_never_in_the_head(untidy):
    """Convolutions and linear layers below the cut run in the recording alone, however often the head runs."""
    model, layer = untidy
    calls, order = Counter(), []

    def count(name):
        def hook(module, args, output):
            calls[name] += 1
            order.append(name)

        return hook

    handles = [m.register_forward_hook(count(n)) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    model(images())
    plain, sequence = Counter(calls), list(order)
    for handle in handles:
        handle.remove()
    parameters = {id(m.weight): n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    ran = Counter()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (torch.conv2d, F.conv2d, F.linear) and id(args[1]) in parameters:
                ran[parameters[id(args[1])]] += 1
            return function(*args, **(kwargs or {}))

    with Watch():
        split = Split(model, images(), layer)
    rewritten = isinstance(model, (WrittenAfter, WrittenAbove)) or layer.startswith("layer1.0.downsample")
    assert all(ran[name] == (1 + rewritten) * times for name, times in plain.items() if name != "fc")
    split.head(split.A)  # may have to record again, once
    ran.clear()
    with Watch():
        split.head(split.A)
        split.head(split.A)
    first_above = next((i for i, name in enumerate(sequence) if name == layer or name.startswith(f"{layer}.")), None)
    if first_above is None:
        below = [n for n in sequence if n.startswith("features.")] if layer.startswith("features") else []
        below = [n for n in below if int(n.split(".")[1]) < int(layer.split(".")[1])]
    else:
        below = sequence[:first_above]
    expected = Counter(sequence) - Counter(below) - Counter(n for n in sequence if n == layer or n.startswith(f"{layer}."))
    for name in set(below):
        assert ran[name] <= 2 * expected[name], f"{name} below '{layer}' ran again in the head"


def test_head_of_vgg16_costs_its_head_alone():
    model, x = torchvision.models.vgg16(), torch.randn(1, 3, 224, 224)
    split = Split(model, x)
    assert split.layer == "features.29" and split.A.shape == (1, 512, 14, 14)
    classifier = 2 * (25088 * 4096 + 4096 * 4096 + 4096 * 1000)
    with torch.no_grad():
        assert flops(lambda: split.head(split.A)) == classifier
        assert flops(lambda: split.head(split.A[[0] * 5], torch.zeros(5, dtype=torch.long))) == 5 * classifier
    assert flops(lambda: split.grad(torch.tensor([7]))) == classifier


def test_a_normalising_wrapper_keeps_no_activations_of_the_trunk():
    """The images stand in for the normalisation; the trunk's activations need not be kept for it."""
    model = seeded(Wrapped)
    x = images(8)

    def cut_and_head():
        split = Split(model, x, "net.features.4")
        with torch.no_grad():
            return split.head(split.A)

    def forward():
        with torch.no_grad():
            return model(x)

    assert peak_bytes(cut_and_head) < 2 * peak_bytes(forward)
    with torch.no_grad():
        split = Split(model, x, "net.features.4")
        split.head(split.A)
        assert flops(lambda: split.head(split.A)) == 2 * 8 * (96 * 12 + 12 * 10 + 10 * CLASSES)
