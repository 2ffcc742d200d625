"""Maps against grad-cam, torchcam, captum and zennit.

A task of a few forward passes is measured on every number of images, one of many on one image.
"""

import torch

import xai_repro as xr
from xai_repro.bench import peers
from xai_repro.bench.measure import always, Peer, Task
from xai_repro.methods.scorecam import score_cam
from xai_repro.network.split import Split

CAMS = {  # method: hyper-parameters, then for grad-cam and torchcam the name, whether the definition is ours, and a note
    "grad-cam": ({}, ("GradCAM", True, ""), ("GradCAM", True, "")),
    "grad-cam++": ({"alpha_norm": False}, ("GradCAMPlusPlus", True, "alpha_norm=False; adds 1e-6 to the denominator"),
                   ("GradCAMpp", False, "weighs G^2 ReLU(G): the division acts on a copy")),
    "xgrad-cam": ({}, ("XGradCAM", True, ""), ("XGradCAM", True, "")),
    "layer-cam": ({}, ("LayerCAM", True, ""), ("LayerCAM", True, "")),
}  # fmt: skip
FIXED = "checks of the arguments and records of the modules take a time of their own, which shows on small networks"
RELUS = "elementwise work at the ReLUs and checks of the arguments, which the count leaves out"
PASSES = (8, 16, 32)  # images per forward pass that peers choose from
GRADIENTS = (4, 8, 16, 50)


def tasks(case, settings):
    """The tasks of one case."""
    return [*_cams(case), *_gradients(case), *(_long(case, settings) if case.single else [])]


def ours(case, method, **hyper):
    return lambda: xr.explain(case.model, case.x, case.y, method, **hyper)


def _cams(case):
    for method, (hyper, gradcam, torch_cam) in CAMS.items():
        found = [
            Peer(f"grad-cam {gradcam[0]}", peers.grad_cam(case, gradcam[0]), same=gradcam[1], note=gradcam[2]),
            Peer(f"torchcam {torch_cam[0]}", peers.torchcam(case, torch_cam[0]), same=torch_cam[1], note=torch_cam[2]),
        ]
        if method == "grad-cam":
            found.append(Peer("captum LayerGradCam", peers.captum_layer_grad_cam(case)))
        yield Task(method, ours(case, method, **hyper), found, view=xr.normalize, slower=FIXED)


def _gradients(case):
    yield Task("gradient", ours(case, "gradient"), [Peer("captum Saliency", peers.captum(case, "Saliency"))], slower=FIXED)
    sixes = any(isinstance(module, torch.nn.ReLU6) for module in case.model.modules())
    own = {"same": not sixes, "note": "leaves ReLU6 as it is" if sixes else ""}
    for method, theirs in {"guided-backprop": ("GuidedBackprop", "GuidedBackprop"), "deconvnet": ("Deconvolution", "DeconvNet")}.items():
        yield Task(method, ours(case, method), [
            Peer(f"captum {theirs[0]}", peers.captum(case, theirs[0]), **own),
            Peer(f"zennit {theirs[1]}", peers.zennit(case, theirs[1]), **own),
        ], slower=RELUS)  # fmt: skip


def _long(case, settings):
    import captum.attr

    steps, samples = settings["steps"], settings["samples"]
    integrated, tunnel = captum.attr.IntegratedGradients(case.model), captum.attr.NoiseTunnel(captum.attr.Saliency(case.model))
    noise = 0.15 * (case.x.max() - case.x.min()).item()

    def along_the_path(chunk):
        found = integrated.attribute(case.x, target=case.y, n_steps=steps, method="gausslegendre", internal_batch_size=chunk)
        return peers.colours(found, largest=False)

    def with_noise(chunk):
        found = tunnel.attribute(case.x, target=case.y, nt_samples=samples, stdevs=noise, nt_samples_batch_size=chunk, abs=False)
        return peers.colours(found, largest=True)

    yield Task(f"integrated-gradients, {steps} steps", ours(case, "integrated-gradients", steps=steps), [
        Peer("captum IntegratedGradients", always(along_the_path), chunks=GRADIENTS),
    ])  # fmt: skip
    yield Task(f"smoothgrad, {samples} samples", ours(case, "smoothgrad", samples=samples), [
        Peer("captum NoiseTunnel", always(with_noise), chunks=GRADIENTS, drawn=True),
        Peer("zennit SmoothGrad", peers.zennit(case, attributor="SmoothGrad", noise_level=0.15, n_iter=samples), drawn=True),
    ])  # fmt: skip
    yield from _channels(case, settings["channels"])


def _channels(case, channels):
    """Ablation-CAM and Score-CAM by their coefficients: the peers on some of the channels, ours of Score-CAM, too."""
    split = Split(case.model, case.x, case.layer)
    A, K = split.A, split.A.shape[1]
    n = min(channels, K)
    split.A = torch.where(torch.arange(K)[:, None, None] < n, A, 0)
    live, partly = int((split.A.amax((2, 3)) > split.A.amin((2, 3))).sum()), f"{n} of {K} channels measured"
    of_peer, logit = f"{partly} of the peer, whose coefficients are divided by the logit", split.logits.gather(1, case.y[:, None])

    def ablation():
        return xr.coefficients(case.model, case.x, case.y, "ablation-cam")[:, :n] / logit

    yield Task("ablation-cam", ablation, [
        Peer("grad-cam AblationCAM", peers.grad_cam_weights(case, "AblationCAM", A, n), chunks=PASSES, times=K / n, note=of_peer),
    ])  # fmt: skip
    of_both = f"{partly} of both, {live} of them live"
    aligned, normalised = f"{of_both}; masks with corners aligned", f"{of_both}; masks normalised before upsampling"
    yield Task("score-cam, softmax", lambda: score_cam(split, case.y, weight="softmax")[:, :n], [
        Peer("grad-cam ScoreCAM", peers.grad_cam_weights(case, "ScoreCAM", A, n), chunks=PASSES, times=K / n, note=aligned),
        Peer("torchcam ScoreCAM", peers.torchcam_weights(case, "ScoreCAM", n), chunks=PASSES, times=K / n, note=normalised),
    ], times=K / n)  # fmt: skip
