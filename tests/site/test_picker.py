"""A picker: one tab for each heading, with what follows it and nothing else."""

import re

import nbformat

from xai_repro.site.picker import picker

v4 = nbformat.v4


def heading(text):
    return v4.new_output("display_data", data={"text/markdown": text})


def shown(text):
    return v4.new_output("display_data", data={"text/html": f"<b>{text}</b>"})


def test_a_heading_names_the_tab_of_what_follows_it():
    outputs = [shown(0), heading("### cam & co"), shown(1), shown(2), heading("## masks\n"), shown(3), heading("### cam & co"), shown(4)]
    html = picker(outputs, "gallery").data["text/html"]
    above, *tabs = html.split("<input")
    assert above == '<b>0</b><div class="sd-tab-set docutils xr-picker">'
    assert [re.findall("<b>(.)</b>", tab) for tab in tabs] == [["1", "2", "4"], ["3"]]
    assert re.findall(r'<label[^>]* for="([^"]+)">([^<]+)</label>', html) == [("gallery-0", "cam &amp; co"), ("gallery-1", "masks")]
    assert re.findall(r' id="([^"]+)" name="([^"]+)" type="radio"', html) == [("gallery-0", "gallery"), ("gallery-1", "gallery")]


def test_the_first_tab_is_open_and_no_other():
    outputs = [one for n in range(3) for one in (heading(f"# {n}"), shown(n))]
    assert re.findall(r"<input( checked)?", picker(outputs, "a").data["text/html"]) == [" checked", "", ""]
