"""What readers share: text files, damaged files refused by name, and packages that only some data sets need."""

from contextlib import contextmanager
from importlib import import_module

from xai_repro.data.photographs import existing
from xai_repro.errors import short


@contextmanager
def reading(file, kind):
    """Whatever the content of a file raises becomes a ValueError that names the file. What is missing stays as it is."""
    try:
        yield
    except (FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ValueError(f"{file} is not {kind}: {type(error).__name__}: {short(str(error), 200)}") from error


def lines(file, name):
    """The lines of a text file of a data set, without empty ones. Raises FileNotFoundError, and ValueError where it holds no text."""
    with reading(existing(file, name), "a list of words"):
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not found:
            raise ValueError("it is empty")
    return found


def below(root, *folders):
    """The first of these folders that is there, each as the archives name it below `root`; root itself where none is."""
    return next((root / folder for folder in folders if (root / folder).is_dir()), root)


def needed(module, name):
    """A module that only this data set needs; a ModuleNotFoundError that says how to get it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} is read with {module.split('.')[0]}, which is not installed: pip install 'xai-repro[data]'") from error
