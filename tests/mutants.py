"""Mutation tests: formulas are changed one at a time, and the tests have to notice. A script: python tests/mutants.py --help.

The changes stand in mutants.toml, by file; one line each:

    name     short and unique             old      text that occurs once in the file         new    what replaces it
    tests    the test files that should notice, where they are not those of the file
    alive    why no test can notice: the change is the same formula

The package and its tests are copied to a temporary folder. A mutant is killed where a test fails; one that cannot be imported, or whose
tests cannot be collected, is bad: it shows nothing. Exits with 1 where fewer than 95 % are killed, a survivor has no explanation, a
mutant is bad, or an explained one is killed after all.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from multiprocessing.dummy import Pool
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
ENOUGH = 0.95
TIMEOUT = 600  # seconds for the tests of one mutant; the quick tests take less than a minute
# The mutated module is imported first, from the copy: what fails there is no test that noticed.
RUN = """
import importlib, pathlib, sys
try:
    module = importlib.import_module(sys.argv[1])
    assert pathlib.Path(module.__file__).is_relative_to(pathlib.Path.cwd())
except BaseException as error:
    print(f"ERROR {sys.argv[1]} is not imported: {error!r}")
    sys.exit(9)
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    number: int
    name: str
    file: str
    old: str
    new: str
    tests: tuple
    alive: str = ""

    def of(self, text):
        """The file's text with the change made. Raises ValueError where its old text does not occur exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"mutant {self.name}: its old text occurs {text.count(self.old)} times in {self.file}, once is needed")
        return text.replace(self.old, self.new)


def mutants():
    """All of mutants.toml, numbered from 1."""
    found = []
    for file in tomllib.loads((Path(__file__).with_name("mutants.toml")).read_text(encoding="utf-8"))["file"]:
        for one in file["mutants"]:
            facts = {"tests": file["tests"]} | one
            found.append(Mutant(len(found) + 1, file=file["path"], **facts | {"tests": tuple(facts["tests"])}))
    return found


def chosen(every, wanted):
    """Those of a name, of a number, or in a file whose path holds the text; all where nothing is wanted."""
    def is_wanted(mutant):
        return any(text in (mutant.name, str(mutant.number)) or not text.isdigit() and text in mutant.file for text in wanted)

    found = [mutant for mutant in every if not wanted or is_wanted(mutant)]
    if not found:
        sys.exit(f"no mutant is called {', '.join(wanted)}")
    return found


def copied(folder):
    """The package, its tests, their settings and the scripts in a folder, without compiled files, and none are written: one of a mutant could be taken for the original's."""
    for name in ("xai_repro", "tests", "data_scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def tested(folder, module, tests):
    """Run tests in a copy: (exit status of pytest, or 9 where the module cannot be imported, the first test that fails)."""
    command = [sys.executable, "-B", "-c", RUN, module, "-x", "-q", "-rfE", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no", *tests]
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return 9, f"took more than {TIMEOUT} seconds"
    said = re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", run.stdout, re.M)
    return run.returncode, said[0] if said else run.stderr.strip()[-200:]


def fate(folder, mutant):
    """(mutant, "killed", "survived" or "bad", the first test that fails)."""
    path = folder / mutant.file
    plain = path.read_text(encoding="utf-8")
    path.write_text(mutant.of(plain), encoding="utf-8")
    try:
        status, first = tested(folder, mutant.file.removesuffix(".py").replace("/", "."), mutant.tests)
    finally:
        path.write_text(plain, encoding="utf-8")
    return mutant, {0: "survived", 1: "killed"}.get(status, "bad"), first


def main():
    parser = argparse.ArgumentParser(description="Change formulas one at a time and see whether the tests notice.")
    parser.add_argument("wanted", nargs="*", help="names or numbers of mutants, or parts of their files' paths; all without any")
    parser.add_argument("-n", type=int, default=1, help="processes")
    asked = parser.parse_args()
    some = chosen(mutants(), asked.wanted)
    with tempfile.TemporaryDirectory() as temporary:
        folders = SimpleQueue()
        for number in range(min(asked.n, len(some))):
            folders.put(copied(Path(temporary) / str(number)))

        def worked_off(mutant):
            folder = folders.get()
            try:
                return fate(folder, mutant)
            finally:
                folders.put(folder)

        folder = folders.get()
        status, first = tested(folder, "xai_repro", sorted({test for mutant in some for test in mutant.tests}))
        folders.put(folder)
        if status:
            sys.exit(f"the tests fail without any change: {first}")
        found = []
        with Pool(asked.n) as pool:
            for one in tqdm(pool.imap(worked_off, some), total=len(some), unit="mutant"):
                tqdm.write(line(*one))
                found.append(one)
    return judged(found)


def line(mutant, what, first):
    """One line of the table: what became of a mutant, and by which test or why."""
    why = mutant.alive if what == "survived" else first
    return f"{mutant.number:4} {what:9} {mutant.name:34} {mutant.file.removeprefix('xai_repro/'):24} {why}"


def judged(found):
    """Print how many were killed and what is wrong; 1 where it is not good enough, else 0."""
    killed, complaints = sum(what == "killed" for _, what, _ in found), []
    for mutant, what, _ in found:
        if what == "bad" or (what == "survived") != bool(mutant.alive):
            complaints.append(f"{mutant.name}: {what}" + (", though it is said to be the same formula" if mutant.alive else ""))
    print(f"{killed} of {len(found)} killed, {killed / len(found):.1%}", *complaints, sep="\n")
    return int(bool(complaints) or killed < ENOUGH * len(found))


if __name__ == "__main__":
    sys.exit(main())
