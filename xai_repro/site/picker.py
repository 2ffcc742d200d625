"""Many groups of figures in the room of one: tabs on a page, without a script."""

import re
from html import escape

import nbformat


def picker(outputs, name):
    """The outputs of a cell as one, of which a reader picks a part: a heading (`### label`, Markdown) names the tab of what follows it.

    outputs: figures and tables as the page shows them, and headings; what stands under equal ones shares a tab. What comes before the first heading stands above the
    tabs. name: for ids, one that no other cell of the page has. The tabs are those of sphinx-design, whose style every page has: radio buttons, so that keyboards know them.
    """
    above, tabs, label = [], {}, None
    for output in outputs:
        data = output.get("data", {})
        if heading := re.fullmatch(r"#+ +(.+)", data.get("text/markdown", "").strip()):
            label = heading[1]
        else:
            (above if label is None else tabs.setdefault(label, [])).append(data["text/html"])
    parts = [_tab(f"{name}-{number}", name, label, "".join(shown), number == 0) for number, (label, shown) in enumerate(tabs.items())]
    html = f'{"".join(above)}<div class="sd-tab-set docutils xr-picker">{"".join(parts)}</div>'
    return nbformat.v4.new_output("display_data", data={"text/html": html})


def _tab(identity, group, label, shown, first):
    chosen = " checked" if first else ""
    return (
        f'<input{chosen} id="{identity}" name="{group}" type="radio"><label class="sd-tab-label" for="{identity}">{escape(label)}</label>'
        f'<div class="sd-tab-content docutils">{shown}</div>'
    )
