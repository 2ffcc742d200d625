"""Which class is explained, and its logit."""

import torch


def resolve_target(logits, y):
    """Class indices [B]: y itself where given, else the top-1 of the logits [B,C].

    Raises ValueError for a class outside 0..C-1.
    """
    if y is None:
        return logits.argmax(1)
    classes = logits.shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"y holds class {int(y.max()) if int(y.max()) >= classes else int(y.min())}; the model has classes 0 to {classes - 1}")
    return y.clone() if y.is_inference() else y  # autograd refuses to keep an inference tensor


def target_logit(logits, y):
    """S_b = logits[b, y_b], [B]."""
    return logits.gather(1, resolve_target(logits, y)[:, None])[:, 0]


def probabilities(model, logits):
    """Class probabilities as the model was trained: softmax, or a sigmoid per class where `model.multi_label` is true."""
    return logits.sigmoid() if getattr(model, "multi_label", False) else logits.softmax(1)
