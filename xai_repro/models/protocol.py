"""Training of full-size networks as the papers do it, on one device or on several under torchrun; goes on where it was stopped."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from xai_repro.errors import short, unknown, whole_number
from xai_repro.models.attention import all_logits
from xai_repro.models.recipes import recipe
from xai_repro.models.train import half_precision, positive, resume, SEEDS, target, write, write_weights
from xai_repro.models.zoo import build, pick_device, TRAINED

PATIENCE = timedelta(hours=2)  # for the first process, which may be fetching data
HELD_OUT = 0.1  # of the training images, on which the best epoch is chosen: never on the test images, as the released code does
SPLIT = 1234  # seed of what is held out, the same for all trainings


def train_protocol(model, data, root, *, out=None, seed=0, epochs=None, batch=None, rate=None, decay=None, workers=4, download=False, device="auto", progress=True):
    """Train an attention network or a backbone on a real data set; returns its accuracy on the test images, and more.

    model: "lfi-NAME", "abn-NAME" or NAME of a backbone, such as lfi-resnet18; data: "cifar100", "stl10", "catsdogs" or "imagenet"; root: the folder where the data set is.
    seed: of weights, order and the chance in images. epochs, batch, rate, decay: in place of the papers' (see `recipes`; 300, 128 or 256, .1, .0001); milestones move with the
    epochs. A tenth of the training images is held out, and the epoch that does best on them is kept.
    workers: processes that read images, for each process that trains; download: whether torchvision may fetch what is missing. Under torchrun every process takes its share of a
    batch, and the first one writes.
    After every epoch all is kept beside out (default: MODEL--DATA-SEED.safetensors in the working directory): started again with the same arguments and as many processes, an
    interrupted run goes on from there; on a CPU to the same weights, bit for bit (a GPU adds in an order of its own).
    Raises UnknownName, ValueError or OSError before anything is trained.
    *Deviation*: the released code keeps the epoch that does best on the test images. bfloat16 where the hardware has it. Each process normalises its own share of a batch; means
    and variances for tests are the first one's.
    """
    if not isinstance(model, str) or model not in TRAINED:
        raise unknown("model to train", model, TRAINED)
    given, seed = {"epochs": epochs, "batch": batch}, whole_number("seed", seed, least=0, most=SEEDS)
    plan = recipe(data, model)
    if epochs is not None:
        plan = replace(plan, milestones=tuple(round(one * whole_number("epochs", epochs) / plan.epochs) for one in plan.milestones))
    plan = replace(plan, **{name: whole_number(name, value) for name, value in given.items() if value is not None})
    plan = replace(plan, **{name: positive(name, value) for name, value in (("rate", rate), ("decay", decay)) if value is not None})
    out = target(out or f"{model}--{data}-{seed}.safetensors")
    with processes(device) as (rank, world, device):
        shown, held, tested = _images(plan, root, download, rank, world)
        classes = tuple(tested.classes)
        named = f"{out.stem}-{model}-{data}-{len(shown)}-{world}-{seed}-{plan.epochs}-{plan.batch}-{plan.rate:g}-{plan.decay:g}.part"
        net = build(model, len(classes), seed).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), plan.rate, plan.momentum, weight_decay=plan.decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, plan.milestones)
        best = Best(net)
        state = {"net": net, "optimizer": optimizer, "schedule": schedule, "best": best}
        checkpoint = out.with_name(named)
        begun = resume(checkpoint, state)
        heads = Heads(net)
        heads = DistributedDataParallel(heads) if world > 1 else heads
        bar = tqdm(range(begun, plan.epochs), f"train {model} on {data}", unit="epoch", disable=not progress or rank > 0)
        load = partial(_loader, workers=workers, rank=rank, world=world)
        for epoch in bar:
            drawn = seed * 1000 + epoch
            loss = _epoch(heads, load(shown, max(1, plan.batch // world), drawn), optimizer, device, drawn * world + rank)
            schedule.step()
            _share_buffers(net, world)
            accuracy = _accuracy(net, load(held, plan.batch), device)
            best.offer(accuracy, epoch + 1, net)
            bar.set_postfix(loss=f"{loss:.3f}", held_out=f"{accuracy:.3f}")
            if rank == 0:
                reached = {"epoch": epoch + 1, **{name: part.state_dict() for name, part in state.items()}}
                write(checkpoint, lambda path: torch.save(reached, path))
        net.load_state_dict(best.weights)
        found = {"accuracy": _accuracy(net, load(tested, plan.batch), device), "n": len(tested), "held_out_accuracy": best.accuracy, "held_out": len(held), "best_epoch": best.epoch}
        if rank == 0:
            facts = {"model": model, "data": data, "seed": seed, "side": plan.side, "classes": json.dumps(classes), "multi_label": False}
            facts |= {"mean": json.dumps(plan.colours[0]), "std": json.dumps(plan.colours[1])}
            facts |= {name: getattr(plan, name) for name in ("epochs", "batch", "rate", "decay", "milestones", "momentum")} | found
            tensors = {key: value.cpu().contiguous() for key, value in best.weights.items()}
            write_weights(out, tensors, facts)
            checkpoint.unlink(missing_ok=True)
    return found


def _share_buffers(net, world):
    """Means and variances of BatchNorm are the first process's in all of them: all measure, and keep, the same network."""
    if world > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, 0)


class Best:
    """The weights of the epoch that did best on held-out images; the first of several."""

    def __init__(self, net):
        self.accuracy, self.epoch, self.weights = -1.0, 0, _copied(net)

    def offer(self, accuracy, epoch, net):
        if accuracy > self.accuracy:
            self.accuracy, self.epoch, self.weights = accuracy, epoch, _copied(net)

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def _copied(net):
    return {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}


class Heads(nn.Module):
    """A network called for all logits that training is to make right, since several processes share only what a call gives."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return all_logits(self.net, x)


@contextmanager
def processes(device="auto"):
    """(this process's number, how many there are, its device), under torchrun or alone."""
    world, device = int(os.environ.get("WORLD_SIZE", 1)), pick_device(device)
    if world == 1:
        yield 0, 1, device
        return
    if able := device.type == "cuda":
        device = torch.device(f"cuda:{int(os.environ['LOCAL_RANK'])}")
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if able else "gloo", timeout=PATIENCE)
    try:
        yield distributed.get_rank(), world, device
    finally:
        distributed.destroy_process_group()


def _images(plan, root, download, rank=0, world=1):
    """The images to learn from, those held out, both from the training images, and the test images."""
    if download and rank > 0:
        distributed.barrier()  # the first process fetches
    moved, still = (plan.open(root, True, plan.transform(train), download) for train in (True, False))
    tested = plan.open(root, False, plan.transform(False), download)
    if download and world > 1 and rank == 0:
        distributed.barrier()
    if list(moved.classes) != list(tested.classes):
        odd = sorted(set(moved.classes) ^ set(tested.classes))
        raise ValueError(f"the classes of the training images are not those of the test images: {short(', '.join(map(str, odd)) or 'they are in another order')}")
    order = torch.randperm(len(moved), generator=torch.Generator().manual_seed(SPLIT)).tolist()
    held = max(1, round(HELD_OUT * len(order)))
    return Subset(moved, order[held:]), Subset(still, order[:held]), tested


def _loader(data, batch, seed=None, *, workers, rank, world):
    """Batches of this process's share of a data set; in an order drawn from a seed, without one in their own."""
    generator = torch.Generator().manual_seed(0 if seed is None else seed)  # later of the workers' seeds: a resumed run draws what an uninterrupted one would
    rows = torch.arange(len(data)) if seed is None else torch.randperm(len(data), generator=generator)
    if seed is not None:
        rows = rows[: max(world, len(rows) // world * world)]  # so that all processes take as many steps
    generator.manual_seed((0 if seed is None else seed) * world + rank)  # each process moves its images in its own way
    workers = min(workers, -(-len(rows) // batch))
    return DataLoader(Subset(data, rows[rank::world].tolist()), batch, num_workers=workers, generator=generator)


def _epoch(heads, batches, optimizer, device, seed):
    """One pass, all chance of which comes from the seed; returns the mean loss of this process."""
    heads.train()
    total = count = 0.0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of images that are moved in this process, where there are no workers
        for x, y in batches:
            x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
            with half_precision(device):
                found = heads(x)
            loss = sum(F.cross_entropy(logits.float(), y) for logits in found)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, count = total + loss.item() * len(y), count + len(y)
    return total / count


@torch.inference_mode()
def _accuracy(net, batches, device):
    """The share of images, of all processes together, whose class is the network's top-1."""
    net.eval()
    right = torch.zeros(2, device=device)
    for x, y in batches:
        hits = net(x.to(device, memory_format=torch.channels_last)).argmax(1) == y.to(device)
        right += torch.stack([hits.sum(), torch.tensor(len(y), device=device)])
    if distributed.is_initialized():
        distributed.all_reduce(right)
    return float(right[0] / right[1])
