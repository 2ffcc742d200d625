"""Rows of a notebook: on the disk whole, or as they were."""

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import xai_repro as xr


def test_rows_come_back_as_they_were(tmp_path):
    rows = pd.DataFrame({"value": [0.25, float("nan")], "method": ["grad-cam", None]}, index=pd.Index([3, 5], name="image"))
    rows.attrs["profile"] = "smoke"
    for path in (tmp_path / "rows.parquet", str(tmp_path / "new" / "rows.parquet")):
        xr.write_rows(rows, path)
        xr.write_rows(rows[:0], f"{path}.none")
        assert_frame_equal(pd.read_parquet(path), rows)
        assert pd.read_parquet(path).attrs == rows.attrs and len(pd.read_parquet(f"{path}.none")) == 0


def test_rows_that_are_cut_off_leave_what_was_there(tmp_path, monkeypatch):
    rows, path = pd.DataFrame({"value": [0.25]}), tmp_path / "rows.parquet"
    xr.write_rows(rows, path)

    def stopped(self, name):
        name.write_bytes(b"PAR1 and no more")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", stopped)
    with pytest.raises(KeyboardInterrupt):
        xr.write_rows(rows, path)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"] and len(pd.read_parquet(path)) == 1
