"""What tests of training share."""

from importlib import import_module

import pytest

training = import_module("xai_repro.models.train")  # the package exports a function of that name


@pytest.fixture
def few_drawn(monkeypatch):
    """A training of an embedded network ends without drawing thousands of pictures: it is tempered on 50 and measured on none."""
    temper = training._temper
    monkeypatch.setattr(training, "evaluate_model", lambda model, data: {"median_top1_probability": 0.5})
    monkeypatch.setattr(training, "_temper", lambda net, data: temper(net, data[:50]))
