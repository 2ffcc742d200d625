"""The table of mutants is sound: every change can be made, is one, and has tests that could notice it. The script that runs them: mutants.py."""

import ast
from collections import Counter

import mutants
import pytest

EVERY = mutants.mutants()
# What a review asked for by name, and what else decides a page.
NAMED = {
    "shown-first-label", "game-carry", "score-cam-baseline-class", "lime-beta", "lime-gamma", "lime-norm", "lime-bernoulli",
    "collection-gradient-rounding", "partition-ties", "rescale-no-chord", "xgrad-cam-abs", "layer-cam-outer-relu", "tau-direction",
    "tau-interval-direction", "simulations-direction", "slopes-log-of-x-only", "summary-median", "tau-rows-of-an-image",
    "slopes-rows-of-an-image", "mean-over-pairs", "tau-holes", "slopes-holes", "summary-holes", "pairs-without-the-class", "order-few-last",
    "order-fails-before-few", "label-first", "ratio-of-means", "strongest-comparison", "different-by-the-mean", "nan-as-zero",
}  # fmt: skip


def test_there_are_enough():
    assert len(EVERY) >= 80 and NAMED <= {mutant.name for mutant in EVERY}
    assert [mutant.number for mutant in EVERY] == list(range(1, len(EVERY) + 1)) and max(Counter(mutant.name for mutant in EVERY).values()) == 1
    assert sum(bool(mutant.alive) for mutant in EVERY) <= (1 - mutants.ENOUGH) * len(EVERY)


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in EVERY}))
def test_every_change_can_be_made(file):
    text = (mutants.ROOT / file).read_text(encoding="utf-8")
    plain = ast.dump(ast.parse(text))
    for mutant in EVERY:
        if mutant.file == file:
            assert ast.dump(ast.parse(mutant.of(text))) != plain, f"{mutant.name} changes no code"
            assert mutant.tests and all((mutants.ROOT / test).is_file() for test in mutant.tests), mutant.name


def test_a_change_of_what_is_not_there_or_there_twice_is_refused():
    mutant = mutants.Mutant(1, "x", "a.py", "old", "new", ())
    assert mutant.of("an old thing") == "an new thing"
    for text in ("nothing", "old and old"):
        with pytest.raises(ValueError, match="mutant x: its old text occurs"):
            mutant.of(text)


def test_mutants_are_chosen_by_name_number_or_file():
    assert mutants.chosen(EVERY, []) == EVERY and mutants.chosen(EVERY, ["2"]) == [EVERY[1]]
    assert {mutant.file for mutant in mutants.chosen(EVERY, ["game.py"])} == {"xai_repro/network/game.py"}
    assert [mutant.name for mutant in mutants.chosen(EVERY, ["game-carry"])] == ["game-carry"]
    with pytest.raises(SystemExit, match="no mutant is called nobody"):
        mutants.chosen(EVERY, ["nobody"])


def mutant(alive=""):
    return mutants.Mutant(1, "x", "a.py", "old", "new", (), alive)


KILLED, SURVIVED, BAD = (mutant(), "killed", "t"), (mutant(), "survived", ""), (mutant(), "bad", "")
ALIKE, NOT_ALIKE = (mutant("alike"), "survived", ""), (mutant("alike"), "killed", "t")


@pytest.mark.parametrize("found, status, said", [
    ([KILLED] * 20, 0, "20 of 20 killed, 100.0%\n"), ([*[KILLED] * 19, ALIKE], 0, "19 of 20 killed, 95.0%\n"), ([*[KILLED] * 18, ALIKE, ALIKE], 1, "18 of 20 killed, 90.0%\n"),
    ([*[KILLED] * 99, SURVIVED], 1, "99 of 100 killed, 99.0%\nx: survived\n"), ([*[KILLED] * 99, BAD], 1, "99 of 100 killed, 99.0%\nx: bad\n"),
    ([*[KILLED] * 99, NOT_ALIKE], 1, "100 of 100 killed, 100.0%\nx: killed, though it is said to be the same formula\n"),
])  # fmt: skip
def test_the_verdict(found, status, said, capsys):
    assert mutants.judged(found) == status and capsys.readouterr().out == said


def test_a_test_that_notices_kills_and_a_module_that_breaks_is_bad(tmp_path):
    """On a package of one line, with one test."""
    for name, text in {"a.py": "VALUE = 1\n", "test_a.py": "import a\n\n\ndef test_value():\n    assert a.VALUE > 0\n"}.items():
        (tmp_path / name).write_text(text)
    fates = {}
    for new in ("2", "-1", "1 / 0"):
        mutant = mutants.Mutant(1, new, "a.py", "1", new, ("test_a.py",))
        fates[new] = mutants.fate(tmp_path, mutant)[1:]
    assert fates["2"] == ("survived", "") and fates["-1"] == ("killed", "test_a.py::test_value")
    assert fates["1 / 0"][0] == "bad" and "ZeroDivisionError" in fates["1 / 0"][1] and (tmp_path / "a.py").read_text() == "VALUE = 1\n"
