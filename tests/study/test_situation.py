"""Rows say whether the model finds the class (labels or predictions alone) and whether the object is a difficult one."""

import pandas as pd
import pytest
import torch
from toy_evaluation import Brightest, Data, evaluate, samples, toys  # noqa: F401 - a fixture


class Shifted(Brightest):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return super().forward(x) + self.shift


def facts(model, data, column):
    frame = evaluate(model, data, ["toy-flat", "toy-unable"], "toy-mean")
    assert (frame.groupby(["image_id", "target"])[column].nunique() == 1).all()  # facts of the image: the same for every method
    return frame[frame["method"] == "toy-flat"].set_index(["image_id", "target"])[column].to_dict()


def test_of_one_label_the_first_has_to_be_it(toys):  # noqa: F811
    data = Data(samples(4, [(0,), (2,), (0, 2), ()]))
    assert facts(Brightest(), data, "correct") == {("toy/0", 0): True, ("toy/1", 1): False, ("toy/2", 2): True, ("toy/3", 0): False}
    other = Brightest()
    other.classes = ("cat", "dog", "cow")  # whose first class is nobody's label
    assert not any(facts(other, data, "correct").values())


@pytest.mark.parametrize("shift, found", [(-0.1, [True, False]), (-1.0, [True, False]), (1.0, [True, True])])
def test_of_several_labels_the_likely_ones_are_predicted_or_else_the_likeliest(toys, shift, found):  # noqa: F811
    data = Data(samples(1, [(0, 1)]))
    data.multi_label = True
    assert list(facts(Shifted(shift), data, "correct").values()) == found


def test_difficult_is_torchrays_rule_of_the_object_shown(toys):  # noqa: F811
    small, alone, large = samples(3, [(0, 1), (1,), (0, 2)])
    large.boxes[0] = torch.tensor([2, 0, 0, 4, 4])  # a quarter of the image is not less than a quarter
    assert facts(Brightest(), Data([small, alone, large]), "difficult") == {("toy/0", 0): True, ("toy/1", 1): False, ("toy/2", 2): False}


def test_they_are_kept_with_the_rows(toys, tmp_path):  # noqa: F811
    data = Data(samples(3, [(0,), (2,), (0, 2)]))
    first = evaluate(Brightest(), data, "toy-flat", "toy-mean", results=tmp_path)
    again = evaluate(Brightest(), data, "toy-flat", "toy-mean", results=tmp_path)
    pd.testing.assert_frame_equal(first, again)
    assert first["correct"].tolist() == [True, False, True] and first["difficult"].tolist() == [False, False, True]
