"""Which images a page shows, by a rule and never by eye, and how alike the maps are that it shows."""

from itertools import combinations

import pandas as pd
import torch


def cases(rows, method, than, number):
    """Images where a method gains most over another and where it loses most: two lists of names, the extreme first. rows: of one metric."""
    values = rows[rows["method"].isin([method, than])].pivot_table(index="image_id", columns="method", values="value", sort=False)
    gain = (values[method] - values[than]).dropna().sort_values(kind="stable")
    return list(gain.index[::-1][:number]), list(gain.index[:number])


def by_name(data, names):
    """Samples of a data set by their names, in that order; it is looked through until all are found."""
    found = {}
    for n in range(len(data)):
        if set(names) <= found.keys():
            break
        found[data[n].id] = data[n]
    return [found[name] for name in names]


def alike(maps, group):
    """How alike maps of one image are: mean cosine over images, `within` of two methods of a group, `across` of one of it and one outside it; a table of one row.

    maps: {method: [B,H,W]}. Maps without any value have a cosine of 0 with all others.
    """
    cosines = {"within": [], "across": []}
    for one, other in combinations(maps, 2):
        inside = (one in group) + (other in group)
        if inside:
            cosines["within" if inside == 2 else "across"].append(torch.cosine_similarity(maps[one].flatten(1).double(), maps[other].flatten(1).double()).mean().item())
    return pd.DataFrame([{name: pd.Series(found, dtype=float).mean() for name, found in cosines.items()} | {"images": len(next(iter(maps.values())))}])
