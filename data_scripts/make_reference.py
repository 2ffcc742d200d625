"""Gather what the profile photos computed into reference/, which the book shows: numbers only, and how they were made.

xai-repro run --profile photos && python data_scripts/make_reference.py
"""

import json
import platform
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

import xai_repro as xr
from xai_repro.store.files import whole
from xai_repro.study.photographs import METRICS, MODEL, PHOTOS, REFERENCE, rows_of
from xai_repro.study.shards import provenance


def main(results: Annotated[Path, typer.Option(help="Where the profile's results are.")] = Path("results/photos"), out: Annotated[Path, typer.Option(help="Folder to write.")] = REFERENCE):
    """Explain with the costly methods too, then write photos.parquet and photos.json."""
    settings = xr.profile("photos")
    costly = xr.evaluate(MODEL, PHOTOS, settings["costly"], METRICS, "photos", results=results, limit=settings["curves"])  # these no notebook has on as many as the others
    rows = pd.concat([rows_of(results), costly], ignore_index=True).drop_duplicates(["image_id", "target", "method", "hyper", "metric"])
    rows = rows[rows["dataset"].eq(PHOTOS) & rows["model"].eq(MODEL)]
    shards = [provenance(path) for path in sorted((results / "shards").glob(f"{PHOTOS}--{MODEL}--*.parquet"))]
    facts = {
        "model": MODEL, "data set": PHOTOS, "rows": len(rows), "photographs": int(rows["image_id"].nunique()), "methods": int(rows["method"].nunique()),
        "weights": sorted({one["weights"] for one in shards}), "commits": sorted({one["commit"] for one in shards}), "versions": shards[-1]["versions"],
        "device": sorted({one["device"] for one in shards}), "machine": platform.machine(),
    }  # fmt: skip
    out.mkdir(exist_ok=True)
    with whole(out / "photos.parquet") as part:
        rows.to_parquet(part, compression="zstd", index=False)
    with whole(out / "photos.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{len(rows)} rows of {facts['photographs']} photographs: {out / 'photos.parquet'}")


if __name__ == "__main__":
    typer.run(main)
