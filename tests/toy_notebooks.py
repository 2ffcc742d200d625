"""Small notebooks for the tests of the driver and the book."""

import nbformat

PARAMETERS = (
    'profile: str = "mini"  # smoke, mini or paper\nresults: str = "../results/mini"  # folder of this profile\'s results\n'
)


def write(folder, name, *cells, more=""):
    """A notebook `name` in `folder` with the usual parameters, those of `more`, and the given code cells."""
    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    book.cells = [
        nbformat.v4.new_markdown_cell(f"# {name}"),
        nbformat.v4.new_code_cell(PARAMETERS + more, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, cells),
    ]
    folder.mkdir(exist_ok=True)
    nbformat.write(book, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"
