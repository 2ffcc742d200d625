"""Classifiers with an attention map of their own, trained with them: LFI-CAM and the attention branch network, around any backbone."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn

from xai_repro.errors import unknown
from xai_repro.models.backbones import initialise, parts

ACTIVATIONS = (4, 2)  # ReLUs of the Feature Importance Network: as the paper's table 1 has it; as the released code for CIFAR


def min_max(maps):
    """Maps [...,h,w] scaled to [0,1], each by itself; a constant one stays as it is.

    Its span is never divided by, so that gradients are finite there (released: 0/0, and the result replaced).
    """
    least, most = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    flat = most == least
    return torch.where(flat, maps, (maps - least) / torch.where(flat, 1.0, most - least))


class Attended(nn.Module):
    """(1 + M_ij) A_kij: what is attended to counts up to twice. A layer, so that other methods can explain it."""

    def forward(self, A, M):
        return A + M * A


class FeatureImportance(nn.Sequential):
    """The Feature Importance Network: w [B,K] = softmax(mean_ij conv-BN-ReLU four times), each convolution 3x3 from K channels to K   [LFI-CAM, table 1].

    4 (9 K^2 + 2 K) parameters. relus: 4, or 2, behind the second and the fourth, as the released code for CIFAR has it.
    Raises UnknownName for another number.
    """

    def __init__(self, channels, relus=4):
        if relus not in ACTIVATIONS:
            raise unknown("number of ReLUs", str(relus), [str(one) for one in ACTIVATIONS])
        layers = []
        for n in range(4):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
            layers += [nn.ReLU()] if relus == 4 or n % 2 else []
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(dim=1))


class Attention(nn.Module):
    """A backbone with a map M [B,1,h,w] that its features are multiplied by; the backbone's layers keep their names, behind `backbone.`.

    Calling it gives logits [B,classes]. `heads(x)` gives all logits that training is to make right, and the map.
    """

    def __init__(self, backbone):
        super().__init__()
        parts(backbone)  # or it is refused here
        self.backbone, self.attended = backbone, Attended()

    def forward(self, x):
        return self.heads(x)[0][-1]

    def map(self, x):
        """M [B,h,w], as it is multiplied with the features."""
        return self.heads(x)[1][:, 0]

    def _logits(self, A, through=()):
        """Logits of features A, through further layers, the neck, the mean over places and the linear layer."""
        _, _, neck, linear = parts(self.backbone)
        return linear(run([*through, *neck], A).mean((2, 3)))


def run(layers, x):
    for layer in layers:
        x = layer(x)
    return x


class LFICAM(Attention):
    """LFI-CAM: the map is the features of the last stage, weighted by what the Feature Importance Network makes of them.

    M = minmax(ReLU(sum_k w_k A_k)), w = FIN(s_k g), s_k: A_k scaled to [0,1], and 0 where A_k is 0; g: the grey image at A's size   [LFI-CAM, released code]

    A [B,K,h,w]: output of the last stage; the neck (DenseNet's last BatchNorm and ReLU), pooling and the linear layer see (1 + M) A. One
    loss: cross-entropy of the logits. relus: of the Feature Importance Network.
    *Deviation*: a channel that is constant but not 0 gives ones, one that is 0 zeros, as released; but no gradient passes through their span.
    """

    def __init__(self, backbone, relus=4):
        super().__init__(backbone)
        self.importance = initialise(FeatureImportance(parts(backbone).linear.in_features, relus))

    def heads(self, x):
        A = self.features(x)
        M = self.attention(A, x)
        return [self._logits(self.attended(A, M))], M

    def features(self, x):
        """A [B,K,h,w]: output of the last stage."""
        before, last, *_ = parts(self.backbone)
        return run([*before, last], x)

    def attention(self, A, x):
        """M [B,1,h,w] of features A and images x."""
        weighted = torch.einsum("bk,bkhw->bhw", self.weights(A, x), A)
        return min_max(weighted.relu())[:, None]

    def weights(self, A, x):
        """w [B,K] >= 0, of sum 1."""
        grey = F.interpolate(x.mean(1, keepdim=True), A.shape[-2:], mode="bilinear")
        flat = A.amin((2, 3), keepdim=True) == A.amax((2, 3), keepdim=True)
        shape = torch.where(flat, 1.0, min_max(A)) * (A != 0)
        return self.importance(shape * grey)


class ABN(Attention):
    """The attention branch network: a second classifier on the features before the last stage, whose evidence for all classes is made one map.

    h = ReLU(BN(conv1x1(BN(last'(A))))), M = sigmoid(BN(conv3x3(h))), logits of the branch: mean_ij conv1x1(h)   [Fukui et al. 2019; released code]

    A [B,K,h,w]: output of the stage before the last; last': a copy of the last stage that keeps the size; the last stage sees (1 + M) A. Loss: the sum of the
    cross-entropies of the branch's logits and of the classifier's.
    *Deviation*: the same for every backbone (released: without BN in ResNeXt, and log(1 + h) in place of the sigmoid in SE-ResNet). The paper draws the convolution to
    the map as 1x1 without BN; its authors say that 3x3 was used.
    """

    def __init__(self, backbone):
        super().__init__(backbone)
        _, last, neck, linear = parts(backbone)
        classes, self.branch = linear.out_features, _anew(last)
        self.norm = nn.BatchNorm2d(linear.in_features)
        self.to_classes = nn.Sequential(nn.Conv2d(linear.in_features, classes, 1, bias=False), nn.BatchNorm2d(classes), nn.ReLU())
        self.to_logits = nn.Conv2d(classes, classes, 1, bias=False)
        self.to_map = nn.Sequential(nn.Conv2d(classes, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1), nn.Sigmoid())
        for one in (self.to_classes, self.to_logits, self.to_map):
            initialise(one)

    def heads(self, x):
        before, last, *_ = parts(self.backbone)
        A = run(before, x)
        logits, M = self.attention(A)
        return [logits, self._logits(self.attended(A, M), [last])], M

    def attention(self, A):
        """Logits [B,classes] of the branch and the map M [B,1,h,w] of features A."""
        h = self.to_classes(self.norm(self.branch(A)))
        return self.to_logits(h).mean((2, 3)), self.to_map(h)


def _anew(stage):
    """A copy of a stage, drawn anew, that keeps the size of its map."""
    stage = deepcopy(stage)
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return initialise(stage)


KINDS = {"lfi": LFICAM, "abn": ABN}  # by how the name of a model begins


def all_logits(model, x):
    """All logits that training is to make right: those of an attention network's heads, of any other model its own."""
    return model.heads(x)[0] if isinstance(model, Attention) else [model(x)]
