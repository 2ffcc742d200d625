"""Rows of evaluate as the tests of tables, claims and figures make them."""

import numpy as np
import pandas as pd

LIFT = {"grad-cam": 0.2435, "grad-cam++": 0.2441, "xgrad-cam": 0.2544, "score-cam": 0.2338, "ablation-cam": 0.2597, "lift-cam": 0.2630}


def rows(values, images=None, **facts):
    """Rows of one cell in the form of `evaluate`."""
    images = [f"i{n}" for n in range(len(values))] if images is None else images
    base = {"paper": "", "dataset": "mini-birds", "model": "mini-vgg", "target": 0, "method": "grad-cam", "hyper": "{}", "metric": "average-drop"}
    base |= {"seconds": 0.002, "status": "ok"} | facts
    frame = pd.DataFrame({"image_id": images, "value": values}).assign(**base)
    return frame.assign(status=np.where(frame.value.isna() & (frame.status == "ok"), "undefined", frame.status))


def table7(means, spread=0.0, n=40, **facts):
    noise = np.random.default_rng(0).normal(0, spread, n) if spread else np.zeros(n)
    facts = {"metric": "increase-in-confidence"} | facts
    return pd.concat([rows(mean + noise, method=method, **facts) for method, mean in means.items()], ignore_index=True)
