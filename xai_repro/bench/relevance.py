"""Relevance sent back through a network: LRP's composites against zennit and captum, excitation backprop against zennit and TorchRay.

Most of these methods have no peer that can be installed: of them it is counted and timed what they cost.
"""

from xai_repro.bench import peers
from xai_repro.bench.maps import ours
from xai_repro.bench.measure import Peer, Task
from xai_repro.errors import NotApplicable

LRP = {  # ours -> zennit's composite
    "epsilon-plus": ({"rule": "epsilon-plus", "first": "alpha1beta0"}, "EpsilonPlus"),
    "epsilon-alpha2beta1": ({"rule": "epsilon-alpha2beta1", "first": "alpha2beta1"}, "EpsilonAlpha2Beta1"),
    "epsilon-gamma, z-box": ({"rule": "epsilon-gamma", "first": "z-box"}, "EpsilonGammaBox"),
}
ALONE = ("lrp", "clrp", "sglrp", "relevance-cam", "rap", "rsp", "agf", "gradient-hedging")
TORCHRAY = {"VGG": ("features.23", "classifier.4"), "ResNet": ("layer3", "avgpool")}  # its layers: where it stops, where it contrasts
WHOLE = "a residual sum hands all of its relevance to both summands"
SLOWER = "rules are made and applied function by function in Python, which shows on small images"


def tasks(case, settings):
    """The tasks of one case, one image at a time: costs are the same for each."""
    return [task for task in _tasks(case) if _applies(task)] if case.single else []


def _applies(task):
    try:
        task.ours()
    except NotApplicable:
        return False
    return True


def _tasks(case):
    kind = type(case.model).__name__
    sums, canonised = kind != "VGG", kind in TORCHRAY  # whether branches are summed; whether zennit has a canonizer
    for name, (hyper, composite) in LRP.items():
        yield Task(f"lrp, {name}", ours(case, "lrp", **hyper), [
            Peer(f"zennit {composite}", peers.zennit_relevance(case, composite), same=canonised, note="with its canonizer" if canonised else "has no canonizer for it"),
        ], view=scaled, slower=SLOWER)  # fmt: skip
    yield Task("lrp, epsilon", ours(case, "lrp", rule="epsilon", first="epsilon"), [
        Peer("captum LRP", peers.captum(case, "LRP", largest=False), same=not sums, note=WHOLE if sums else ""),
    ], view=scaled, slower=SLOWER)  # fmt: skip
    yield Task("excitation-backprop, to the images", ours(case, "excitation-backprop", layer="input"), [
        Peer("zennit ExcitationBackprop", peers.zennit_relevance(case, "ExcitationBackprop"), same=False, note="negative pixels count through negative weights"),
    ], view=scaled, slower=SLOWER)  # fmt: skip
    if layers := TORCHRAY.get(kind):
        for name, contrast in (("excitation-backprop", None), ("contrastive-excitation-backprop", layers[1])):
            yield Task(name, ours(case, name), [
                Peer("torchray " + name.replace("-", "_"), peers.torchray(case, layers[0], contrast), same=not sums, note=WHOLE if sums else ""),
            ], view=scaled, slower=SLOWER)  # fmt: skip
    yield Task("fullgrad", ours(case, "fullgrad"), [
        Peer("grad-cam FullGrad", peers.grad_cam(case, "FullGrad", layers=[]), same=False, note="biases of convolutions alone, each map scaled to [0, 1]"),
    ], view=scaled, slower=SLOWER)  # fmt: skip
    for method in ALONE:
        yield Task(method, ours(case, method), [])


def scaled(maps):
    """Maps [B,H,W] over their greatest absolute value: captum begins with the logit, the others with 1."""
    return maps / maps.abs().amax((1, 2), keepdim=True)
