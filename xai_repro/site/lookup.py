"""What the notebooks wrote, looked up: a table of a paper with what it rests on, the claims and their outcomes."""

import json
import sys
from contextlib import redirect_stdout

import pandas as pd
import pyarrow.parquet as pq

from xai_repro.errors import like, unknown
from xai_repro.published import papers, published
from xai_repro.site.driver import about, lacking, run, select
from xai_repro.store.files import path_of
from xai_repro.study.layout import small
from xai_repro.study.markup import plain
from xai_repro.study.profiles import profile as settings

CLAIMS = "90_claims"  # the notebook that tests them all


def table(paper, number, profile="mini", results="results", folder="notebooks"):
    """A table of a paper as a page shows it: its parts, for a page may show one table as several.

    The notebook that makes it, and no other, is run first where it is not current; what that says goes to stderr. Of each part: notebook, file (the csv),
    caption, provenance, shown (the text of the csv), numbers (a DataFrame, what `tables.compare` returned).
    Raises UnknownName for a paper, table or profile that does not exist, ValueError for a table that no notebook makes, or not with this profile,
    ChildProcessError where the notebook fails.
    """
    published(paper, number)
    settings(like("profile", profile, "mini"))
    path = _maker(paper, str(number), folder)
    if reason := lacking(path, profile):
        raise ValueError(f"table {number} of {paper} is not made with the profile {profile}: {reason}")
    place = path_of("results", results) / profile
    with redirect_stdout(sys.stderr):
        if not run([path.stem], profile, results=results, folder=folder):
            raise ChildProcessError(f"no table {number} of {paper}: {path.stem} failed, see {place / 'logs' / path.stem}.log")
    found = []
    for file in sorted((place / path.stem).rglob("*.parquet")):
        said, numbers = read(file)
        if (said.get("paper"), str(said.get("table"))) == (paper, str(number)):
            shown = file.with_suffix(".csv")
            found.append({"notebook": path.stem, "file": str(shown), "caption": said.get("caption", ""), "provenance": said.get("provenance", {}),
                          "shown": shown.read_text(encoding="utf-8"), "numbers": numbers})  # fmt: skip
    if not found:
        raise ValueError(f"{path.stem} left no numbers of table {number} of {paper} in {place / path.stem}")
    return found


def _maker(paper, number, folder):
    """The notebook that makes a table."""
    made = {name: path for path in select(None, folder) for name in about(path).get("makes", [])}
    if f"{paper} {number}" not in made:
        others = [name.split()[1] for name in made if name.split()[0] == paper]
        raise ValueError(f"no notebook makes table {number} of {paper}; made are {', '.join(others) or 'none of its tables'}")
    return made[f"{paper} {number}"]


def read(file):
    """What `tables.save` left in a parquet file: what it says of the table (paper, table, caption, provenance), and the numbers."""
    found = pq.read_table(file)
    return json.loads((found.schema.metadata or {}).get(b"xai_repro", b"{}")), found.to_pandas()


def claims(paper=None, profile="mini", results="results"):
    """The claims and their outcomes, as `claims.check` returned them to the notebook that tests all; of one paper or of all.

    Raises UnknownName for a paper or profile that does not exist, FileNotFoundError, which says what to run, where they have not been tested.
    """
    settings(like("profile", profile, "mini"))
    if paper is not None and paper not in papers():
        raise unknown("paper", paper, papers())
    file = path_of("results", results) / profile / CLAIMS / "claims.parquet"
    if not file.exists():
        raise FileNotFoundError(f"no claims tested in {file.parent}; to test them: xai-repro run --profile {profile} --results {results}")
    found = read(file)[1]
    return found if paper is None else found[found["paper"] == paper].reset_index(drop=True)


# -- as text ----------------------------------------------------------------------------------------------------------


def records(frame):
    """Rows as records that JSON can hold: null in place of NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def as_json(paper, number, profile, parts):
    """A table as JSON: all its numbers, and of each part where it is from and what it rests on."""
    said = [{key: part[key] for key in ("notebook", "file", "caption", "provenance")} for part in parts]
    numbers = pd.concat([part["numbers"] for part in parts], ignore_index=True).drop_duplicates()  # a page may show some twice
    return json.dumps({"paper": paper, "table": number, "profile": profile, "parts": said, "numbers": records(numbers)}, indent=1, ensure_ascii=False)


def told(part):
    """A part of a table: the caption, the small tables of the page, the file it is in and what it rests on."""
    return "\n".join([part["caption"], "", plain(*small(part["numbers"])), "", f"{part['notebook']}: {part['file']}", *_lines(part["provenance"])]).lstrip()


def _lines(facts, start=""):
    """What is in a provenance, a line for each name; of what is in another, with both names."""
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{start}{name} ")
        else:
            yield f"{start}{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def told_of_claims(found):
    """The claims, one line each, outcome first, and how many have which."""
    lines = []
    for row in found.to_dict("records"):
        estimate = "" if pd.isna(row["estimate"]) else f"  {row['estimate']:.3g} ({row['low']:.3g} to {row['high']:.3g}), {row['n']} images"
        lines.append(f"{row['outcome']:14}  {row['paper']}, {row['place']}: {row['says']}{estimate}")
    counted = ", ".join(f"{count} {outcome}" for outcome, count in found["outcome"].value_counts(sort=False).items())
    return "\n".join([*lines, f"{len(found)} claims: {counted}"])
