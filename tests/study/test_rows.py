"""Tables that are not what a function takes: a clear error, and no row counted twice."""

import numpy as np
import pandas as pd
import pytest
from toy_rows import LIFT, rows, table7

from xai_repro.study import claims, tables
from xai_repro.study.evaluate import COLUMNS

PLACE = {"dataset": "imagenet", "model": "vgg16"}
TAKE_ROWS = {
    "summary": tables.summary, "compare": lambda df: tables.compare(df, "lift_cam", 7), "rank_agreement": lambda df: tables.rank_agreement(df, "lift_cam", 7),
    "simulations": lambda df: tables.simulations(df, "lift_cam", 7, 2), "timed": tables.timed, "cost": tables.cost, "against_controls": tables.against_controls,
    "slopes": lambda df: tables.slopes(df, "target"), "check": claims.check,
}  # fmt: skip


@pytest.mark.parametrize("name", TAKE_ROWS)
@pytest.mark.parametrize("given", [None, 3, [], "rows.parquet", {"value": [1]}, pd.Series([1.0])], ids=lambda given: type(given).__name__)
def test_no_table(name, given):
    with pytest.raises(ValueError, match="a DataFrame is needed"):
        TAKE_ROWS[name](given)


@pytest.mark.parametrize("name, column", [
    (name, column) for name in TAKE_ROWS for column in ("value", "image_id", "model", "method", "metric", "hyper", "seconds", "status")
    if (name, column) not in {("timed", "value"), ("timed", "metric"), ("timed", "status"), ("cost", "value"), ("cost", "metric")}
    and not (name == "slopes" and column not in ("value", "image_id", "model"))
    and not (name in ("summary", "against_controls") and column in ("seconds", "status"))
])  # fmt: skip
def test_a_missing_column_is_named(name, column):
    with pytest.raises(ValueError, match=f"no column '{column}'"):
        TAKE_ROWS[name](table7(LIFT).drop(columns=column))
    with pytest.raises(ValueError, match="no column"):
        TAKE_ROWS[name](pd.DataFrame())


@pytest.mark.parametrize("name", [name for name in TAKE_ROWS if name not in ("timed", "cost")])
@pytest.mark.parametrize("value", ["0.5", "ok", [0.5], 0.5j, pd.Timestamp(0)])
def test_values_that_are_no_numbers(name, value):
    frame = table7(LIFT).astype({"value": object})
    frame.at[3, "value"] = value
    with pytest.raises(ValueError, match="column 'value' holds .*; numbers are needed"):
        TAKE_ROWS[name](frame)


@pytest.mark.parametrize("kind", [object, "Float64", "float32", "category"])
def test_numbers_of_another_type_are_the_same_numbers(kind):
    frame = table7({"grad-cam": 0.25, "lift-cam": 0.5, "xgrad-cam": 0.75})
    frame.loc[0, "value"] = np.nan
    other = frame.astype({"value": kind}).astype({column: "category" for column in ("method", "metric", "dataset")})
    for name in ("summary", "compare", "check"):
        pd.testing.assert_frame_equal(TAKE_ROWS[name](other), TAKE_ROWS[name](frame), check_dtype=False, check_categorical=False)


@pytest.mark.parametrize("empty", [rows([]), pd.DataFrame(columns=COLUMNS)])
def test_no_rows(empty):
    assert tables.summary(empty).empty and tables.compare(empty, "lift_cam", 7)["ours"].isna().all()
    assert tables.timed(empty).empty and tables.cost(empty).empty and tables.slopes(empty, "target").empty
    assert list(tables.against_controls(empty).columns[:4]) == ["dataset", "model", "metric", "best"]
    assert (claims.check(empty)["outcome"] == "not run yet").all()
    with pytest.raises(ValueError, match="0 images of table 7 of lift_cam are too few for 3 runs"):
        tables.simulations(empty, "lift_cam", 7, 3)


def test_simulations_need_runs():
    for runs in (0, True, 2.0, "2"):
        with pytest.raises(ValueError, match="runs is"):
            tables.simulations(table7(LIFT), "lift_cam", 7, runs)
    with pytest.raises(ValueError, match="has no numbered runs"):
        tables.simulations(table7(LIFT), "lift_cam", 3, 2)


@pytest.mark.parametrize("change, message", [({"target": 0}, "two values"), ({"value": -1.0}, "positive"), ({"target": "a"}, "two values|numbers")])
def test_slopes_need_positive_numbers(change, message):
    frame = pd.concat([rows([1.0, 2.0]).assign(target=n) for n in (1, 10)]).assign(**change)
    with pytest.raises(ValueError, match=message):
        tables.slopes(frame, "target")


# -- rows that are there twice ------------------------------------------------------------------------------------------------


def test_rows_that_are_there_twice_count_once_and_are_said(capsys):
    """Two files of the same cells, one of them with fewer images: the mean would lean towards the images of both."""
    good, bad = table7({"lift-cam": 0.3, "grad-cam": 0.2}, n=30), table7({"lift-cam": 0.1, "grad-cam": 0.2}, n=30)
    bad["image_id"] = "other " + bad["image_id"]
    once = pd.concat([good, bad], ignore_index=True)
    plain = claims.check(once, "lift_cam")
    assert capsys.readouterr().out == ""
    twice = claims.check(pd.concat([once, good, good.assign(seconds=9.0)], ignore_index=True), "lift_cam")
    pd.testing.assert_frame_equal(twice, plain)
    assert capsys.readouterr().out == (
        "120 of 240 rows are there twice (the same dataset, model, method, hyper, metric, image_id, target): the first of each counts\n"
    )


def test_rows_that_contradict_each_other_are_said(capsys):
    good = table7({"lift-cam": 0.3, "grad-cam": 0.2})
    other = good.copy()
    other.loc[other.index[:3], "value"] = 0.9
    pd.testing.assert_frame_equal(claims.check(pd.concat([good, other]), "lift_cam"), claims.check(good, "lift_cam"))
    assert capsys.readouterr().out.endswith("the first of each counts, though 3 have another value\n")
    undefined = good.assign(value=np.nan, status="undefined")
    claims.check(pd.concat([undefined, undefined]), "lift_cam")
    assert "another value" not in capsys.readouterr().out


# -- files of a page ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [tables.save, tables.show, claims.show])
def test_a_place_that_cannot_be_written_is_an_error_before_work(tmp_path, monkeypatch, save):
    table = claims.check(rows([]), "clam") if save is claims.show else tables.compare(table7(LIFT), "lift_cam", 7)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(tables.layout, "flat", lambda *_, **__: pytest.fail("work before the check"))
    for path, error in ((tmp_path / "file" / "a.csv", OSError), (tmp_path, IsADirectoryError), ("", IsADirectoryError), (None, TypeError), (3, TypeError)):
        with pytest.raises(error):
            save(table, path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("given", [None, [], pd.Series([1.0])])
def test_what_is_saved_is_a_table(tmp_path, given):
    for save in (tables.save, tables.show, claims.show):
        with pytest.raises(ValueError, match="a DataFrame is needed"):
            save(given, tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_layouts_need_their_tables():
    for layout in (tables.side_by_side, tables.by_method):
        with pytest.raises(ValueError, match="no column .*what `"):
            layout(rows([1.0]))
    with pytest.raises(ValueError, match="no column 'id'"):
        claims.show(rows([1.0]), "unused.csv")
