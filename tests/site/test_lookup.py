"""A table of a paper and the claims, as the notebooks wrote them."""

import json

import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_notebooks import write
from toy_rows import LIFT, table7

from xai_repro.errors import UnknownName
from xai_repro.site import lookup
from xai_repro.study import claims, lfi_cam, tables

MADE = {"commit": ["abc"], "seed": [0], "models": {"mini-vgg": ["1f", "2e"]}}


def leave(file, numbers, text, **said):
    """A csv and a parquet with what it says of itself, as `tables.save` leaves them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".csv").write_text(text)
    whole = pa.Table.from_pandas(numbers)
    pq.write_table(whole.replace_schema_metadata(whole.schema.metadata | {b"xai_repro": json.dumps(said).encode()}), file)


def making(folder, name, *made, cells=(), needs=None):
    path = write(folder, name, *cells)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["xai_repro"] = {"makes": list(made)} | ({"needs": needs} if needs else {})
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def project(here, monkeypatch):
    """Two notebooks, of which one made table 7 as two; asked for is what the driver was to run."""
    making(here / "notebooks", "10_toy", "lift_cam 7", "lift_cam 8")
    making(here / "notebooks", "11_boxes", "lift_cam 4", needs="boxes")
    run = {name: mean for name, mean in LIFT.items() if name != "score-cam"}  # whose cell has no number of ours
    numbers = tables.compare(table7(run, spread=0.1), "lift_cam", "7", column="Average")
    place = here / "results/mini/10_toy"
    leave(place / "table7--a.parquet", numbers[:3], "method,paper,ours\nGrad-CAM,24.0,24\n", paper="lift_cam", table="7", caption="Table 7, first part", provenance=MADE)
    leave(place / "table7--b.parquet", numbers[2:], "method,paper\nLIFT-CAM,25.2\n", paper="lift_cam", table="7")
    leave(place / "table7_ranks.parquet", pd.DataFrame({"tau": [1.0]}), "tau\n1\n", paper=None, table=None)
    leave(place / "table70.parquet", numbers[:1], "no\n", paper="lift_cam", table="70")
    asked = []
    monkeypatch.setattr(lookup, "run", lambda names, profile, results, folder: print("said by the driver") or asked.append((names, profile)) or True)
    return numbers, asked


def test_a_table_is_what_its_notebook_left(project, capsys):
    numbers, asked = project
    first, second = lookup.table("lift_cam", "7")
    assert asked == [(["10_toy"], "mini")]  # that notebook and no other
    said = capsys.readouterr()
    assert said.out == "" and said.err == "said by the driver\n"  # what is printed is the table alone
    pd.testing.assert_frame_equal(pd.concat([first["numbers"], second["numbers"][1:]]), numbers)
    assert (first["file"], first["caption"], first["provenance"]) == ("results/mini/10_toy/table7--a.csv", "Table 7, first part", MADE)
    assert second["caption"] == "" and second["provenance"] == {} and second["shown"] == "method,paper\nLIFT-CAM,25.2\n"


def test_json_has_all_numbers_and_what_they_rest_on(project):
    numbers, _ = project
    found = json.loads(lookup.as_json("lift_cam", "7", "mini", lookup.table("lift_cam", 7)))
    assert [found[key] for key in ("paper", "table", "profile")] == ["lift_cam", "7", "mini"]
    assert [part["file"][-8:] for part in found["parts"]] == ["7--a.csv", "7--b.csv"] and found["parts"][0]["provenance"] == MADE
    assert len(found["numbers"]) == len(numbers) and [one["heading"] for one in found["numbers"]] == list(numbers["heading"])
    for one, (_, row) in zip(found["numbers"], numbers.iterrows()):
        for key in ("paper", "ours", "low", "high", "n", "rank"):
            assert one[key] is None if pd.isna(row[key]) else one[key] == row[key]  # to the last digit
    assert any(one["ours"] is None for one in found["numbers"]) and any(one["ours"] is not None for one in found["numbers"])


def test_text_has_the_table_its_file_and_its_provenance(project):
    first, second = map(lookup.told, lookup.table("lift_cam", "7"))
    assert first.splitlines()[:4] == ["Table 7, first part", "", "Increase in Confidence (%) / Average, higher is better", "method      paper  ours"]
    assert first.splitlines()[4].startswith("Grad-CAM    24.35  23.75 (")
    assert first.splitlines()[-4:] == ["10_toy: results/mini/10_toy/table7--a.csv", "commit: abc", "seed: 0", "models mini-vgg: 1f, 2e"]
    assert second.startswith("Increase in Confidence") and "Score-CAM     23.38  not run yet\n" in second


def test_what_is_not_made_is_said(project, monkeypatch):
    for wrong, why in [(("lift", "7"), "unknown paper 'lift'; did you mean 'lift_cam'"), (("lift_cam", "70"), "unknown table of lift_cam '70'; did you mean '7'"), (("lift_cam", "7", "minni"), "did you mean 'mini'")]:
        with pytest.raises(UnknownName, match=why):
            lookup.table(*wrong)
    with pytest.raises(ValueError, match="no notebook makes table 9 of lift_cam; made are 7, 8, 4"):
        lookup.table("lift_cam", "9")
    with pytest.raises(ValueError, match="no notebook makes table 1 of clam; made are none of its tables"):
        lookup.table("clam", "1")
    with pytest.raises(ValueError, match="table 4 of lift_cam is not made with the profile photos: "):
        lookup.table("lift_cam", "4", "photos")
    with pytest.raises(ValueError, match="10_toy left no numbers of table 8 of lift_cam in results/mini/10_toy"):
        lookup.table("lift_cam", "8")
    monkeypatch.setattr(lookup, "run", lambda *_, **__: False)
    with pytest.raises(ChildProcessError, match="10_toy failed, see results/mini/logs/10_toy.log"):
        lookup.table("lift_cam", "7")


def test_claims_are_those_of_the_notebook_that_tests_all(here):
    with pytest.raises(FileNotFoundError, match="no claims tested in results/mini/90_claims; to test them: xai-repro run --profile mini --results results"):
        lookup.claims()
    with pytest.raises(UnknownName, match="did you mean 'clam'"):
        lookup.claims("clamm")
    with pytest.raises(UnknownName, match="did you mean 'mini'"):
        lookup.claims(profile="minni")
    facts = {"id": "x", "place": "Table 7", "says": "LIFT-CAM is best", "outcome": "holds", "estimate": 0.12345, "low": 0.1, "high": 0.2, "n": 24, "networks": 5}
    every = pd.DataFrame([facts | {"paper": "lift_cam"}, facts | {"paper": "clam", "outcome": "fails"}, facts | {"paper": "clam", "outcome": "not run yet", "estimate": np.nan}], columns=claims.COLUMNS)
    leave(here / "results/mini/90_claims/claims.parquet", every, "outcome\n")
    pd.testing.assert_frame_equal(lookup.claims(), every)
    assert lookup.told_of_claims(lookup.claims("clam")).splitlines() == [
        "fails           clam, Table 7: LIFT-CAM is best  0.123 (0.1 to 0.2), 24 images", "not run yet     clam, Table 7: LIFT-CAM is best", "2 claims: 1 fails, 1 not run yet",
    ]  # fmt: skip
    assert [one["estimate"] for one in lookup.records(lookup.claims("clam"))] == [0.12345, None]


def test_what_a_notebook_saves_says_which_table_it_is(here):
    numbers = tables.compare(table7(LIFT), "lift_cam", "7", column="Average")
    for name, table, paper, number in [("a", numbers, "lift_cam", "7"), ("b", lfi_cam.layout(), "lfi_cam", "1"), ("c", pd.DataFrame({"n": [1]}), None, None)]:
        tables.save(table, here / f"{name}.csv")
        said, found = lookup.read(here / f"{name}.parquet")
        assert (said["paper"], said["table"]) == (paper, number) and said["provenance"]["commit"] and len(found) == len(table)
    assert list(lookup.read(here / "a.parquet")[1]["ours"]) == list(numbers["ours"])


COUNTED = """
import json, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
from pathlib import Path
place = Path(results, "10_toy")
place.mkdir(exist_ok=True)
Path(results, "runs.txt").open("a").write("run\\n")
(place / "t.csv").write_text("method\\nLIFT-CAM\\n")
whole = pa.Table.from_pandas(pd.DataFrame({"printed": ["VALUE"]}))
said = {b"xai_repro": json.dumps({"paper": "lift_cam", "table": "7"}).encode()}
pq.write_table(whole.replace_schema_metadata(said), place / "t.parquet")
"""


@pytest.mark.slow
def test_only_what_is_not_current_is_run(here):
    making(here / "notebooks", "10_toy", "lift_cam 7", cells=[COUNTED.replace("VALUE", "1.0")])
    write(here / "notebooks", "11_other", "raise ValueError")
    printed, runs = lambda: list(lookup.table("lift_cam", "7", "smoke")[0]["numbers"]["printed"]), here / "results/smoke/runs.txt"  # noqa: E731
    assert printed() == printed() == ["1.0"] and runs.read_text() == "run\n"
    (here / "results/smoke/10_toy/t.parquet").unlink()
    assert printed() == ["1.0"] and runs.read_text() == "run\n" * 2
    making(here / "notebooks", "10_toy", "lift_cam 7", cells=[COUNTED.replace("VALUE", "2.0")])
    assert printed() == ["2.0"] and runs.read_text() == "run\n" * 3
