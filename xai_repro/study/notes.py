"""What a table has in common, said once under it."""

INTERVALS = "Small: 95\u00a0% intervals."


def standing_in(column):
    """Which data and networks stood in for a paper's, in one sentence: "mini-birds for imagenet, mini-scenes for voc2007 and coco2014 stand in."."""
    found = in_place(column)
    return f"Stand-ins: {', '.join(f'{used} for {listed(asked)}' for used, asked in found.items())}." if found else ""


def in_place(column):
    """What stood in, and for which of a paper's data and networks: {used: what was asked, as the keys of a dict}. column: `stands_in` of a table."""
    found = {}
    for text in column.dropna().unique():
        for pair in filter(None, text.split(", ")):
            used, _, asked = pair.partition(" for ")
            found.setdefault(used, {})[asked] = None
    return found


def listed(names):
    """Names as a sentence has them: "a", "a and b", "a, b and c"."""
    names = list(names)
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def counted(table):
    """On how many images and networks numbers rest, as "24 images, 5 networks." or "20 to 24 images, ..."; "" where the table does not say."""
    found = [_span(table[column], name) for column, name in (("n", "image"), ("networks", "network")) if column in table and len(table)]
    return f"{', '.join(found)}." if found else ""


def _span(numbers, name):
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low} {name}{'s' * (low != 1)}" if low == high else f"{low} to {high} {name}s"


def named(heading, metric):
    """Whether a printed heading has a part that begins with the name of a metric: "VOC / Average Drop (%)" has that of average-drop."""
    return any(part.lower().startswith(metric.replace("-", " ")) for part in heading.split(" / "))
