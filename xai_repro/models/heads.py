"""A new last layer on a frozen network: what CUB needs, whose species no published network of torchvision knows."""

import json

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from xai_repro.data import load_data, Photos
from xai_repro.errors import NotApplicable, whole_number
from xai_repro.models.train import positive, SEEDS, target, write_weights
from xai_repro.models.zoo import load_model, weights_for
from xai_repro.network.forward import predict


def train_head(model, data, *, root=None, weights=None, out=None, seed=0, epochs=100, batch=64, rate=1e-3, decay=1e-4, workers=4, device="auto", progress=True):
    """Train a new last layer on a frozen network and write the whole network; returns its accuracy on the test images, and more.

    model: a name of `load_model`; data: a data set of `load_data` with one label per image and the splits train and test, such as "cub", in the folder `root`. weights: of the network to
    begin with; None: those that fit, ImageNet's. epochs, batch, rate, decay: of AdamW with a cosine schedule on what the last linear layer takes, which is computed once for
    every image, seen as for tests: no image is moved at random. seed: of weights and order. workers: processes that read images.
    out: the .safetensors file (default: MODEL--DATA.safetensors in the working directory), which `load_model(model, out)` takes.
    Raises UnknownName, ValueError or OSError before anything is computed; NotApplicable for a network that does not end in a linear layer.
    """
    epochs, batch, workers = whole_number("epochs", epochs), whole_number("batch", batch), whole_number("workers", workers, least=0)
    rate, decay, seed = positive("rate", rate), positive("decay", decay), whole_number("seed", seed, least=0, most=SEEDS)
    options = {} if root is None else {"root": root}
    splits = [load_data(data, split, **options) for split in ("train", "test")]
    if splits[0].multi_label:
        raise ValueError(f"images of '{data}' have several labels; one per image is needed")
    net = load_model(model, weights_for(model, None) if weights is None else weights, device)
    last = last_layer(net)
    out = target(out or f"{model.replace('/', '-')}--{data}.safetensors")
    place, classes = next(net.parameters()).device, tuple(splits[0].classes)
    (x, y), (x_test, y_test) = (_features(net, last, one.seen_by(net.view) if isinstance(one, Photos) else one, batch, workers, progress) for one in splits)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(x.shape[1], len(classes)).to(place)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in tqdm(range(epochs), f"head of {model} on {data}", unit="epoch", disable=not progress):
        for rows in torch.randperm(len(x), generator=order).split(batch):
            loss = F.cross_entropy(head(x[rows].to(place)), y[rows].to(place))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.inference_mode():
        found = {"accuracy": float((head(x_test.to(place)).argmax(1).cpu() == y_test).float().mean()), "n": len(y_test), "trained_on": len(y)}
    tensors = {key: value.cpu().contiguous() for key, value in net.state_dict().items()}
    tensors |= {f"{last}.{key}": value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    facts = {"model": model, "data": data, "seed": seed, "classes": json.dumps(classes), "multi_label": False, "epochs": epochs, "batch": batch, "rate": rate, "decay": decay,
             "frozen": net.fingerprint, **found}
    write_weights(out, tensors, facts)
    return found


def last_layer(net):
    """The name of the linear layer that gives the logits. Raises NotApplicable for a network that has another end."""
    name, layer = [(name, module) for name, module in net.named_modules() if not list(module.children()) and not isinstance(module, (nn.Dropout, nn.Identity))][-1]
    if not isinstance(layer, nn.Linear):
        raise NotApplicable(f"{type(net).__name__} ends in {name}, a {type(layer).__name__}; a linear layer is needed in its place")
    return name


@torch.inference_mode()
def _features(net, last, data, batch, workers, progress):
    """What the last layer takes [N,D], and the labels [N], of all images."""
    taken, labels, place = [], [], next(net.parameters()).device
    hook = net.get_submodule(last).register_forward_pre_hook(lambda module, given: taken.append(given[0].cpu()))
    try:
        for samples in tqdm(DataLoader(data, batch, collate_fn=list, num_workers=workers), f"features of {len(data)} images", disable=not progress, leave=False):
            predict(net, torch.stack([sample.image for sample in samples]).to(place))
            labels += [sample.labels[0] for sample in samples]
    finally:
        hook.remove()
    return torch.cat(taken), torch.tensor(labels)
