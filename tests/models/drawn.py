"""Pictures of a data set that are drawn once for all networks that are measured on them."""

from functools import cache

from xai_repro.data import load_data


class Drawn(list):
    """The first images of a data set, kept; with what `evaluate_model` and `recognised` ask of one."""

    def __init__(self, samples, data):
        super().__init__(samples)
        self.multi_label, self.classes = data.multi_label, data.classes

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return Drawn(found, self) if isinstance(index, slice) else found


@cache
def drawn(name, images):
    data = load_data(name)
    return Drawn(data[:images], data)
