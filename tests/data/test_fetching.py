"""The scripts that fetch real data sets, each run to its end against a server on this machine that has small archives of the true form."""

import hashlib
import re
import shutil
from collections import namedtuple
from copy import deepcopy

import pytest
from toy_bad import contents, untouched
from toy_server import serving
from toy_sources import SCRIPTS, TOP, packed, run, small
from toy_trees import written

from xai_repro.data import fetching, load_data
from xai_repro.data.readers import READERS
from xai_repro.models.reading import read_weights
from xai_repro.store import fetch as store
from xai_repro.store import unpack as unpacking

NAMES = list(fetching.sources())
NO_CHECKSUM = (f"{TOP}.zip", "gtsegs_ijcv.mat")  # nobody publishes theirs


@pytest.fixture(scope="module")
def running():
    with serving() as handler:
        yield handler


@pytest.fixture
def server(running, monkeypatch, tmp_path):
    running.cut = running.answer = None
    running.asked.clear()
    monkeypatch.setattr(store, "BLOCK", 1000)
    monkeypatch.setenv("XAI_REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XAI_REPRO_CACHE", str(tmp_path / "cache"))
    return running


@pytest.fixture
def prepared(server, monkeypatch, tmp_path):
    """Function that puts small files of a data set on the server and says so in the sources; returns {file: bytes} and where the data set belongs."""

    def prepare(name, by_hand=()):
        bodies, root = small(name, tmp_path / "true")
        known = {name: deepcopy(fetching.sources()[name])}
        for facts in known[name]["files"]:
            body = bodies[facts["name"]]
            measured = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()[: len(facts.get("sha256", ""))], "md5": hashlib.md5(body).hexdigest()}
            facts.update({key: value for key, value in measured.items() if key in facts})
            if "url" in facts:
                facts["url"] = f"{server.url.rsplit('/', 1)[0]}/{facts['name']}"
            if root:
                facts["there"] = {pattern: 1 if number == 5011 else len(list(root.glob(pattern))) for pattern, number in facts["there"].items()}
            assert all(facts["there"].values()), facts
        monkeypatch.setattr(fetching, "sources", lambda: known)

        def answer(handler):
            handler.body = bodies[handler.path.rsplit("/", 1)[1]]
            handler.serve(int(handler.headers.get("Range", "bytes=0-")[6:-1]))

        server.answer = answer
        folder = fetching.folder_of(name)
        for file in by_hand:
            written(folder / file, bodies[file])
        return bodies, folder

    return prepare


# -- Scripts and sources ------------------------------------------------------------------------------------------------


def test_every_real_data_set_has_a_source_and_a_script():
    assert set(NAMES) == set(READERS) - {"free-photographs"} | {"torchray"}
    scripts = {path.stem.removeprefix("fetch_") for path in SCRIPTS.glob("fetch_*.py")}
    assert scripts == {name.replace("-", "_") for name in NAMES} | {"weights"}


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_written_as_they_are_read(name):
    unprotected = {"coco2014", "ucmerced", "stl10", "imagenet-seg"}  # servers without https
    pieces = fetching.pieces_of(name)
    assert fetching.sources()[name]["holds"] and pieces and len({piece.name for piece in pieces}) == len(pieces)
    for piece in pieces:
        assert bool(piece.url) != bool(piece.register) and (piece.register or piece.url.startswith("http://" if name in unprotected else "https://"))
        assert piece.url.rsplit("/", 1)[-1] in ("", piece.name, "bc69043.zip")
        assert re.fullmatch("[0-9a-f]{64}", piece.sha256 or "0" * 64) or name == "torchray" and piece.sha256 == re.search("-(.{8})[.]", piece.name)[1]
        assert re.fullmatch("[0-9a-f]{32}", piece.md5 or "0" * 32) and not (piece.sha256 and piece.md5)
        assert piece.unpack is None or piece.name.endswith(unpacking.ENDINGS) and not piece.convert
        assert piece.there and (not piece.convert or list(piece.there) == [piece.name.replace(".pth.tar", ".safetensors")])
        assert piece.sha256 or piece.md5 or piece.name in NO_CHECKSUM


# -- A script from its beginning to its end -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_script_fetches_unpacks_and_says_what_is_there(name, prepared, server, tmp_path):
    registered = [piece.name for piece in fetching.pieces_of(name) if piece.register]
    bodies, folder = prepared(name, by_hand=registered)
    status, said = run(name)
    assert status == 0 and f"complete: {fetching.sources()[name]['holds']}" in said and str(folder) in said, said
    assert ("nobody publishes a checksum" in said) == (name in ("imagenet-samples", "imagenet-seg"))
    assert len(server.asked) == len(bodies) - len(registered)
    left = {path.name for path in [*folder.glob("*"), *folder.glob(".archives/*")] if path.name in bodies}
    assert left == {*registered, *(piece.name for piece in fetching.pieces_of(name) if piece.stays)}
    true = {path: data for path, data in contents(tmp_path / "true").items() if isinstance(data, bytes)}
    held = contents(folder.parent)
    assert {path: held.get(path) for path in true} == true
    if name == "torchray":
        assert list(read_weights(next(folder.glob("*.safetensors")))[0]) == ["features.0.weight"]
    with untouched(folder):
        assert run(name, "--check")[0] == 0
    server.answer = None  # from here on nothing can be fetched
    assert run(name)[0] == 0 and len(server.asked) == len(bodies) - len(registered)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "torchray"])
def test_what_is_fetched_is_what_is_read(name, prepared):
    pytest.importorskip({"coco2014": "pycocotools", "imagenet-seg": "h5py"}.get(name, "torch"))
    prepared(name, by_hand=[piece.name for piece in fetching.pieces_of(name) if piece.register])
    assert run(name)[0] == 0
    data = load_data(name)
    assert len(data) and data[0].image.shape[0] == 3 and data[len(data) - 1].id


def test_another_folder(prepared, tmp_path):
    _, folder = prepared("cifar100")
    assert run("cifar100", "--root", tmp_path / "disk" / "c")[0] == 0 and not folder.exists()
    assert len(load_data("cifar100", root=tmp_path / "disk" / "c")) and run("cifar100", "--check")[0] == 1


@pytest.mark.parametrize("options", [["--rot", "x"], ["stl10"], ["--root"], ["--root", __file__], ["--check=3"]])
def test_wrong_usage(options, prepared, server):
    prepared("stl10")
    assert run("stl10", *options)[0] == 2 and not server.asked
    assert run("torchray", "--root", "x")[0] == 2


def test_help_says_what_the_script_does():
    for name in NAMES:
        status, said = run(name, "--help")
        assert status == 0 and "--check" in said and len(said) < 3000


# -- Transfers that fail ------------------------------------------------------------------------------------------------


def test_a_cut_off_transfer_goes_on(prepared, server):
    bodies, folder = prepared("voc2007")
    server.cut = 5000
    status, said = run("voc2007")
    assert status == 1 and said.count("go on from there") == 2 and "not complete" in said and f"put it into {folder}" in said
    parts = [(folder / ".archives" / f"{name}.part").stat().st_size for name in bodies]
    server.cut = None
    status, said = run("voc2007")
    assert status == 0 and server.asked == [0, 0, *parts] and 0 < min(parts) and not list(folder.glob(".archives/*.part"))


def test_one_that_fails_does_not_keep_the_others(prepared, server):
    bodies, folder = prepared("coco2014")
    answer = server.answer
    server.answer = lambda handler: handler.send_error(503) if "val2014.zip" == handler.path[1:] else answer(handler)
    status, said = run("coco2014")
    assert status == 1 and "answered 503" in said and f"0 of 3      val2014/" in said and (folder / "train2014").is_dir()
    server.answer = answer
    assert run("coco2014")[0] == 0 and len(server.asked) == 4


LIES = [
    (lambda body: body[:-9] + b"lies lies", "its publisher says"),
    (lambda body: body + b"x" * 5000, "nothing was fetched"),
    (lambda body: b"<html>" + body[6:], "web page"),
]


@pytest.mark.parametrize(("lie", "why"), LIES, ids=["bytes", "length", "page"])
def test_a_lie_is_dropped(lie, why, prepared, server):
    bodies, folder = prepared("ucmerced")
    true = dict(bodies)
    bodies["UCMerced_LandUse.zip"] = lie(true["UCMerced_LandUse.zip"])
    status, said = run("ucmerced")
    assert status == 1 and why in said and not list(folder.glob("UC*")) and not list(folder.glob(".archives/[A-Z]*"))
    bodies.update(true)
    assert run("ucmerced")[0] == 0


def test_redirects_are_followed(prepared, server):
    prepared("stl10")
    answer = server.answer
    server.answer = lambda handler: answer(handler) if handler.path.startswith("/moved/") else handler.reply(302, {"Location": f"/moved{handler.path}"}, 0)
    assert run("stl10")[0] == 0 and server.asked == [0, 0]


def test_an_archive_that_is_not_what_it_should_be(prepared, server):
    """Nobody publishes a checksum of it, so that only what it holds can tell."""
    bodies, folder = prepared("imagenet-samples")
    name = f"{TOP}.zip"
    for held, why in [({f"{TOP}/../../x": b"x"}, "leads out of its folder"), ({f"{TOP}/x": b"x"}, "0 files"), ({"other": b"x"}, "like the rest")]:
        bodies[name] = packed(name, held)
        status, said = run("imagenet-samples")
        assert status == 1 and why in said and not list(folder.glob("n*")) and not (folder.parent / "x").exists()
        shutil.rmtree(folder)


def test_no_room(prepared, server, monkeypatch):
    bodies, folder = prepared("voc2007")
    sizes = [len(body) for body in bodies.values()]
    needed = sum(sizes) + max(sizes)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("usage", "free")(needed - 1))
    status, said = run("voc2007")
    assert status == 1 and re.search(r"voc2007 needs about 0.0 GB more in .*--root", said) and not server.asked
    written(folder / ".archives" / f"{list(bodies)[sizes.index(max(sizes))]}.part", b"x" * 1)
    if sizes[0] != sizes[1]:
        assert "needs about" not in run("voc2007")[1]


# -- Runs that were killed, and what was put there by hand --------------------------------------------------------------


def killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["_write", "_move", "_mark"])
def test_a_killed_run_starts_over_with_the_archive_it_has(where, prepared, server, monkeypatch):
    _, folder = prepared("cub")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(unpacking, where, killed)
        fetching.fetch_data("cub", folder)
    assert (folder / ".archives" / "CUB_200_2011.tgz").exists() and not list(folder.glob(".*.unpacking"))
    status, said = run("cub", "--check")
    assert status == 1 and ("CUB_200_2011.tgz was not unpacked to the end" in said) == (where == "_move")
    assert run("cub")[0] == 0 and server.asked == [0, 0] and not list(folder.glob(".archives/*.tgz"))


def test_killed_between_the_last_file_and_the_mark(prepared, server, monkeypatch):
    _, folder = prepared("cifar100")
    mark = unpacking._mark
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(unpacking, "_mark", lambda folder, name, text: mark(folder, name, text) if text == "unfinished" else killed())
        fetching.fetch_data("cifar100", folder)
    assert (folder / "cifar-100-python" / "test").exists()
    assert run("cifar100", "--check")[0] == 1
    assert run("cifar100")[0] == 0 and server.asked == [0]


def test_killed_before_the_archive_is_removed(prepared, server):
    bodies, folder = prepared("cifar100")
    assert run("cifar100")[0] == 0
    written(folder / ".archives" / "cifar-100-python.tar.gz", bodies["cifar-100-python.tar.gz"])
    assert run("cifar100")[0] == 0 and not (folder / ".archives" / "cifar-100-python.tar.gz").exists() and server.asked == [0]


def test_an_archive_put_there_by_hand_is_kept(prepared, server):
    bodies, folder = prepared("cub", by_hand=["segmentations.tgz"])
    assert run("cub")[0] == 0 and server.asked == [0] and (folder / "segmentations.tgz").read_bytes() == bodies["segmentations.tgz"]


def test_a_bad_one_is_set_aside(prepared, server):
    bodies, folder = prepared("cub")
    written(folder / "segmentations.tgz", "mine")
    status, said = run("cub", "--check")
    assert status == 1 and "segmentations.tgz has SHA-256" in said and (folder / "segmentations.tgz").read_text() == "mine"
    status, said = run("cub")
    assert status == 1 and "set aside" in said and (folder / "segmentations.tgz.bad").read_text() == "mine"
    assert run("cub")[0] == 0 and server.asked == [0, 0]


def test_a_data_set_unpacked_by_hand_is_taken(prepared, server, tmp_path):
    _, folder = prepared("ucmerced")
    shutil.copytree(tmp_path / "true" / "ucmerced", folder)
    for options in ([], ["--check"]):
        status, said = run("ucmerced", *options)
        assert status == 0 and "not put there by this script, so that no checksum vouches for it" in said and not server.asked


# -- Who registers ------------------------------------------------------------------------------------------------------


def test_imagenet_says_where_to_get_it(prepared, server):
    _, folder = prepared("imagenet")
    status, said = run("imagenet")
    assert status == 1 and not server.asked
    for part in ("https://image-net.org/download-images", "Validation images (all tasks)", "bounding box", f"put it into {folder}", "ILSVRC2012_img_val.tar", "ILSVRC2012_bbox_val_v3.tgz"):
        assert part in said
    assert run("imagenet", "--check")[0] == 1


def test_imagenet_sorted_by_class_needs_only_the_boxes(prepared, server):
    _, folder = prepared("imagenet", by_hand=["ILSVRC2012_bbox_val_v3.tgz"])
    for number in range(1, 5):
        written(folder / "val" / "n01440764" / f"ILSVRC2012_val_{number:08}.JPEG", "x")
    status, said = run("imagenet")
    assert status == 0 and (folder / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml").exists(), said
    assert "verified by its MD5" in said and "ILSVRC2012_img_val.tar: was not put there by this script" in said


def test_other_boxes_than_imagenets(prepared):
    bodies, folder = prepared("imagenet", by_hand=["ILSVRC2012_img_val.tar"])
    written(folder / "ILSVRC2012_bbox_val_v3.tgz", packed("x.tgz", {"val/x.xml": b"x"}))
    status, said = run("imagenet")
    assert status == 1 and "has MD5" in said and not (folder / "Annotations").exists() and (folder / "ILSVRC2012_bbox_val_v3.tgz.bad").exists()
    assert len(list((folder / "val").glob("*.JPEG"))) == 4


# -- What is checked ----------------------------------------------------------------------------------------------------


def test_nothing_is_there(prepared, server):
    _, folder = prepared("coco2014")
    status, said = run("coco2014", "--check")
    assert status == 1 and "python data_scripts/fetch_coco2014.py" in said and not folder.exists() and not server.asked


def test_a_file_more_or_less(prepared, server):
    _, folder = prepared("coco2014")
    assert run("coco2014")[0] == 0
    picture = next(folder.glob("val2014/*.jpg"))
    held = picture.read_bytes()
    picture.unlink()
    status, said = run("coco2014", "--check")
    assert status == 1 and f"2 files {folder / 'val2014'}" in said and "where 3 belong" in said
    assert run("coco2014")[0] == 0 and picture.read_bytes() == held and len(server.asked) == 4  # only that archive again
    written(folder / "val2014" / "COCO_val2014_copy.jpg", held)
    status, said = run("coco2014", "--check")
    assert status == 1 and "4 files" in said
    (folder / "val2014" / "COCO_val2014_copy.jpg").rename(folder / "val2014" / "._COCO_val2014_copy.jpg")  # as some systems leave them
    assert run("coco2014", "--check")[0] == 0


def test_the_mark_of_another_archive(prepared, server):
    _, folder = prepared("cifar100")
    assert run("cifar100")[0] == 0
    written(folder / ".cifar-100-python.tar.gz.unpacked", f"{'0' * 64}  cifar-100-python.tar.gz\n")
    status, said = run("cifar100", "--check")
    assert status == 1 and "another archive than the published one" in said
    assert run("cifar100")[0] == 0 and server.asked == [0, 0] and run("cifar100", "--check")[0] == 0


def test_a_file_that_changed(prepared, server):
    bodies, folder = prepared("imagenet-seg")
    assert run("imagenet-seg")[0] == 0
    written(folder / "gtsegs_ijcv.mat", bodies["gtsegs_ijcv.mat"][:-1] + b"x")
    status, said = run("imagenet-seg", "--check")
    assert status == 1 and "the record beside it says" in said
    status, said = run("imagenet-seg")
    assert status == 1 and "set aside" in said
    assert run("imagenet-seg")[0] == 0 and (folder / "gtsegs_ijcv.mat.bad").exists()


def test_converted_weights_that_changed(prepared, server):
    _, folder = prepared("torchray")
    assert folder == store.cache_dir() and run("torchray")[0] == 0
    path = folder / "vgg16_coco-d82c8150.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert run("torchray", "--check")[0] == 1
    assert run("torchray")[0] == 0 and len(server.asked) == 5 and run("torchray", "--check")[0] == 0
    assert path.with_name(f"{path.name}.bad").exists()
