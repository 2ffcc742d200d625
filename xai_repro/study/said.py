"""What came out, in sentences: made of tables of numbers, so that a page says what its rows say and nothing else.

A difference whose interval holds zero is called undecided, and so is one on fewer than 20 images; what stands in for a paper's data or networks is
called a stand-in. Every function returns text for a page, "" where there is nothing to say, and a list where there are several data sets or networks.
"""

import pandas as pd

from xai_repro.study import notes
from xai_repro.study.claims import about_time
from xai_repro.study.outcomes import better, Cells, LEAST_IMAGES
from xai_repro.study.statistics import BY, checked_rows, EMPTY, higher_is_better, is_control, NO_SHARES, with_run
from xai_repro.study.tables import ON_PHOTOGRAPHS, STANDS_IN

CONTROLS = ("random", "center")
NAMED = 3  # so many names are listed, of more the first ones and how many there are
SAME = 1e-6  # methods that are equal by algebra differ by rounding
WORDS = {
    "cosine-to": "cosine to SHAP-CAM's coefficients", "iou": "intersection over union", "segmentation-ap": "average precision", "sanity-cascading": "rank correlation (cascading)",
    "sanity-independent": "rank correlation (independent)", "pointing-game": "accuracy in the pointing game", "pointing-energy": "accuracy in the pointing game over all energies", "morf-insertion": "accuracy with the highest pixels alone",
    "morf-perturbation": "accuracy without the highest pixels", "lerf-perturbation": "accuracy without the lowest pixels", "part-hit": "share of peaks on the deciding part",
    "part-share": "share of the map on the deciding parts", "outside-inside-ratio": "outside-inside ratio", "overall": "overall score",
}  # fmt: skip


def result(*parts):
    """The parts of a page's result, a paragraph each; those that say nothing are left out."""
    return "\n\n".join(part for part in parts if part)


# -- methods --------------------------------------------------------------------------------------------------------------


def best(summary, metric, controls=CONTROLS):
    """Which method is best in a metric, for every data set and network, beside the better of the controls, which know nothing of the network.

    summary: of `tables.summary`; controls: of its methods. Candidates are no controls and have fewer than a tenth of empty maps; those that are equal are named together.
    How many others have an interval that overlaps with the best one's is said. Raises ValueError for a metric that has no direction.
    """
    direction = higher_is_better(metric)
    if direction is None:
        raise ValueError(f"no method is best in {metric}: more of it is neither better nor worse")
    return _each_cell(_of(summary, metric), lambda part: _best(part, metric, direction, controls))


def _best(part, metric, direction, controls):
    part, knowing_nothing = part.assign(merit=part["mean"] if direction else -part["mean"]), part["method"].isin(controls)
    candidates = part[~knowing_nothing & ~part["method"].map(is_control) & ~(part["empty"] >= EMPTY)]
    if candidates.empty:
        return ""
    first = candidates.loc[candidates["merit"].idxmax()]
    same = candidates["merit"] >= first["merit"] - SAME
    near = int((~same & (candidates["low"] <= first["high"]) & (candidates["high"] >= first["low"])).sum())
    verb = "has" if same.sum() == 1 else "have, all the same,"
    text = f"{listed(map(name, candidates['method'][same]))} {verb} the {'highest' if direction else 'lowest'} {words(metric)}, {estimate(first, metric, sized(first))}"
    if knowing_nothing.any():
        rival = part.loc[part.loc[knowing_nothing, "merit"].idxmax()]
        ahead = rival["merit"] - first["merit"]
        text += f"; the control {name(rival['method'])}" + (" is better with " if ahead > SAME else " is as good with " if ahead >= -SAME else " has ") + number(rival["mean"], metric)
    overlap = "the interval of another method overlaps with it" if near == 1 else f"the intervals of {near} other methods overlap with it"
    return text + (f"; {overlap}." if near else ".")


def values(summary, metric, methods=None):
    """The means of methods in a metric with their intervals, for every data set and network. summary: of `tables.summary`; methods: some of its methods, in this order, by default all."""
    summary = _of(summary, metric)
    order = list(dict.fromkeys(summary["method"]) if methods is None else methods)
    return _each_cell(summary[summary["method"].isin(order)], lambda part: _values(part, metric, order))


def _values(part, metric, order):
    cells = sorted(part.to_dict("records"), key=lambda cell: order.index(cell["method"]))
    return f"{words(metric)}: " + ", ".join(f"{name(cell['method'])} {estimate(cell, metric)}" for cell in cells) + f"; {sized(part)}."


def pair(rows, metric, *pairs):
    """By how much the first of two methods is better or worse than the second, on the same images and networks, for every data set and network.

    rows: of `evaluate`; pairs: (method, than), any number of them. Of a metric that is a label more is held to be better.
    """
    rows = with_run(checked_rows(rows, [*BY, "image_id", "target", "value"]))
    rows, told = rows[rows["metric"] == metric].dropna(subset="value"), {}
    for where, part in rows.groupby(["dataset", "model"], sort=False):
        cells = Cells({key: cell for key, cell in part.groupby(list(BY), sort=False)})
        both = [names for names in pairs if set(names) <= set(part["method"])]
        found = [better(cells, *names, metric, *where, higher=higher_is_better(metric) is not False)[0] for names in both]
        if found:
            told[where] = f"{words(metric)}: {'; '.join(difference(one, *names, metric) for one, names in zip(found, both))}; {sized(pd.DataFrame(found))}."
    return _at_each(told)


def difference(found, method, than, metric=""):
    """A difference in favour of a method, in words. found: its mean (or estimate), low, high and n, in a mapping."""
    mean, low, high = found["estimate"] if "estimate" in found else found["mean"], found["low"], found["high"]
    unit = " points" if in_percent(metric) else ""
    if max(abs(mean), abs(low), abs(high)) < SAME:
        return f"{name(method)} is as good as {name(than)}"
    sign, word = (1, "better") if mean >= 0 else (-1, "worse")
    mean, low, high = (number(one, metric).removesuffix(" %") for one in (sign * mean, *sorted((sign * low, sign * high))))
    text = f"{name(method)} is {word} than {name(than)} by {mean}{unit} ({low} to {high})"
    few = found["n"] < LEAST_IMAGES
    return f"{text}, which is undecided{' on so few images' if few else ''}" if few or found["low"] <= 0 <= found["high"] else text


def each(table, template):
    """Every row of a table in the words of a template whose braces name columns, as in "{method} {mean:.2f} of {share:.0%}"; rows without a number that it asks for are left out."""
    asked = [column for column in table if f"{{{column}" in template]
    told = [template.format(**row).replace("%", " %") for row in table.dropna(subset=asked).to_dict("records")]
    return f"{'; '.join(told)}." if told else ""


def controls(against):
    """How often the best method is better than the better control: the result of `tables.against_controls`."""
    if against.empty:
        return ""
    left = against[against["apart"] != "yes"]
    of = ", ".join(_count(against[column].nunique(), noun) for column, noun in (("metric", "metric"), ("model", "network"), ("dataset", "data set")))
    rivals = sorted(set(against["control"]))
    knowing = f"the control {name(rivals[0])}, which knows" if len(rivals) == 1 else f"the better of the controls {listed(map(name, rivals))}, which know"
    text = f"In {len(against) - len(left)} of {_count(len(against), 'comparison')} ({of}) the best method is better than {knowing} nothing of the network, and the intervals do not overlap"
    named = [f"{words(metric)} ({len(part)} of {(against['metric'] == metric).sum()})" for metric, part in left.groupby("metric", sort=False)]
    return text + (f"; not so in {listed(named, most=9)}." if named else ".")


def slope(found, expected=-1):
    """Slopes on logarithmic axes beside the one that is expected: the result of `tables.slopes`."""
    inside = found.assign(verdict=((found["low"] <= expected) & (expected <= found["high"])).map({True: "holds", False: "does not hold"}), size=[sized(row) for row in found.to_dict("records")])
    return each(inside, "on {dataset} with {model} the slope is {slope:.2f} ({low:.2f} to {high:.2f}; {size}), an interval that {verdict} " + f"{expected:g}")


# -- beside the paper ---------------------------------------------------------------------------------------------------------


def agreement(*ranks):
    """Whether the paper's order of the methods and ours agree by more than chance: results of `tables.rank_agreement`."""
    found = pd.concat([one.dropna(subset="tau") for one in ranks], ignore_index=True)
    if found.empty:
        return "There is no order of methods here that can be compared with the paper's."
    firm, against = found["tau"] >= found["needed"] - SAME, found["tau"] <= SAME - found["needed"]
    asked = found["needed"].dropna()
    if len(found) == 1:
        one = found.iloc[0]
        verdict = "agree by more than chance" if firm.iat[0] else "are opposed by more than chance" if against.iat[0] else "agree no better than chance"
        asked = f"{asked.iat[0]:.2f} would be needed" if len(asked) else "so few methods are in any order by chance"
        return f"The paper's order of {one['methods']} methods and ours {verdict}: Kendall's tau {one['tau']:.2f} ({one['low']:.2f} to {one['high']:.2f}); {asked}."
    named = [f"{metric.replace('-', ' ')} of {group}" for metric, group in found[firm][["metric", "group"]].itertuples(index=False)]
    many = "all of them" if firm.all() else firm.sum() or "none"
    text = f"The paper's order of the methods is compared with ours in {len(found)} columns of its tables. They agree by more than chance in {many}"
    text += (f" ({listed(named)})" if named and not firm.all() else "") + (f" and are opposed by more than chance in {against.sum()}" if against.any() else "")
    return f"{text}: Kendall's tau is {_between(found['tau'])}, " + (f"and {_between(asked)} would be needed." if len(asked) else "but so few methods are in any order by chance.")


def tested(checked, place=""):
    """Of the result of `claims.check`, the claims that the rows decide or leave undecided. place: a pattern of their places in the paper.

    What no page has run stands on the page of all claims alone.
    """
    return checked[(checked["outcome"] != "not run yet") & checked["place"].str.contains(place)]


def claims(checked):
    """How the claims came out, which fail, and on what stand-ins: the result of `claims.check`, of those that were tested."""
    checked = tested(checked)
    if checked.empty:
        return "The paper's claims about this ask for more than this profile runs."
    counts, measured = checked["outcome"].value_counts(), checked[~about_time(checked)]
    size = f" ({sized(measured)})" if len(measured) else ""  # that of a time is its repetitions
    quoted = [f"\u201c{says.rstrip('.')}\u201d" for says in (checked if len(checked) == 1 else checked[checked["outcome"] == "fails"])["says"]]
    if len(checked) == 1:
        return f"The claim tested here, {quoted[0]}, {_OUTCOMES[checked['outcome'].iat[0]][0]}{size}. {stand_ins(checked)}".rstrip()
    told = [f"{counts[outcome]} {_OUTCOMES[outcome][int(counts[outcome] > 1)]}" for outcome in _OUTCOMES if outcome in counts]
    every = "Both" if len(checked) == 2 else f"All {len(checked)}"
    first = f"{every} claims tested here {told[0].partition(' ')[2]}" if len(told) == 1 else f"Of the {len(checked)} claims tested here {listed(told, most=9)}"
    failing = f"Not true here: {'; '.join(quoted)}." if 0 < len(quoted) <= NAMED else ""
    return " ".join(filter(None, [f"{first}{size}.", failing, stand_ins(checked)]))


_OUTCOMES = {  # of one, of several
    "holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("is undecided at this size", "are undecided at this size"),
    "not comparable": ("is about a time, for the paper's networks and sizes alone to decide", "are about times, for the paper's networks and sizes alone to decide"),
}  # fmt: skip


def stand_ins(table):
    """What stands in for a paper's data and networks: in the result of `claims.check`, or in any table with columns dataset or model."""
    if "stands_in" in table:
        return notes.standing_in(table["stands_in"])
    known = {*STANDS_IN.values(), *ON_PHOTOGRAPHS.values()}
    found = [one for key in ("dataset", "model") if key in table for one in dict.fromkeys(table[key]) if one in known]
    return f"{listed(found, most=9)} stand{'s' if len(found) == 1 else ''} in for the paper's data and networks." if found else ""


# -- words ----------------------------------------------------------------------------------------------------------------------


def in_percent(metric):
    """Whether a metric's means are shares, which are shown in percent; of what has no name, they are not."""
    return metric != "" and metric not in NO_SHARES


def number(value, metric=""):
    """A number with the digits and the unit of its metric."""
    return f"{100 * value:.1f} %" if in_percent(metric) else f"{value:.3f}"


def estimate(cell, metric="", more=""):
    """A mean and its interval: "12.3 % (10.1 to 14.2)". cell: a row of a summary; more: what the brackets hold besides."""
    ends = " to ".join(number(cell[end], metric).removesuffix(" %") for end in ("low", "high"))
    return f"{number(cell['mean'], metric)} ({ends}{f'; {more}' if more else ''})"


def name(method):
    """A method as a sentence names it."""
    return f"*{str(method).replace('*', chr(92) + '*')}*"


def words(metric):
    """A metric as a sentence names it."""
    return WORDS.get(metric, metric.replace("-", " "))


def listed(names, most=NAMED):
    """Names in a sentence, as in "a, b and c"; of more than `most`, the first ones and how many more there are."""
    names = list(names)
    return notes.listed(names if len(names) <= most else [*names[: most - 1], f"{len(names) - most + 1} more"])


def sized(table):
    """On how many images and networks numbers rest, as in "20 to 24 images, 5 networks". table: n and, where it is known, networks; or a row of such a table."""
    return notes.counted(table if isinstance(table, pd.DataFrame) else pd.DataFrame([dict(table)])).removesuffix(".")


def _count(many, noun):
    return f"{many} {noun}{'' if many == 1 else 's'}"


def _between(numbers):
    return f"{numbers.min():.2f}" if numbers.max() - numbers.min() < 0.005 else f"from {numbers.min():.2f} to {numbers.max():.2f}"


def _of(summary, metric):
    """The rows of a summary that are of a metric and have a value."""
    summary = checked_rows(summary, ["method", "metric", "mean", "low", "high", "n"], "what `tables.summary` returns")
    found = summary[(summary["metric"] == metric) & summary["mean"].notna()]
    return found if "empty" in found else found.assign(empty=0.0)


def _each_cell(summary, tell):
    keys = [key for key in ("dataset", "model") if key in summary]
    parts = summary.groupby(keys, sort=False) if keys else [((), summary)]
    return _at_each({where: tell(part) for where, part in parts if len(part)})


def _at_each(told):
    """The sentences of every data set and network, which each of them names; a list where there are several."""
    lines = [f"On {', '.join(where[::-1])}, {text}" if where else text for where, text in told.items() if text]
    return lines[0] if len(lines) == 1 else "\n".join(f"* {line}" for line in lines)
