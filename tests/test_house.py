"""The rooms of the library: imports go one way, files are small, tests lie where the code lies."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "xai_repro"
# From the ground up. A room imports from its own floor and from those below; within a floor no two rooms import each other.
FLOORS = [
    {"errors"},
    {"numerics"},
    {"store"},
    {"network", "registry", "data", "published"},
    {"explain", "models"},
    {"methods", "metrics", "score"},
    {"study"},
    {"site", "bench", "photos", "doctor"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(LIBRARY.rglob("*.py"))
DYNAMIC = {("registry", "methods"), ("registry", "metrics")}  # by name, when a name is first asked for: the registry is what they write to


def room(path):
    inside = path.relative_to(LIBRARY).parts
    return inside[0].removesuffix(".py")


def imports(path):
    """(room, line) of everything of the library that a file imports, inside functions, too, and by import_module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "xai_repro" else [node.module or ""]
            assert not node.level, f"{path}:{node.lineno}: imports are absolute"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            names = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "xai_repro" and len(parts) > 1:
                yield parts[1], node.lineno


def test_every_room_has_its_floor():
    assert {room(path) for path in FILES} == {*FLOOR, "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_no_import_runs_up(path):
    here = room(path)
    if here == "__init__":
        return  # the public names, imported when they are first used
    for there, line in imports(path):
        if there not in FLOOR:  # a public name
            assert FLOOR[here] == FLOOR["cli"] or here in ("photos", "bench"), f"{path}:{line}: public names are for the top floors"
        elif there != here and (here, there) not in DYNAMIC:
            assert FLOOR[there] <= FLOOR[here], f"{path}:{line}: {here} imports {there}, which lies above it"


def test_no_two_rooms_of_a_floor_import_each_other():
    arrows = {(room(path), there) for path in FILES if room(path) in FLOOR for there, _ in imports(path) if there in FLOOR}
    assert not [(a, b) for a, b in arrows if a < b and (b, a) in arrows and FLOOR[a] == FLOOR[b]]


def test_the_face_is_small():
    assert len(list(LIBRARY.glob("*.py"))) <= 12


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path.name} has {lines} lines"


def test_tests_lie_where_the_code_lies():
    rooms = {path.name for path in LIBRARY.iterdir() if (path / "__init__.py").exists()}
    assert {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} == rooms
