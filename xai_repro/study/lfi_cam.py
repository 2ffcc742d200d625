"""The Feature Importance Network and the attention branch network on the pages of LFI-CAM: layouts, sizes, cases."""

import pandas as pd
import torch
from torch import nn

from xai_repro.explain import explain
from xai_repro.models.zoo import build
from xai_repro.published import published
from xai_repro.study import plots
from xai_repro.study.asked import device_of
from xai_repro.study.stability import configured

PAPER = "lfi_cam"
NETWORKS = ("lfi-resnet18", "abn-resnet18", "lfi-resnet50", "abn-resnet50", "lfi-resnext50_32x4d", "abn-resnext50_32x4d", "lfi-densenet121", "abn-densenet121")
LAST = "backbone.layer4"  # whose output is weighted
SHORT = {"mean features, trained without FIN": "without FIN", "mean feature map": "with FIN", "mean features, attended": "attended"}  # labels in the figure
FIGURE_1 = {  # its columns, by network: {label: method for `evaluate`}
    "mini-basic": {"mean features, trained without FIN": ("mean-features", {})},
    "mini-lfi": {"mean feature map": ("mean-features", {"layer": LAST}), "lfi-cam": "lfi-cam", "mean features, attended": ("mean-features", {"layer": "attended"})},
}


def layout(name="lfi-resnet50", side=224, classes=1000):
    """Table 1 and the network that is built here, layer by layer: what is printed, what ours has, and whether they agree."""
    with torch.device("meta"):
        model = build(name, classes)
        x = torch.zeros(1, 3, side, side)
        shape = model.eval().features(x)
        sizes, rows = [], []
        for layer in model.importance:
            before, shape = shape, layer(shape)
            if isinstance(layer, nn.Conv2d):
                sizes.append((before, shape, layer))
    cells = published(PAPER, "1")
    for number, (before, after, conv) in enumerate(sizes, 1):
        ours = {
            "input-height-divisor": side / before.shape[2], "input-width-divisor": side / before.shape[3], "input-channels": before.shape[1],
            "output-height-divisor": side / after.shape[2], "output-width-divisor": side / after.shape[3], "output-channels": after.shape[1],
            "kernel-size": conv.kernel_size[0], "stride": conv.stride[0], "padding": conv.padding[0],
        }  # fmt: skip
        rows += _beside(cells[cells["row"] == f"CONV Layer / {number}"], f"convolution {number}", ours)
    before = sizes[-1][1]
    ours = {"input-height-divisor": side / before.shape[2], "input-width-divisor": side / before.shape[3], "input-channels": before.shape[1], "output-channels": shape.shape[1]}
    found = pd.DataFrame(rows + list(_beside(cells[cells["row"] == "Output Layer"], "pooling and softmax", ours)))
    alike = found.groupby([column for column in found if column != "layer"], sort=False)["layer"].agg(lambda layers: ", ".join(dict.fromkeys(layers)))
    found = alike.reset_index()[list(found)]  # what several layers share is said once
    found.attrs["printed"] = {"paper": PAPER, "table": "1"}
    return found


def _beside(cells, layer, ours):
    for cell in cells.drop_duplicates("metric").to_dict("records"):
        same = float(cell["value"]) == ours[cell["metric"]]
        yield {"layer": layer, "what": cell["metric"].replace("-", " "), "printed": cell["printed"], "ours": ours[cell["metric"]], "same": "yes" if same else "no"}


def sizes(names=NETWORKS):
    """Millions of parameters: of the network with its attention, of the backbone in it, and of what attention adds."""
    rows = []
    for name in names:
        with torch.device("meta"):
            model = build(name, 1000)
        whole, backbone = (sum(one.numel() for one in module.parameters()) / 1e6 for module in (model, model.backbone))
        rows.append({"network": name, "backbone": backbone, "attention": whole - backbone, "together": whole})
    return pd.DataFrame(rows)


def figure_1(samples, data="mini-birds"):
    """The columns of figure 1 for some images, each for its top-1: (x [B,3,H,W], {column: M [B,H,W]})."""
    x, models = torch.stack([one.image for one in samples]), {model: configured(model, data)["usual"] for model in FIGURE_1}
    return x, {SHORT.get(label, label): one for label, one in _maps(models, x, None, FIGURE_1).items()}


def panel(models, samples, asked):
    """Images and their maps by methods on several networks, each for its own class: {label: method} by network, {label: module}."""
    x, y = torch.stack([one.image for one in samples]), torch.tensor([one.labels[0] for one in samples])
    return plots.panel(x, _maps(models, x, y, asked))


def _maps(models, x, y, asked):
    """{label: M [B,H,W]} on the CPU, of methods {label: method} by network."""
    maps = {}
    for model, methods in asked.items():
        device = device_of(models[model])
        for label, one in methods.items():
            name, hyper = (one, {}) if isinstance(one, str) else one
            maps[label] = explain(models[model], x.to(device), None if y is None else y.to(device), name, **hyper).cpu()
    return maps
