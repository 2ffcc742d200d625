"""The shares of the channels in the logit against captum, on a VGG's head whose features are there already."""

import torch
from torch import nn
from torchvision.models.vgg import VGG

from xai_repro.bench.measure import always, Peer, Task
from xai_repro.methods.shapley import draw_permutations
from xai_repro.network.split import Split
from xai_repro.registry import method_info

BATCHES = (1, 16, 128)  # captum's perturbations_per_eval
FEW = 2  # permutations that are measured


def tasks(case, settings):
    """The tasks of one case: of one image, for a torchvision VGG, whose head is not linear."""
    if not case.single or not isinstance(case.model, VGG):
        return []
    import captum.attr

    model, split = case.model, Split(case.model, case.x, case.layer)
    above = int(case.layer.split(".")[1]) + 1
    head = nn.Sequential(*model.features[above:], model.avgpool, nn.Flatten(), model.classifier)
    A, K, y = split.A, split.A.shape[1], case.y
    mask = torch.arange(K)[None, :, None, None].expand_as(A).contiguous()

    def ours(name, **hyper):
        return lambda: method_info(name).coefficients.__wrapped__(split, y, **hyper)

    def theirs(peer, **options):
        def call(batch):
            return peer.attribute(A, target=int(y), feature_mask=mask, perturbations_per_eval=batch, **options).flatten(2)[..., 0]

        return {"ready": always(call), "chunks": BATCHES}

    sampling = captum.attr.ShapleyValueSampling(head)
    sampling.permutation_generator = lambda features, n: draw_permutations(features, n, "plain", 0).tolist()  # the same as ours
    permutations, samples = settings["permutations"], settings["coalitions"]
    few = min(FEW, permutations)
    times, note = permutations / few, f"{few} of {permutations} permutations measured of both"
    return [
        Task(f"shap-cam, {permutations} permutations", ours("shap-cam", permutations=few), [
            Peer("captum ShapleyValueSampling", **theirs(sampling, n_samples=few), times=times, note=note),
        ], times=times),
        Task("ablation-cam of the head", ours("ablation-cam"), [Peer("captum FeatureAblation", **theirs(captum.attr.FeatureAblation(head)))]),
        Task(f"lime-cam, {samples} samples", ours("lime-cam", samples=samples), [
            Peer("captum Lime", **theirs(captum.attr.Lime(head, _lasso(), _closeness), n_samples=samples), drawn=True),
        ]),
        Task(f"kshap-cam, {samples} samples", ours("kshap-cam", samples=samples), [
            Peer("captum KernelShap", **theirs(captum.attr.KernelShap(head), n_samples=samples), drawn=True),
        ]),
    ]  # fmt: skip


def _lasso():
    from captum._utils.models.linear_model import SkLearnLasso

    return SkLearnLasso(alpha=0.01 / (2 * 0.135))  # beta / (2 psi), psi about exp(-1/2 / 0.5^2)


def _closeness(given, perturbed, coalition, **_):
    return torch.exp(-(given - perturbed).square().sum() / given.square().sum() / 0.5**2)
