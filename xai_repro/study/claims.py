"""What the papers assert, as data (published/claims), and whether it holds in rows of `evaluate`.

A record of published/claims/PAPER.toml:

    id       short and unique            place    where the paper says so      says    the claim, in own words
    test     a function of outcomes.py; the other keys are its arguments, in this library's names or the paper's headings
    table    optional: the printed table, or list of tables, that the claim is tested on as well; column: only its columns of this heading, or with this part in it

The table `names` lists what is neither: labels that a notebook gives, and metrics and models still to come. Every other name that
nobody knows is an error.

method, than, metric, dataset and model may be lists: the claim then stands for every combination. A method is a name with its
default settings, a table {name, settings}, or the label that `evaluate` was given. Thresholds are the papers' own figures, or
stated as ours in `says`. None is chosen by what comes out here.
"""

import copy
import json

import pandas as pd

from xai_repro.errors import unknown
from xai_repro.published import papers
from xai_repro.store.files import writable
from xai_repro.study import markup, records
from xai_repro.study.notes import INTERVALS, standing_in
from xai_repro.study.outcomes import Cells, decide, NotRun, TESTS
from xai_repro.study.printed import on_paper
from xai_repro.study.statistics import BY, checked_rows, TIME, with_run, with_time
from xai_repro.study.tables import displayed, keep, present

COLUMNS = ["id", "paper", "place", "says", "outcome", "estimate", "low", "high", "n", "networks", "detail", "stands_in", "paper_outcome", "paper_count"]
OUTCOMES = ("holds", "undecided", "fails", "not comparable", "not run yet")
_ROW = [*BY, "image_id", "target"]  # what one row is about


def all(paper=None):  # noqa: A001 - reads as claims.all()
    """The claims as a list of records: id, paper, place, says, test, and the arguments of the test.

    Raises UnknownName for a paper that does not exist, and for whatever else the files name wrongly.
    """
    if paper is not None and paper not in papers():
        raise unknown("paper", paper, papers())
    return [copy.deepcopy(record) for record in records.of_all(TESTS) if paper in (None, record["paper"])]


def check(df, paper=None, seed=0, dataset=None):
    """Test the claims, of one paper or of all, on rows of `evaluate`: one row per claim.

    seed: of the bootstrap; another one should change no outcome. dataset: only what claims say of this data set of a paper; those that are about none or others are left out.
    Columns: id, paper, place (where the paper says so), says, outcome, estimate with its 95 % interval low to high,
    n (images, or repetitions of a measured time), networks (runs), detail, stands_in (what was run in place of the paper's data and
    models), paper_outcome and paper_count (whether the claim holds in the printed table that it names, and in how many of its
    comparisons; by the numbers alone, for there are no intervals).
    outcome: "holds" or "fails" where the interval leaves no doubt, "undecided" where it does or where there are fewer than 20 images,
    "not comparable" where times were not measured on the paper's networks at 224 pixels, "not run yet" where rows
    are missing (detail says which). The interval is that of the tested quantity, by bootstrap over networks and images, paired
    where two methods are compared; differences count in favour of the claim. A claim about several methods, metrics,
    data sets or models holds if every comparison does ("generally": a stated share of them) and fails if one does after Holm's
    correction for their number (`outcomes.decide`); detail begins with how many hold, and the numbers are of the weakest one; of
    "generally", the share that hold, from those that certainly do to those that do not fail. Of rows that df holds twice the
    first count, which is printed.
    """
    df = with_run(_once(checked_rows(df, [*_ROW, "value", "seconds", "status"])))
    cells = Cells({key: cell for key, cell in with_time(df).groupby(list(BY), sort=False)} if len(df) else {}, seed)
    asked = [record if dataset is None else record | {"dataset": dataset} for record in all(paper) if dataset is None or _names(record.get("dataset"), dataset)]
    return pd.DataFrame([_checked(cells, record) for record in asked], columns=COLUMNS)


def _names(given, name):
    return name in (given if isinstance(given, list) else [given])


def about_time(checked):
    """Which rows of `check` are claims about measured time, whose numbers differ from one measurement to the next."""
    return checked["id"].isin([record["id"] for record in all() if record.get("metric") == TIME])


def _once(df):
    """The rows without those that are there a second time, as in two files of the same cells; what was left out is said."""
    row = ["run", *_ROW] if "run" in df else _ROW
    again = df.duplicated(row)
    if again.any():
        others = int(again.sum() - (df.duplicated([*row, "value"]) & again).sum())
        but = f", though {others} have another value" if others else ""
        print(f"{again.sum()} of {len(df)} rows are there twice (the same {', '.join(row)}): the first of each counts{but}")
    return df[~again]


def _checked(cells, record):
    results, missing, stands_in = {}, [], {}
    for arguments in records.comparisons(record):
        try:
            same_model = True
            for key in ("dataset", "model", "than_model"):
                if key in arguments:
                    asked, arguments[key] = arguments[key], _present(cells, key, arguments, record["paper"])
                    stands_in |= {f"{arguments[key]} for {asked}": None} if arguments[key] != asked else {}
                    same_model &= key == "dataset" or arguments[key] == asked
            # Where two of a paper's data sets or models have the same stand-in, a comparison counts once.
            name = json.dumps(arguments, sort_keys=True)
            results[name] = results.get(name) or TESTS[record["test"]](cells, **arguments)
            for result in results[name]:
                result["comparable"] &= same_model or arguments["metric"] != TIME
        except NotRun as reason:
            missing.append(str(reason))
    results = [result for found in results.values() for result in found]
    outcome, held = decide(results, record.get("share", 1.0), len(missing))
    paper_outcome, paper_count = on_paper(record)
    facts = {key: record[key] for key in COLUMNS if key in record} | {"outcome": outcome, "paper_outcome": paper_outcome, "paper_count": paper_count}
    if outcome == "not run yet":
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        return facts | {"n": 0, "networks": 0, "detail": missing[0] + more, "stands_in": ""}
    alike = [result for result in results if result["outcome"] == outcome] or results
    weakest = min(alike, key=lambda result: result["margin"])
    numbers = {key: weakest[key] for key in ("estimate", "low", "high", "n", "networks")}
    if "share" in record:
        failed, few = sum(result["outcome"] == "fails" for result in results), {key: min(result[key] for result in results) for key in ("n", "networks")}
        numbers = {"estimate": held / len(results), "low": held / len(results), "high": 1 - failed / len(results)} | few
    detail = [f"{held} of {len(results)} comparisons hold"] if len(results) > 1 else []
    detail += [f"{record['share']:.0%} are asked for"] if "share" in record else []
    detail += [weakest["detail"]]
    detail += [f"fewer than {weakest['least']} {'repetitions' if weakest['least'] < 20 else 'images'}"] if weakest["n"] < weakest["least"] else []
    detail += [f"not run yet: {len(missing)} more"] if missing else []
    return facts | numbers | {"detail": "; ".join(detail), "stands_in": ", ".join(stands_in)}


def _present(cells, key, arguments, paper):
    """What was run of a paper's data set or model, in the metric of the test. Raises NotRun without any."""
    place = BY.index(key.removeprefix("than_"))
    used = present({cell[place] for cell in cells.rows if cell[4] == arguments["metric"]}, BY[place], arguments[key], paper)
    if used is None:
        raise NotRun(f"no rows of {arguments['metric']} on {arguments[key]}")
    return used


SIGNS = {"holds": "\u2713 holds", "fails": "\u2717 fails", "undecided": "? undecided", "not comparable": "\u2260 not comparable", "not run yet": "\u2013 not run yet"}


def show(checked, path, caption=""):
    """Save the result of `check` as a page shows it, outcome first, and beside it as parquet with all its columns; return it as what a notebook displays."""
    checked_rows(checked, COLUMNS, "claims are the table that `check` returns")
    writable(path)
    shown = pd.DataFrame(
        {
            "outcome": checked["outcome"].map(SIGNS),
            "claim": checked["says"],
            "place": checked["paper"] + ", " + checked["place"],
            "estimate (95 %)": [with_interval(*numbers) for numbers in checked[["estimate", "low", "high"]].itertuples(index=False)],
            "paper's own numbers": [f"{SIGNS[one][0]} {count}" if count else "" for one, count in zip(checked["paper_outcome"], checked["paper_count"])],
            "images": checked["n"],
            "networks": checked["networks"],
            "tested on": [stands_in or "" for stands_in in checked["stands_in"]],
            "detail": checked["detail"],
        }
    ).fillna("")
    keep(shown, checked, path, caption)
    one_paper, rows = checked["paper"].nunique() == 1, []
    for claim in shown.to_dict("records"):
        place = claim["place"].partition(", ")[2] if one_paper else claim["place"]
        size = f"{claim['images']} images, {claim['networks']} network{'s' * (claim['networks'] != 1)}" if claim["images"] else ""
        rows.append((claim["outcome"], [f"{claim['claim']}\n{place}", claim["estimate (95 %)"], claim["paper's own numbers"], "\n".join(filter(None, [claim["detail"], size]))]))
    small = markup.Small("", "outcome", [("claim",), ("estimate",), ("paper's own numbers",), ("detail",)], rows)
    estimates = INTERVALS if checked["estimate"].notna().any() else ""
    return displayed([small], " ".join(filter(None, [estimates, standing_in(checked["stands_in"])])), path, caption)


def with_interval(estimate, low, high):
    return "" if pd.isna(estimate) else f"{estimate:.3g} ({low:.3g} to {high:.3g})"
