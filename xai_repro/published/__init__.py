"""The numbers printed in the five papers, cell by cell, and which papers these are."""

from functools import lru_cache
from importlib.resources import files

import pandas as pd

from xai_repro.errors import unknown

_PAPERS = {
    "lfi_cam": {
        "name": "LFI-CAM",
        "title": "LFI-CAM: Learning Feature Importance for Better Visual Explanation, Supplementary Material",
        "venue": "ICCV 2021",
    },
    "lift_cam": {
        "name": "LIFT-CAM and SHAP-CAM",
        "title": "Towards Better Explanations of Class Activation Mapping, Supplementary Material",
        "venue": "ICCV 2021",
    },
    "collection_cam": {
        "name": "Collection-CAM",
        "title": "Collection-CAM: A Faster Region-Based Saliency Method Using Collection-Wise Mask Over Pyramidal Features",
        "venue": "IEEE Access 2022",
    },
    "gradient_hedging": {
        "name": "Gradient Hedging",
        "title": "Gradient Hedging for Intensively Exploring Salient Interpretation beyond Neuron Activation",
        "venue": "preprint",
    },
    "clam": {
        "name": "CLAM",
        "title": "CLAM: Class-wise Layer-wise Attribute Model for Explaining Neural Networks",
        "venue": "preprint",
    },
}


def papers():
    """Key -> {"name" (what its page calls it), "title", "venue"} of the papers, in the order of the book."""
    return {key: dict(record) for key, record in _PAPERS.items()}


@lru_cache
def _read(paper):
    text = files("xai_repro.published").joinpath(f"{paper}.csv")
    with text.open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return table.assign(value=pd.to_numeric(table["value"]).astype(float))


def published(paper=None, table=None):
    """The printed numbers in long form: one row per cell of a table.

    Columns: paper, table, row, column (the headings as printed), dataset, model, method, metric (this library's
    names; "" where the paper does not say), value (float), printed (the characters of the paper), unit ("%", "ms" or
    ""), mark ("best": bold in the paper), note. All but value are strings.
    Raises UnknownName for a paper or table that does not exist.
    """
    if paper is None:
        if table is not None:
            raise ValueError(f"table {table} of which paper? possible: {', '.join(_PAPERS)}")
        return pd.concat([_read(key) for key in _PAPERS], ignore_index=True)
    if not isinstance(paper, str) or paper not in _PAPERS:
        raise unknown("paper", paper, _PAPERS)
    rows = _read(paper)
    if table is None:
        return rows.copy()
    if str(table) not in set(rows["table"]):
        raise unknown(f"table of {paper}", table, rows["table"].unique())
    return rows[rows["table"] == str(table)].reset_index(drop=True)
