"""Small untidy networks with float64 weights, and instruments: what a model's state is, what a call costs in time and memory."""

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SIZE, CLASSES = 16, 5
Y = torch.tensor([1, 4, 0])  # classes explained of three images


class GapLinear(nn.Module):
    """Global average pooling and one linear layer, no ReLU bias trouble: F is linear in A."""

    def __init__(self, bias=True):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, CLASSES, bias=bias)

    def forward(self, x):
        return self.fc(self.pool(self.features(x)).flatten(1))


class VGGLike(nn.Module):
    """In-place ReLUs, max-pooling above the cut, flatten, three linear layers with Dropout: F is not linear."""

    def __init__(self, bias=True):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(
            nn.Linear(96, 12, bias=bias),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(12, 10, bias=bias),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(10, CLASSES, bias=bias),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Bottleneck(nn.Module):
    """One ReLU module used three times in place, `out += identity`, and a projection where the width changes."""

    def __init__(self, width_in, width, width_out):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, width_out, 1, bias=False), nn.BatchNorm2d(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if width_in != width_out:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width_out, 1, bias=False), nn.BatchNorm2d(width_out))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Residual(nn.Module):
    """A stem, a bottleneck with a projection, one with a plain shortcut, pooling, one linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True)
        self.layer1 = nn.Sequential(Bottleneck(4, 3, 8), Bottleneck(8, 3, 8))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Functional(nn.Module):
    """Functional operations between modules: normalisation by buffers, F.relu, F.max_pool2d, torch.cat of both sides of the cut."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.9, 1.1, 1.3]).view(3, 1, 1))
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = (x - self.mean) / self.std
        a = F.max_pool2d(F.relu(self.conv1(x)), 2)
        b = self.act(self.conv2(a))
        c = F.relu(self.conv3(torch.cat([a, b], 1)))
        return self.fc(F.adaptive_avg_pool2d(c, 1).flatten(1))


Toy = namedtuple("Toy", "build layer layers given", defaults=({},))  # given: hyper-parameters that a method needs on it
TOYS = {
    "vgg": Toy(VGGLike, "features.4", ["features.2", "features.4"]),
    "residual": Toy(Residual, "layer1", ["layer1.0", "layer1"]),
    "gap": Toy(GapLinear, "features.3", ["features.1", "features.3"]),
    "functional": Toy(Functional, "act", ["act"]),
}


def seeded(build, seed=0, dtype=torch.float64):
    """A toy in eval mode with weights from a seed; BatchNorm gets statistics that do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.normal_(module.bias, 0, 0.2)
    return model.to(dtype).eval()


def images(B=3, size=SIZE, seed=1, dtype=torch.float64):
    """Smooth random images [B,3,size,size], so that methods that segment or blur find something."""
    coarse = torch.randn(B, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fine = torch.randn(B, 3, size, size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return (F.interpolate(coarse, size=size, mode="bicubic", align_corners=False) + 0.3 * fine).to(dtype)


# -- instruments ----------------------------------------------------------------------------------------------------

HOOKS = [
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_state_dict_hooks", "_load_state_dict_pre_hooks",
]  # fmt: skip


def state(model):
    """Everything about a model that a method has to leave alone, as comparable plain values."""
    found = {}
    for name, module in model.named_modules():
        found[name, "training"] = module.training
        found[name, "keys"] = frozenset(module.__dict__)
        found[name, "forward"] = module.__dict__.get("forward")
        found[name, "class"] = type(module)
        found[name, "children"] = [(key, id(child)) for key, child in module._modules.items()]
        for hooks in HOOKS:
            found[name, hooks] = dict(getattr(module, hooks))
        found[name, "plain"] = {k: v for k, v in module.__dict__.items() if isinstance(v, (bool, int, float, str, tuple))}
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                grad = None if tensor.grad is None else (id(tensor.grad), _bytes(tensor.grad))
                found[name, key] = (id(tensor), tensor.requires_grad, grad, _bytes(tensor), len(tensor._backward_hooks or ()))
    return found


def _bytes(tensor):
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def flops(function):
    """Floating-point operations of a call, as torch's counter counts them (convolutions and matrix products)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def peak_bytes(function):
    """Most bytes held at one time by what a call allocates on the CPU, from the allocator's own events.

    What was there before (parameters, images) does not count; what an operation needs for a moment does, except what
    oneDNN takes for itself.
    """
    function()  # what is allocated once for ever does not count either
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function()
    del result
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
