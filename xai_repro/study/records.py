"""The claims as they are written down in published/claims: read, and checked name by name."""

import inspect
import tomllib
from functools import lru_cache
from importlib.resources import files
from itertools import product

from xai_repro.data import data_names
from xai_repro.errors import like, short, unknown, whole_number
from xai_repro.models import model_names
from xai_repro.published import papers, published
from xai_repro.registry import check_hyper, method_info, methods, metrics
from xai_repro.study.statistics import higher_is_better, TIME

FACTS = ("id", "place", "says", "test")
PRINTED = ("table", "column")  # where the paper prints the numbers
NO_CHOICE = ("methods", "sizes")  # lists that are one argument
NAMES = ("labels", "metrics", "models")  # what a file may list in [names]


def folder():
    return files("xai_repro.published").joinpath("claims")


def of_all(tests):
    """The records of all papers. tests: name -> function.

    Raises UnknownName for whatever name does not exist, ValueError for an argument that is missing or of the wrong kind.
    """
    for file in folder().iterdir():
        if file.name.removesuffix(".toml") not in papers():
            raise unknown(f"paper, of which there is a file of claims {file.name}:", file.name.removesuffix(".toml"), papers())
    found = [record for paper in papers() for record in of_paper(paper, tuple(tests.items()))]
    ids = [record["id"] for record in found]
    if doubles := sorted({one for one in ids if ids.count(one) > 1}):
        raise ValueError(f"two claims have the id {doubles[0]}")
    return found


@lru_cache
def of_paper(paper, tests):
    """The records of one paper. tests: pairs (name, function)."""
    try:
        table = tomllib.loads(folder().joinpath(f"{paper}.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"the claims of {paper} cannot be read: {error}") from None
    _known(f"table in the claims of {paper}", table, ["claim", "names"])
    named = {kind: like(f"{kind} in the claims of {paper}", names, [""]) for kind, names in table.get("names", {}).items()}
    _known(f"list of names in the claims of {paper}", named, NAMES)
    records, possible, printed_tables = table.get("claim", []), _possible(paper, named), {*published(paper)["table"]}
    for number, record in enumerate(records, 1):
        place = f"claim {record.get('id', f'number {number}')} of {paper}"
        _check(place, record, dict(tests), possible)
        printed = record.get("table", [])
        _known(f"table in {place}", printed if isinstance(printed, list) else [printed], printed_tables)
        like(f"column in {place}", record.get("column", ""), "")
    return [{"paper": paper} | record for record in records]


def _possible(paper, named):
    """Kind -> the names that claims of a paper may use: the library's, the papers', and those that the file lists."""
    cells = published()
    own = cells[cells["paper"] == paper]
    headings = {part for column in ("row", "column") for heading in own[column] for part in (heading, *heading.split(" / "))}
    return {
        "method": {*methods(), *cells["method"], *headings, *named.get("labels", [])} - {""},
        "metric": {*metrics(), *cells["metric"], TIME, *named.get("metrics", [])} - {""},
        "dataset": {*data_names()},
        "model": {*model_names(), *named.get("models", [])},
    }


def comparisons(record):
    """The arguments of a record's test, one dict for every combination where several are given."""
    arguments = {key: value for key, value in record.items() if key not in (*FACTS, "paper", *PRINTED)}
    choices = [value if isinstance(value, list) and key not in NO_CHOICE else [value] for key, value in arguments.items()]
    return [dict(zip(arguments, chosen)) for chosen in product(*choices)]


def _check(place, record, tests, possible):
    for fact in FACTS:
        if not isinstance(record.get(fact), str) or not record[fact].strip():
            raise ValueError(f"{place}: {fact} is {short(repr(record.get(fact)))}; a text is needed")
    _known(f"test in {place}", [record["test"]], tests)
    parameters = {name: one for name, one in inspect.signature(tests[record["test"]]).parameters.items() if name != "cells"}
    given = [key for key in record if key not in (*FACTS, *PRINTED)]
    _known(f"argument of {record['test']} in {place}", given, parameters)
    for name, one in parameters.items():
        if one.default is one.empty and name not in given:
            raise ValueError(f"{place}: {record['test']} needs '{name}'")
    if not comparisons(record):
        raise ValueError(f"{place}: a list is empty")
    for arguments in comparisons(record):
        if "higher" in parameters and "higher" not in arguments and arguments["metric"] != TIME and higher_is_better(arguments["metric"]) is None:
            raise ValueError(f"{place}: nobody knows whether more of {short(arguments['metric'])} is better: say higher = true, or false")
        for name, value in arguments.items():
            _check_argument(place, name, value, possible)


def _check_argument(place, name, value, possible):
    """Refuse an argument of the wrong kind, and a name that nobody knows."""
    if name in ("value", "tolerance", "share"):
        like(f"{name} in {place}", value, 0.0)
        if name == "share" and not 0 < value <= 1:
            raise ValueError(f"{place}: share is {value}; a share of the comparisons is needed, above 0 and at most 1")
    elif name == "higher":
        like(f"{name} in {place}", value, True)
    elif name == "sizes":
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{place}: sizes is {short(repr(value))}; two sides of an image in pixels are needed")
        for size in value:
            whole_number(f"sizes in {place}", size)
    elif name == "methods":
        if not isinstance(value, list) or len(value) < 2:
            raise ValueError(f"{place}: methods is {short(repr(value))}; a list of at least two is needed")
        for one in value:
            _check_argument(place, "method", one, possible)
    elif isinstance(value, dict) and name in ("method", "than"):
        _known(f"method in {place}", [value.get("name")], possible["method"])
        if value["name"] in methods():
            check_hyper(method_info(value["name"]), {key: one for key, one in value.items() if key != "name"})
    else:
        kind = {"than": "method", "than_model": "model"}.get(name, name)
        _known(f"{kind} in {place}", [value], possible[kind])


def _known(kind, names, possible):
    for name in names:
        if not isinstance(name, str) or name not in possible:
            raise unknown(kind, name, sorted(possible))
