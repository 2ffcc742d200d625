"""Photos: what is read, what is refused, and how they are explained."""

import struct
import zlib

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import xai_repro as xr
from xai_repro.photos import explain_photos, open_photo

RANDOM = ("mini-vgg", "random", ["grad-cam"], None, None)  # the tests are of the command, not of the network


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return "photo.png"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_photos_of_any_mode_can_be_read(mode, tmp_path):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 32768, np.uint16)).save(path)
    else:
        Image.new("RGB", (30, 20), (128, 128, 128)).convert(mode).save(path)
    photo = open_photo(path)
    assert photo.mode == "RGB" and photo.size == (30, 20)
    if mode not in ("1", "P"):
        assert np.abs(np.asarray(photo, dtype=int) - 128).max() <= 3


def test_transparency_is_white_and_rotation_is_undone(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_photo(tmp_path / "clear.png")).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_photo(tmp_path / "turned.jpg").size == (20, 30)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ValueError, match="cut.jpg is not a readable image"):
        open_photo(tmp_path / "cut.jpg")


def claimed(path, width, height):
    """A PNG that claims a size and holds next to nothing."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def test_photos_that_would_take_gigabytes_are_refused(tmp_path):
    for width, height in [(200_000, 1), (1, 200_000), (101, 1), (11_000, 11_000), (40_000, 40_000)]:
        with pytest.raises(ValueError, match=f"huge.png is {width} x {height} pixels|huge.png is not .*: Image size"):
            open_photo(claimed(tmp_path / "huge.png", width, height))
    for width, height in [(100, 1), (1, 1), (1000, 10)]:
        Image.new("RGB", (width, height)).save(tmp_path / "small.png")
        assert open_photo(tmp_path / "small.png").size == (width, height)


def test_a_large_photo_is_read_without_a_word(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # where Pillow begins to warn
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    assert open_photo(tmp_path / "large.png").size == (40, 30) and not recwarn.list


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value, tmp_path):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "photo.tif")
    assert np.asarray(open_photo(tmp_path / "photo.tif")).max() == 255
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "photo.tif")
    with pytest.raises(ValueError, match="photo.tif holds values that are not finite"):
        open_photo(tmp_path / "photo.tif")


@pytest.mark.parametrize("ending", ["eps", "pdf", "wmf"])
def test_drawings_are_no_photos(ending, tmp_path, monkeypatch):
    wmf = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 100, 100, 72) + b"\0" * 6 + b"\1\0\t\0" + b"\0" * 60
    heads = {"pdf": b"%PDF-1.4\n", "wmf": wmf}
    Image.new("RGB", (30, 20)).save(tmp_path / "drawing.eps")
    (tmp_path / "photo.jpg").write_bytes(heads.get(ending) or (tmp_path / "drawing.eps").read_bytes())  # whatever it is called
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ValueError, match="photo.jpg is not a readable image: cannot identify image file"):
        open_photo(tmp_path / "photo.jpg")


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_of_several_pictures_the_first_is_taken(ending, tmp_path):
    first, *others = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    first.save(tmp_path / f"photo.{ending}", save_all=True, append_images=others)
    red, green, blue = np.asarray(open_photo(tmp_path / f"photo.{ending}"))[10, 10]
    assert red > 240 and green < 15 and blue < 15


def test_damaged_photos_are_told_whatever_the_damage(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    path = tmp_path / "photo"
    for ending in ("png", "jpg", "tif", "gif", "webp", "bmp", "ppm"):
        Image.open(tmp_path / "whole.png").save(tmp_path / f"a.{ending}")
        data = (tmp_path / f"a.{ending}").read_bytes()
        for share in (0, 0.02, 0.1, 0.5, 0.9):
            path.write_bytes(data[: int(len(data) * share)])
            with pytest.raises(ValueError, match="photo is not a readable image"):
                open_photo(path)
        for _ in range(30):
            torn = bytearray(data)
            for place in rng.integers(0, min(len(data), 300), 3):
                torn[place] = rng.integers(256)
            path.write_bytes(torn)
            try:
                open_photo(path)
            except ValueError as error:
                assert "photo " in str(error)  # told of this file


def test_the_picture_never_takes_the_place_of_a_photo(photo, tmp_path):
    before = (tmp_path / photo).read_bytes()
    (tmp_path / "linked.png").symlink_to(photo)
    (tmp_path / "deep").mkdir()
    for out in ("photo.png", "linked.png", "./deep/../photo.png", tmp_path / "photo.png"):
        for given in (["photo.png"], ["linked.png"]):
            with pytest.raises(ValueError, match="would be written over the photo"):
                explain_photos(given, *RANDOM, out)
    assert (tmp_path / photo).read_bytes() == before and (tmp_path / "linked.png").is_symlink()


def test_what_cannot_be_written_is_found_before_the_work(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(xr, "load_model", lambda *_, **__: pytest.fail("the work has begun"), raising=False)
    (tmp_path / "folder.png").mkdir()
    for out, why in [("folder.png", "a folder"), ("photo.png/panel.png", "photo.png is a file"), ("/proc/none/a.png", "cannot write")]:
        with pytest.raises(OSError, match=why):
            explain_photos([photo], *RANDOM, out)


def test_arguments_of_a_wrong_kind_are_told(photo):
    asked = dict(paths=[photo], model="mini-vgg", weights="random", methods=["grad-cam"], layer=None, target=None, out="a.png")
    for wrong, why in [
        ({"paths": photo}, "paths is 'photo.png'"), ({"paths": [3]}, "photo is 3"), ({"paths": []}, "a photo is missing"),
        ({"out": 3}, "out is 3"), ({"methods": "grad-cam"}, "methods is 'grad-cam'"), ({"methods": []}, "a method is missing"),
        ({"weights": 3}, "weights is 3"), ({"model": [3], "weights": None}, "model is"), ({"hyper": [3]}, "hyper is"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=why):
            explain_photos(**asked | wrong)


def test_two_pictures_at_once_do_not_share_a_file(photo, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(Figure, "savefig", lambda _, name, **__: names.append(name) or name.write_bytes(b"picture"))
    for _ in range(2):
        explain_photos([photo], *RANDOM, "new/panel.png")
    assert len(set(names)) == 2 and [p.name for p in (tmp_path / "new").iterdir()] == ["panel.png"]


@pytest.mark.parametrize("name", ["$x_$", "$\\bad$ 5$", "a" * 200, "two\nlines", "caf\u00e9", "100%", "{0}", "a\udcff"])
def test_names_of_photos_are_shown_as_they_are(name, photo, tmp_path, monkeypatch):
    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self.axes[0].get_ylabel()) or save(self, *a, **k))
    (tmp_path / photo).rename(tmp_path / f"{name}.png")
    said = explain_photos([f"{name}.png"], *RANDOM, "panel.svg")
    title, species = drawn[0].split("\n")
    assert len(title) <= 20 and species and len(said.splitlines()) == 2
    if len(name) <= 20 and name.isprintable():
        assert title == name
