"""Training of the embedded models on the embedded data; what makes the shipped weights."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from xai_repro.data import load_data, normalize
from xai_repro.errors import short, unknown, whole_number
from xai_repro.models.attention import all_logits
from xai_repro.models.measure import evaluate_model, largest, multi_hot, predicted
from xai_repro.models.zoo import EMBEDDED, build, for_inference, pick_device
from xai_repro.store.files import record, sha256, writable

EPOCHS = {"mini-birds": 14, "mini-scenes": 10}  # species differ in small parts: more images and more passes over them
IMAGES = {"mini-birds": 12000, "mini-scenes": 8000}
SEEDS = 10**15  # 1000 times as many, one for each epoch, are seeds for torch still
BATCH = 64
PEAK_RATE = 2e-3
DECAY = 0.05
HIDING = 0.4  # share of an image hidden in patches at most, at the end of training
CONFIDENCE = 0.85  # median top-1 probability of a trained network, so that metrics built on its change have something to measure


def train(model, data, epochs=None, seed=0, images=None, out=None, device="auto", progress=True, *, batch=BATCH, rate=PEAK_RATE, decay=DECAY):
    """Train an embedded model and write its weights; returns the metrics of evaluate_model on 1000 test images.

    model: a name that begins with mini-; data: "mini-birds" or "mini-scenes"; images: how many to train on; batch: images a step; rate: of learning, at its
    peak; decay: of the weights. An attention branch network learns from the logits of both of its classifiers.
    out: the .safetensors file to write (default: MODEL--DATA.safetensors in the working directory, MODEL--DATA-SEED for other seeds); its SHA-256 is kept
    beside it, so that damage is noticed when it is read.
    A run that was interrupted goes on from its last finished epoch when it is started again with the same arguments.
    Raises UnknownName for a model that is not embedded and for an unknown data set or device; ValueError for too few
    epochs or images and for another ending of out; OSError for a file that cannot be written.
    """
    if not isinstance(model, str) or model not in EMBEDDED:
        raise unknown("embedded model", model, EMBEDDED)
    test = load_data(data)
    epochs = whole_number("epochs", EPOCHS[data] if epochs is None else epochs)
    images = whole_number("images", IMAGES[data] if images is None else images, least=2)
    seed = whole_number("seed", seed, least=0, most=SEEDS)
    batch, (rate, decay) = whole_number("batch", batch), (positive(name, value) for name, value in (("rate", rate), ("decay", decay)))
    device = pick_device(device)
    out = target(out or f"{model}--{data}{f'-{seed}' if seed else ''}.safetensors")
    pictures = load_data(data, "train", limit=images)
    images = len(pictures)  # no more than there are
    checkpoint = out.with_name(f"{out.stem}-{model}-{pictures.fingerprint}-{seed}-{epochs}-{images}-{batch}-{rate:g}-{decay:g}.part")

    net = build(model, len(pictures.classes), seed).to(device, memory_format=torch.channels_last)
    x, objects, y = _draw(pictures, progress)
    batches = -(-len(x) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * batches, pct_start=0.2)
    state = {"net": net, "optimizer": optimizer, "schedule": schedule}
    bar = tqdm(range(resume(checkpoint, state), epochs), f"train {model} on {data}", unit="epoch", disable=not progress)
    for epoch in bar:
        loss = _epoch(net, x, objects, y, optimizer, schedule, pictures.multi_label, epoch / epochs, seed * 1000 + epoch, batch)
        bar.set_postfix(loss=f"{loss:.3f}")
        reached = {"epoch": epoch + 1, **{name: part.state_dict() for name, part in state.items()}}
        write(checkpoint, lambda path: torch.save(reached, path))

    net = for_inference(net)
    _temper(net, load_data(data, "val"))
    net = net.half().float()  # measured as it is shipped, in half precision
    metrics = evaluate_model(net, test)
    facts = {"model": model, "data": data, "seed": seed, "epochs": epochs, "images": images, "batch": batch, "rate": rate, "decay": decay,
             "classes": json.dumps(pictures.classes), "multi_label": pictures.multi_label,
             "headroom": 1 - metrics["median_top1_probability"], **metrics}
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in net.cpu().state_dict().items()}
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    write_weights(out, tensors, facts)
    checkpoint.unlink(missing_ok=True)
    return metrics


def write_weights(out, tensors, facts):
    """Write a .safetensors file with facts as its metadata, and its SHA-256 beside it."""
    Path(f"{out}.sha256").unlink(missing_ok=True)  # of what is replaced now
    write(out, lambda path: path.write_bytes(save(tensors, {key: str(value) for key, value in facts.items()})))
    record(out, sha256(out))


def positive(name, value):
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e3:
        raise ValueError(f"{name} is {short(repr(value))}; a number above 0 is needed")
    return float(value)


def target(out):
    """The path to write to, refused before the work begins rather than after it."""
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"{out} does not end in .safetensors, by which load_model knows weights")
    return writable(out)


def _draw(data, progress):
    """All pictures, uint8 [N, 3, H, W], where their objects are, bool [N, 1, H, W], and labels as zeros and ones, [N, C]; drawn on every core."""
    bundles = [range(i, min(i + 100, len(data))) for i in range(0, len(data), 100)]
    loader = DataLoader(_Bundles(data, bundles), batch_size=None, num_workers=min(len(bundles), os.cpu_count() or 1))
    bundles = list(tqdm(loader, f"draw {len(data)} images", unit="bundle", leave=False, disable=not progress))
    pixels, objects, truth = map(torch.cat, zip(*bundles))
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last), objects[:, None], truth


class _Bundles(torch.utils.data.Dataset):
    """Many pictures an item, so that what passes between processes is few and large."""

    def __init__(self, data, bundles):
        self.data, self.bundles = data, bundles

    def __len__(self):
        return len(self.bundles)

    def __getitem__(self, index):
        pixels, objects, labels = zip(*(self.data.pixels(i) for i in self.bundles[index]))
        truth = [multi_hot(each, len(self.data.classes)) for each in labels]
        return torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(objects)), torch.stack(truth)


def _epoch(net, x, objects, y, optimizer, schedule, multi_label, progress, seed, batch):
    """One pass over the pictures, at a progress in [0, 1) of the training; returns the mean loss.

    All randomness comes from the seed, so a resumed run draws what an uninterrupted one would.
    """
    net.train()
    device = next(net.parameters()).device
    total = 0.0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for rows in torch.randperm(len(x)).split(batch):
            images = _augment(x[rows].to(device), objects[rows].to(device), progress)
            with half_precision(device):
                heads = all_logits(net, images)
            loss = sum(_loss(logits.float(), y[rows].to(device), multi_label) for logits in heads)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
    return total / len(x)


def half_precision(device):
    """Context that computes in bfloat16 where the hardware does so, twice as fast; in float32 elsewhere."""
    able = {"cuda": torch.cuda.is_bf16_supported, "cpu": lambda: torch.cpu.get_capabilities().get("avx512_bf16", False)}
    return torch.autocast(device.type, torch.bfloat16, enabled=able.get(device.type, bool)())


def _loss(logits, truth, multi_label):
    return F.binary_cross_entropy_with_logits(logits, truth) if multi_label else F.cross_entropy(logits, truth)


def _augment(pixels, objects, progress):
    """Mirror, shift, recolour, dim and mask a batch: uint8 [B, 3, H, W], objects bool [B, 1, H, W] -> float [B, 3, H, W], normalised.

    A network that never saw a part hidden or dimmed would answer masked images at random, and metrics ask it about little else. So
    a third of the images each have patches hidden in the mean colour, zero after normalising (Hide-and-Seek, Singh and Lee 2017), are
    dimmed by a smooth random mask as a map would do it, or lose some or all of the background; the strength grows while training, since hidden
    birds teach a beginner nothing. Light, contrast and colour are drawn for each image, too. progress: in [0, 1).
    """
    each = {"size": (len(pixels), 1, 1, 1), "device": pixels.device}
    light = torch.where(torch.rand(**each) < 0.3, 0.3 + 0.7 * torch.rand(**each), 1.0)
    images, objects = normalize(pixels.float() / 255 * light), objects.float()
    mirrored, shift = torch.rand(**each) < 0.5, torch.randint(-6, 7, (2,)).tolist()
    images, objects = (torch.where(mirrored, it.flip(3), it).roll(shift, (2, 3)) for it in (images, objects))
    grey = (torch.rand(**each) < 0.3) * torch.rand(**each)
    images = images + grey * (images.mean(1, keepdim=True) - images)
    images = images * torch.where(torch.rand(**each) < 0.5, 0.8 + 0.4 * torch.rand(**each), 0.3 + 0.7 * torch.rand(**each))
    kind, strength = torch.randint(3, **each), min(1.0, 2 * progress)
    patches = torch.rand(len(images), 1, 8, 8, device=images.device) >= HIDING * progress * torch.rand(**each)
    patches = F.interpolate(patches.float(), images.shape[-2:])
    smooth = F.interpolate(torch.rand(len(images), 1, 6, 6, device=images.device), images.shape[-2:], mode="bilinear")
    smooth = ((smooth - 0.6 * torch.rand(**each)) * 3 + 0.5).clamp(0, 1)
    background = torch.maximum(objects, torch.rand(**each).sub(0.2).clamp(min=0))
    masks = torch.where(kind == 0, patches, torch.where(kind == 1, 1 - strength * (1 - smooth), 1 - strength * (1 - background)))
    return (images * masks).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _temper(net, data):
    """Divide the last layer of a trained network so that the median of its largest probability becomes CONFIDENCE.

    The order of the classes stays. (Smoothed labels, the other way to keep confidence below 1, put all images at the same one.)
    """
    logits = predicted(net, data)[0]
    low, high = 1e-2, 1e2  # of the factor: found by bisection, since the probability grows with it
    for _ in range(50):
        factor = (low * high) ** 0.5
        median = largest(logits * factor, data.multi_label).median()
        low, high = (factor, high) if median < CONFIDENCE else (low, factor)
    last = [module for module in net.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.weight.mul_(factor)
    last.bias.mul_(factor)


def resume(checkpoint, state):
    """Load the last finished epoch into the named states; returns the epoch to go on with, 0 where there is none."""
    if not checkpoint.exists():
        return 0
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ValueError(f"{checkpoint} is damaged; remove it to train from the start ({short(str(error))})") from error
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return saved["epoch"]


def write(path, write):
    """Write a file under a temporary name and move it into place, so that it is whole or absent."""
    temporary = path.with_name(path.name + ".tmp.part")
    write(temporary)
    os.replace(temporary, path)
