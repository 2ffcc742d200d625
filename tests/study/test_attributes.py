"""How good attributes are, by drawn birds: parts by counting pixels, retrieval and chance by plain loops."""

import numpy as np
import pytest
import torch
import xai_repro as xr

from xai_repro.methods import cla, clam
from xai_repro.study import attributes, examples


@pytest.fixture(scope="module")
def birds():
    return [xr.load_data("mini-birds")[n] for n in range(3)]


@pytest.fixture(scope="module")
def model():
    return xr.load_model("mini-vgg", device="cpu")


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    return examples.build_index(model, images=40, out=tmp_path_factory.mktemp("index") / "index.safetensors")


@pytest.mark.parametrize("number", [0, 3])  # the second does not show all its parts
def test_a_patch_shows_what_it_holds_most_of(birds, number):
    bird, p, stride, names = xr.load_data("mini-birds")[number], 2, 4, attributes.parts_of(birds)
    found = attributes.part_of_patches(bird, p, stride, names)
    assert found.shape == (23, 23) and 0 < (found == len(names)).sum() < 23**2 and (len(bird.parts) < len(names)) == (number == 3)
    for r in range(23):
        for c in range(23):
            counts = [int(bird.parts[name][r * 4 : r * 4 + 8, c * 4 : c * 4 + 8].sum()) if name in bird.parts else 0 for name in names]
            assert found[r, c] == int(np.argmax([*counts, 64 - sum(counts)]))


def test_retrieval_by_plain_loops(model, birds, index):
    training = xr.load_data("mini-birds", "train", limit=40)
    rows = attributes.retrieved(model, birds, index, training)
    layer = "features.25"
    one, learnt = birds[0], clam.learnt_of(model, birds[0].image[None], "clrp", "full")[layer]
    y = int(model(one.image[None]).argmax())
    here = examples.found_by(model, one.image[None], torch.tensor([y]), {layer: learnt})[layer]
    same = [k for k in range(len(index.y)) if index.y[k] == y]
    kept, distances = {}, here.d[0, :, 0]
    for i in distances.argsort().tolist():
        kept.setdefault(tuple(here.corners[0, i, 0].tolist()), i)
    corners, maps = index.found[layer]
    names = attributes.parts_of([*birds, *(training[index.numbers[k]] for k in same)])
    parts = {k: attributes.part_of_patches(training[index.numbers[k]], learnt.p, here.stride, names) for k in same}
    own = attributes.part_of_patches(one, learnt.p, here.stride, names)
    kept = {place: i for place, i in kept.items() if own[place] < len(names)}
    A = torch.nn.functional.normalize(examples.activations(model, one.image[None], [layer])[layer][0], dim=0)
    hits = {way: [] for way in attributes.WAYS}
    for (r, c), i in kept.items():
        shown = int(own[r, c])
        gaps = {(k, m): float((maps[k, i, m].float() - here.maps[0, i, 0]).norm()) for k in same for m in range(maps.shape[2])}
        k, m = min(gaps, key=gaps.get)
        hits["attributes"].append(int(parts[k][tuple(corners[k, i, m])]) == shown)
        near = {}
        for k in same:
            B = torch.nn.functional.normalize(examples.activations(model, training[index.numbers[k]].image[None], [layer])[layer][0], dim=0)
            for row in range(parts[k].shape[0]):
                for column in range(parts[k].shape[1]):
                    near[k, row, column] = float((B[:, row : row + learnt.p, column : column + learnt.p] - A[:, r : r + learnt.p, c : c + learnt.p]).norm())
        k, row, column = min(near, key=near.get)
        hits["nearest features"].append(int(parts[k][row, column]) == shown)
        hits["any attribute"].append(np.mean([int(parts[k][tuple(corners[k, n, 0])]) == shown for k in same for n in range(corners.shape[1])]))
        hits["anywhere"].append(np.mean([(parts[k] == shown).float().mean().item() for k in same]))
    own = rows[(rows["image_id"] == one.id) & (rows["layer"] == layer)].set_index("method")
    assert len(rows) % 4 == 0 and 0 < len(rows) <= len(birds) * 13 * 4 and own["n"].eq(len(kept)).all()
    for way, values in hits.items():
        assert own["value"][way] == pytest.approx(np.mean(values), abs=1e-6), way


def test_a_training_image_retrieves_its_own_parts(model, index):
    training = xr.load_data("mini-birds", "train", limit=40)
    rows = attributes.retrieved(model, [training[index.numbers[0]]], index, training)
    values = rows.groupby("method")["value"].mean()
    assert values["attributes"] == values["nearest features"] == 1 > values["any attribute"]


def test_where_attributes_lie(model, birds):
    rows, parts = attributes.lying(model, birds)
    names = [*attributes.parts_of(birds), attributes.NOTHING]
    assert (rows[names].sum(axis=1) - 1).abs().max() < 1e-6 and list(rows["method"].unique()) == ["attributes", "relevance", "anywhere"]
    value = attributes.worth(model, torch.stack([one.image for one in birds]), torch.tensor([one.labels[0] for one in birds]), birds)
    assert parts["effect"].tolist() == pytest.approx(value.effect.double().mean(0).tolist(), rel=1e-4)
    strongest = list(birds[0].counterfactuals.shapes)[int(value.effect[0].argmax())]
    here = rows[(rows["image_id"] == birds[0].id)].set_index("method")
    assert here["decides"].tolist() == here[strongest].tolist()
    everywhere = [torch.bincount(attributes.part_of_patches(birds[0], one.p, 96 / size, names[:-1]).flatten(), minlength=8) for one, size in _sizes(model, birds[0])]
    assert here.loc["anywhere", names].tolist() == pytest.approx(torch.stack([one / one.sum() for one in everywhere]).mean(0).tolist(), abs=1e-6)


def _sizes(model, bird):
    learnt = clam.learnt_of(model, bird.image[None], "clrp", "full")
    return [(learnt[name], A.shape[-1]) for name, A in examples.activations(model, bird.image[None], list(learnt)).items()]


def test_what_was_learnt_is_told_by_two_comparisons(model, birds, monkeypatch):
    """Where the pattern's bits change nothing, every comparison of classes is a tie: one half."""
    honest = attributes.told_apart(model, birds)
    assert list(honest["layer"])[:2] == ["features.29", "features.27"] and honest["classes"].between(0, 1).all() and (honest["places"] > 0.5).mean() > 0.5
    blind = {name: cla.CLA(one.attributes, one.first, one.second, torch.zeros_like(one.patterns), one.strength) for name, one in clam.learnt_of(model, birds[0].image[None], "clrp", "full").items()}
    monkeypatch.setattr(attributes, "learnt_of", lambda *_: blind)
    assert (attributes.told_apart(model, birds)["classes"] == 0.5).all()


def test_means_are_over_images():
    rows = attributes.pd.DataFrame({"method": ["a"] * 4, "image_id": ["x", "x", "x", "y"], "value": [0.0, 0.0, 0.0, 1.0]})
    found = attributes.means(rows, ["method"])
    assert found["mean"].iat[0] == 0.5 and found["n"].iat[0] == 2 and found["low"].iat[0] == 0
    made = attributes.as_rows(rows.assign(model="m"), "mini-birds", "same-part")
    assert made["value"].tolist() == [0, 1] and made["metric"].unique().tolist() == ["same-part"] and made["dataset"].unique().tolist() == ["mini-birds"]
