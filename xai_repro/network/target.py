"""Which class is explained, and its logit."""

import torch


def resolve_target(logits, y):
    """Class indices [B]: y itself where given, else the top-1 of the logits [B,C].

    Raises ValueError for a class outside 0..C-1 and for logits that are NaN.
    """
    if logits.isnan().any():
        bad = logits.isnan().any(1).nonzero()[:8, 0].tolist()
        raise ValueError(f"the model gives NaN for image(s) {bad}: look at its weights and at the scale of the images")
    return logits.argmax(1) if y is None else _in_range(logits, y)


def _in_range(logits, y):
    classes = logits.shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"y holds class {int(y.max()) if int(y.max()) >= classes else int(y.min())}; the model has classes 0 to {classes - 1}")
    return y.clone() if y.is_inference() else y  # autograd refuses to keep an inference tensor


def target_logit(logits, y):
    """S_b = logits[b, y_b], [B]. Raises ValueError as `resolve_target` does, and for a logit that is infinite."""
    S = logits.gather(1, resolve_target(logits, y)[:, None])[:, 0]
    if S.isinf().any():
        raise ValueError(f"the logit of the class is infinite for image(s) {S.isinf().nonzero()[:8, 0].tolist()}: there is nothing to explain")
    return S


def of_class(values, y):
    """values[b, y_b], [B], NaN where it is NaN: a score that is not defined is not one of an explanation. Raises ValueError for a class out of range."""
    return values.gather(1, _in_range(values, y)[:, None])[:, 0]


def probabilities(model, logits):
    """Class probabilities [B,C] as the model was trained: softmax, or a sigmoid per class.

    A sigmoid where `model.multi_label` is true, and for one logit, whose softmax would be 1 whatever it is.
    """
    single = logits.shape[1] == 1
    return logits.sigmoid() if single or getattr(model, "multi_label", False) else logits.softmax(1)
