"""Small tables as HTML: headings of several levels, cells by their text, nothing that two tables could share."""

import re

from xai_repro.study.markup import cell, html, plain, Small

TWO = Small("Average drop", "method", [("VOC", "paper"), ("VOC", "ours"), ("COCO", "paper"), ("map",)], [("cam", ["1", "**2** (1 to 3)", "not run yet", ""])])


def test_headings_of_two_levels():
    head = re.search(r"<thead>\n(.*)\n</thead>", html([TWO]), re.S)[1].split("\n")
    assert head == [
        '<tr><th scope="col" rowspan="2">method</th><th scope="colgroup" colspan="2">VOC</th><th scope="col">COCO</th><th scope="col" rowspan="2">map</th></tr>',
        '<tr><th scope="col">paper</th><th scope="col">ours</th><th scope="col" class="xr-text">paper</th></tr>',
    ]


def test_headings_of_three_levels_join_only_neighbours():
    columns = [("A", "x", "1"), ("A", "x", "2"), ("A", "y", "1"), ("B", "1"), ("A", "x", "1")]
    head = re.search(r"<thead>\n(.*)\n</thead>", html([Small("", "m", columns, [])]), re.S)[1].split("\n")
    assert [re.findall(r'(?:colspan="(\d)")?(?: rowspan="(\d)")?>(\w)<', line) for line in head] == [
        [("", "3", "m"), ("3", "", "A"), ("", "2", "B"), ("", "", "A")], [("2", "", "x"), ("", "", "y"), ("", "", "x")],
        [("", "", "1"), ("", "", "2"), ("", "", "1"), ("", "", "1"), ("", "", "1")],
    ]  # fmt: skip


def test_every_row_has_as_many_cells_as_there_are_columns():
    text = html([TWO])
    body = text[text.index("<tbody>") :]
    assert body.count("<td") == len(TWO.columns) and '<th scope="row">cam</th>' in body


def test_cells():
    assert cell("12.3") == "12.3" and cell("**12.3**") == "<b>12.3</b>" and cell("") == ""
    assert cell("12.3 (10.1 to 14.2)") == '12.3 <span class="xr-interval">(10.1\u201314.2)</span>'
    assert cell("**0.2** (-0.1 to 0.5)") == '<b>0.2</b> <span class="xr-interval">(-0.1 to 0.5)</span>'
    assert cell("1.5 (1.0 to 2.0), 10% empty") == '1.5 <span class="xr-interval">(1.0\u20132.0)</span> <span class="xr-small">10% empty</span>'
    assert cell("**Score & <CAM>**") == "<b>Score &amp; &lt;CAM&gt;</b>" and cell("a\nb") == 'a <span class="xr-small">b</span>'
    assert cell("*LIME-CAM_512") == "*LIME-CAM_512"


def test_outcomes_have_their_own_classes():
    texts = {"\u2713 holds": "holds", "\u2717 fails": "fails", "? undecided": "undecided", "\u2260 not comparable": "other", "\u2013 not run yet": "other", "\u2713 12 of 12": "holds"}
    for text, name in texts.items():
        assert cell(text) == f'<span class="xr-{name}">{text}</span>'
    assert cell("holds") == '<span class="xr-holds">holds</span>' and cell("fails") == '<span class="xr-fails">fails</span>' and cell("holds water") == "holds water"
    assert cell("\u2013") == "\u2013" and cell("?") == "?"


def test_words_wrap_and_numbers_do_not():
    text = html([Small("", "a", [("b",), ("c",), ("d",)], [("x", ["not run yet", "31.5 of 37", "10 %"])])])
    assert '<td class="xr-text">not run yet</td><td>31.5 of 37</td><td>10 %</td>' in text


def test_two_tables_share_nothing_but_classes():
    text = html([TWO, TWO], "Small: 95 % < 100 %")
    assert text.count('<table class="xr-table">') == 2 and not re.search(r"\b(id|style)=", text)
    assert text.endswith('<p class="xr-note">Small: 95 % &lt; 100 %</p>')


def test_plain_text_is_aligned():
    assert plain([TWO], "n").split("\n") == [
        "Average drop", "method  VOC / paper  VOC / ours  COCO / paper  map", "cam     1            2 (1 to 3)  not run yet", "", "n",
    ]  # fmt: skip
