"""The gallery: families, panels and what is said of them."""

import torch

import xai_repro as xr
from xai_repro.study import gallery


def test_every_family_of_the_library_has_a_title():
    assert {xr.method_info(name).family for name in xr.methods()} == set(gallery.FAMILIES)


def test_by_family_holds_every_method_once_and_the_controls_last():
    groups = gallery.by_family(["random", "gradient", "grad-cam", "layer-cam"])
    assert groups == [("Class activation maps", ["grad-cam", "layer-cam"]), ("Gradients", ["gradient"]), ("Controls", ["random"])]
    titles = [title for title, _ in gallery.by_family(xr.methods())]
    assert titles == list(gallery.FAMILIES.values())
    every = gallery.by_family(xr.methods())
    assert sorted(name for _, names in every for name in names) == sorted(xr.methods()) and len(dict(every)) == len(every)


def test_panels_are_of_one_family_each_and_draw_signed_maps_apart():
    x = torch.rand(2, 3, 12, 12)
    maps = {name: torch.rand(2, 12, 12) for name in ["gradient", *xr.methods("*-cam")[:7]]}
    titles = [title for title, _ in gallery.panels(x, maps, ["wren", "owl"], xr.View())]
    assert len(titles) == len(set(titles)) + sum(len(names) > 6 for _, names in gallery.by_family(maps))
    (figure,) = (figure for title, figure in gallery.panels(x, maps, ["wren", "owl"], xr.View()) if title == "Gradients")
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["wren", "owl"]
    assert figure.axes[1].images[0].get_cmap().name == "RdBu_r" if xr.method_info("gradient").signed else "viridis"


def test_counted():
    assert gallery.counted(["grad-cam", "random"], []) == "2 methods are shown: Class activation maps (1), Controls (1)."
    assert gallery.counted(["random"], ["abn", "lfi-cam"]).endswith("Controls (1). 2 methods do not apply here; the page says why.")
    assert gallery.counted(["random"], ["abn"]).endswith("One method does not apply here; the page says why.")
