"""Small archives of the true form for each data set that is fetched, and its script, run in this process."""

import gzip
import importlib.util
import io
import re
import tarfile
import zipfile
from pathlib import Path

import torch
import typer
from toy_bad import contents
from toy_server import BODY
from toy_trees import tree, written
from typer.testing import CliRunner

from xai_repro.data import fetching

SCRIPTS = Path(__file__).parents[1] / "data_scripts"
TOP = "imagenet-sample-images-bc69043"
# Which of the files in a data set's folder an archive holds, and under what names, as pairs of (pattern, replacement).
INSIDE = {
    "ILSVRC2012_img_val.tar": ("val/(.*)", r"\1"),
    "ILSVRC2012_bbox_val_v3.tgz": ("Annotations/CLS-LOC/(val/.*)", r"\1"),
    f"{TOP}.zip": ("(.*)", rf"{TOP}/\1"),
    "VOCtrainval_06-Nov-2007.tar": (r"(.*(000005\.\w+|/(train|val|trainval)\.txt))", r"\1"),
    "VOCtest_06-Nov-2007.tar": (r"(.*(00000[1-4]\.\w+|/test\.txt))", r"\1"),
    "annotations_trainval2014.zip": ("(annotations/.*)", r"\1"),
    "val2014.zip": ("(val2014/.*)", r"\1"),
    "train2014.zip": ("(train2014/.*)", r"\1"),
    "CUB_200_2011.tgz": ("(CUB_200_2011/.*|attributes.txt)", r"\1"),
    "segmentations.tgz": ("(segmentations/.*)", r"\1"),
}


def packed(name, files):
    """The bytes of an archive, by its ending."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, held in files.items():
                archive.writestr(inside, held)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for inside, held in files.items():
            one = tarfile.TarInfo(inside)
            one.size = len(held)
            archive.addfile(one, io.BytesIO(held))
    return buffer.getvalue() if name.endswith(".tar") else gzip.compress(buffer.getvalue())


def small(name, folder):
    """({file: bytes as the server has them}, the folder of a data set as it has to become)."""
    if name == "torchray":
        buffer = io.BytesIO()
        torch.save({"features.0.weight": torch.arange(6.0).reshape(2, 3)}, buffer)
        return {piece.name: buffer.getvalue() for piece in fetching.pieces_of(name)}, None
    try:
        root = tree(name, folder)
    except ModuleNotFoundError:  # h5py, which is needed to read the file, not to fetch it
        root = written(folder / name / "gtsegs_ijcv.mat", BODY[:5000]).parent
    for more in {"voc2007": ["VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"], "cub": ["CUB_200_2011/parts/part_locs.txt", "attributes.txt"]}.get(name, []):
        written(root / more, "000005\n")
    held = {path: data for path, data in contents(root).items() if isinstance(data, bytes)}

    def of(piece):
        if piece.stays:
            return held[piece.name]
        pattern, inside = INSIDE.get(piece.name, ("(.*)", r"\1"))
        found = {path: re.fullmatch(pattern, path) for path in held}
        return packed(piece.name, {match.expand(inside): held[path] for path, match in found.items() if match})

    return {piece.name: of(piece) for piece in fetching.pieces_of(name)}, root


def main_of(name):
    file = SCRIPTS / f"fetch_{name.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module.main


def run(name, *options):
    """(exit status, what the script of a data set says)."""
    app = typer.Typer()
    app.command()(main_of(name))
    result = CliRunner().invoke(app, [str(option) for option in options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output
