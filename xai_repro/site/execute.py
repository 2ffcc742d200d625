"""One notebook, run to the end in its own process: `python -m xai_repro.site.execute JOB`, as the driver calls it."""

import json
import logging
import os
import re
import sys
import threading
import warnings
from pathlib import Path

from xai_repro.errors import short, unknown
from xai_repro.site import preload

RESERVED = ("profile", "results")  # the driver sets these in every notebook
_TYPES = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "list": (list, tuple)}


def inspect(notebook):
    """The parameters of a notebook: name -> annotated type ("str", "int", "float", "bool", "list" or "None").

    Raises ValueError if the notebook cannot be read or lacks the parameters every notebook has.
    """
    from papermill import inspect_notebook

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = inspect_notebook(str(notebook))
    except Exception as error:
        raise ValueError(f"{notebook} is not a readable notebook: {error}") from error
    types = {name: parameter["inferred_type_name"] for name, parameter in found.items()}
    missing = [name for name in RESERVED if name not in types]
    if missing:
        raise ValueError(f"{notebook} has no parameter {' and no '.join(missing)}: its cell tagged `parameters` must set them")
    return types


def check(notebook, types, given):
    """Refuse parameters that a notebook does not have, and values of another type than annotated.

    Raises UnknownName with the nearest match, ValueError for a parameter the driver sets, TypeError for the type.
    """
    for name, value in given.items():
        if name in RESERVED:
            raise ValueError(f"parameter '{name}' is set by the driver: use its own option '{name}'")
        if name not in types:
            raise unknown(f"parameter of {Path(notebook).stem}", name, [n for n in types if n not in RESERVED])
        wanted = types[name].split("[")[0]
        right = isinstance(value, _TYPES.get(wanted, (object,)))
        if isinstance(value, bool) and wanted in ("int", "float"):  # bool is an int in Python, not to a reader
            right = False
        if not right:
            raise TypeError(f"parameter '{name}' of {Path(notebook).stem} takes {wanted}, got {value!r} ({type(value).__name__})")


class Unfinished(RuntimeError):
    """A notebook that ended early, though none of its cells raised an error."""


def execute(notebook, output, parameters):
    """Run a notebook in the current folder; the executed copy appears at `output` only when every cell succeeded.

    Otherwise the partly executed copy is left at `output`.part. Raises papermill's PapermillExecutionError, Unfinished.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.iorw import load_notebook_node, write_ipynb

    part = f"{output}.part"
    try:
        execute_notebook(notebook, part, parameters=parameters, kernel_name="python3", progress_bar=False,
                         log_output=True, kernel_manager_class=_manager())  # fmt: skip
    except DeadKernelError:
        *_, last = ["the start", *(name for name, about, _ in _cells(load_notebook_node(part)) if about.get("start_time"))]
        raise Unfinished(f"the kernel ended in {last}; it may have been short of memory") from None
    executed = load_notebook_node(part)
    for name, about, count in _cells(executed):  # papermill takes sys.exit(0) for an end like any other
        if count is None or about.get("status") != "completed":
            raise Unfinished(f"{name} ended the notebook: not every cell was run to its end")
    executed.metadata.papermill.update(input_path=Path(notebook).name, output_path=output)  # no folders of this machine
    write_ipynb(executed, part)
    os.replace(part, output)


def _cells(notebook):
    """(name, papermill's account, execution count) of each cell with code in it."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for number, cell in enumerate(cells, 1):
        first = cell.source.strip().splitlines()[0]
        yield f"cell In [{number}], `{short(first)}`,", cell.metadata.papermill, cell.execution_count


def _manager():
    """A kernel manager that talks through files: no ports to race for, no warning about open ones."""
    from jupyter_client.manager import AsyncKernelManager

    class Files(AsyncKernelManager):
        def __init__(self, **settings):
            super().__init__(transport="ipc", ip=os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "k"), **settings)

        def format_kernel_cmd(self, extra_arguments=None):
            address = os.environ.get(preload.ADDRESS)
            return preload.command(address, self.connection_file) if address else super().format_kernel_cmd(extra_arguments)

    return Files


def _die_with_driver():
    """End this process when the driver ends, even by SIGKILL: it holds the other end of stdin."""
    os.read(0, 1)
    os._exit(1)


def main():
    # jsonschema checks addresses with it where it is there, and compiles a grammar on import, for two seconds. No notebook needs it.
    sys.modules["rfc3987_syntax"] = None
    from papermill.exceptions import PapermillExecutionError

    threading.Thread(target=_die_with_driver, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.simplefilter("ignore")
    try:
        execute(**json.loads(sys.argv[1]))
    except PapermillExecutionError as error:
        trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        logging.error("cell In [%s] failed\n%s", error.exec_count, trace or f"{error.ename}: {error.evalue}")
        return 1
    except Unfinished as error:
        logging.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
