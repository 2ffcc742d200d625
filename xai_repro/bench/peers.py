"""The peers' ways to a map, each set up as its manual says and brought to the resolution of the images.

Every function gives what `Peer` calls `ready`: a context manager that yields the call.
"""

from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module

import torch

from xai_repro.bench.measure import always
from xai_repro.methods.lifts import upsample

NEEDED = {
    "maps": ("pytorch_grad_cam", "torchcam", "captum", "zennit"),
    "curves": ("torchcam", "quantus"),
    "shapley": ("captum", "sklearn"),
    "relevance": ("captum", "pytorch_grad_cam", "torchray", "zennit"),
}


def need(suites):
    """Raise a ModuleNotFoundError that names the first peer that is missing."""
    for module in dict.fromkeys(module for suite in suites for module in NEEDED[suite]):
        try:
            import_module(module)
        except ImportError as missing:
            name = missing.name or module
            raise ModuleNotFoundError(f"the benchmark needs its peers, and {name} is missing: pip install xai-repro[bench]") from missing


def grad_cam(case, name, layers=None):
    """grad-cam's maps [B,H,W], normalised before and after they are resized, as it gives them."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    @contextmanager
    def ready():
        with getattr(pytorch_grad_cam, name)(case.model, [case.target] if layers is None else layers) as cam:
            targets = [ClassifierOutputTarget(c) for c in case.y.tolist()]
            yield lambda: torch.as_tensor(cam(case.leaf(), targets))

    return ready


def grad_cam_weights(case, name, A, channels):
    """grad-cam's coefficients [1,channels] of the first channels of the activations A [1,K,h,w]."""
    import pytorch_grad_cam

    @contextmanager
    def ready():
        with getattr(pytorch_grad_cam, name)(case.model, [case.target]) as cam:

            def call(chunk):
                cam.batch_size = chunk
                some, c = A[:, :channels].numpy(), int(case.y)
                return torch.as_tensor(cam.get_cam_weights(case.x, case.target, [lambda logits: logits[c]], some, None))

            yield call

    return ready


def torchcam(case, name):
    """torchcam's maps before it normalises them, upsampled to [B,H,W]."""
    import torchcam.methods

    @contextmanager
    def ready():
        with getattr(torchcam.methods, name)(case.model, case.layer) as cam:

            def call():
                (found,) = cam(case.y.tolist(), case.model(case.leaf()), normalized=False)
                return upsample(found, case.x.shape[-2:])

            yield call

    return ready


def torchcam_weights(case, name, channels):
    """torchcam's coefficients [1,channels] of the first channels; one forward pass keeps its activations."""
    import torchcam.methods

    @contextmanager
    def ready():
        with getattr(torchcam.methods, name)(case.model, case.layer) as cam, torch.inference_mode():
            case.model(case.x)
            (A,) = cam.hook_a

            def call(chunk):
                cam.bs, cam.hook_a = chunk, [A[:, :channels]]
                return cam._get_weights(case.y.tolist())[0]

            yield call

    return ready


def captum(case, name, largest=True, **options):
    """captum's attributions of the images: the largest of the colours' absolute values, or their sum, [B,H,W]."""
    import captum.attr

    method = getattr(captum.attr, name)(deepcopy(case.model) if name == "LRP" else case.model)  # LRP leaves its rules at the modules

    def call():
        return colours(method.attribute(case.x, target=case.y, **options), largest)

    return always(call)


def captum_layer_grad_cam(case):
    """captum's Grad-CAM of the layer, upsampled to [B,H,W]."""
    import captum.attr

    method = captum.attr.LayerGradCam(case.model, case.target)
    return always(lambda: upsample(method.attribute(case.x, target=case.y, relu_attributions=True)[:, 0], case.x.shape[-2:]))


def zennit(case, composite=None, attributor="Gradient", **options):
    """zennit's gradients under a composite of its rules, the largest absolute value of the colours, [B,H,W]."""
    import zennit.composites

    return _zennit(case, attributor, getattr(zennit.composites, composite)() if composite else None, True, **options)


def zennit_relevance(case, composite):
    """zennit's relevance under a composite, the sum of the colours, [B,H,W]; BatchNorms are merged by its canonizers."""
    import zennit.composites
    import zennit.torchvision

    kind = type(case.model).__name__
    canonizers = [getattr(zennit.torchvision, f"{kind}Canonizer")()] if kind in ("VGG", "ResNet") else []
    box = {"low": case.x.amin().expand_as(case.x), "high": case.x.amax().expand_as(case.x)} if composite.endswith("Box") else {}
    return _zennit(case, "Gradient", getattr(zennit.composites, composite)(canonizers=canonizers, **box), False)


def _zennit(case, attributor, rules, largest, **options):
    """What an attributor of zennit gives under a composite, or None, as maps of `colours`."""
    import zennit.attribution

    @contextmanager
    def ready():
        with getattr(zennit.attribution, attributor)(case.model, rules, **options) as attribute:
            one_hot = torch.nn.functional.one_hot(case.y, case.model(case.x[:1]).shape[1]).to(case.x)
            yield lambda: colours(attribute(case.leaf(), one_hot)[1], largest)

    return ready


def torchray(case, layer, contrast=None):
    """TorchRay's excitation backprop to a layer, or its contrast, upsampled to [B,H,W]; one image at a time, parameters as they were afterwards."""
    from torchray.attribution import excitation_backprop as theirs

    options = {"saliency_layer": layer, "resize": True} | ({"contrast_layer": contrast} if contrast else {})
    function = theirs.contrastive_excitation_backprop if contrast else theirs.excitation_backprop

    @contextmanager
    def ready():
        wanted = [parameter.requires_grad for parameter in case.model.parameters()]
        try:
            yield lambda: function(case.model, case.x, int(case.y), **options).detach()[:, 0]
        finally:
            for parameter, asked in zip(case.model.parameters(), wanted):
                parameter.requires_grad_(asked)

    return ready


def colours(attributions, largest):
    """Attributions [B,3,H,W] as maps [B,H,W]: the largest absolute value of the colours or their sum."""
    attributions = attributions.detach()
    return attributions.abs().amax(1) if largest else attributions.sum(1)
