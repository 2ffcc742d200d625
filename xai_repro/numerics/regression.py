"""Linear explanation models fitted to values of coalitions, for a batch of images that share the coalitions."""

import torch


def weighted_lasso(X, v, weights, penalty, most=20_000):
    """alpha [B,K] minimising (1/n) sum_i w_bi (v_bi - alpha_b0 - sum_k X_ik alpha_bk)^2 + penalty sum_k |alpha_bk|, alpha_0 free.

    X [n,K], v and weights [B,n]; penalty: one number, or one per row of v [B]. In float64: accelerated proximal gradient finds which coefficients are not zero, and the
    normal equations of those give the minimum exactly, where there is one alone. Raises RuntimeError where `most` steps do not settle it.
    """
    X, v, weights = X.double(), v.double(), weights.double()
    penalty = torch.as_tensor(penalty, dtype=torch.float64, device=v.device).expand(len(v))
    share = weights / weights.sum(1, keepdim=True)
    centre = share @ X
    c = ((v - (share * v).sum(1, keepdim=True)) * weights) @ X / len(X)
    rows = []
    for w, m, c_b, t in zip(weights, centre, c, penalty / 2):
        away = X - m
        rows.append(_lasso((away * w[:, None]).T @ away / len(X), c_b, t, most))
    return torch.stack(rows)


def _lasso(G, c, t, most):
    """alpha [K] minimising alpha G alpha - 2 c alpha + 2 t sum_k |alpha_k|."""
    step = 1 / torch.linalg.eigvalsh(G)[-1].clamp(min=1e-30)  # G is symmetric and positive
    alpha = ahead = torch.zeros_like(c)
    momentum = 1.0
    for number in range(most):
        if number % 25 == 0 and (exact := _on_support(G, c, t, alpha.sign())) is not None:
            return exact
        moved = ahead - step * (G @ ahead - c)
        new = moved.sign() * (moved.abs() - step * t).clamp(min=0)
        if 0 < (new - alpha).abs().max() <= 1e-10 * new.abs().max():  # several minima, where columns depend on each other
            return new
        if (ahead - new) @ (new - alpha) > 0:  # past the minimum along this direction: start the momentum again
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, alpha, momentum = new + (momentum - 1) / following * (new - alpha), new, following
    raise RuntimeError(f"the lasso has not settled after {most} steps")


def _on_support(G, c, t, sign):
    """The minimum if its coefficients have these signs, else None."""
    some, alpha = sign.nonzero()[:, 0], torch.zeros_like(c)
    alpha[some] = torch.linalg.pinv(G[some][:, some], hermitian=True) @ (c[some] - t * sign[some])  # equal columns share
    slack = 1e-9 * c.abs().max()
    optimal = (alpha.sign() == sign).all() and ((c - G @ alpha).abs() <= t + slack).all()
    return alpha if optimal else None


def shapley_regression(X, v, empty, full, weights):
    """alpha [B,K] minimising sum_i w_i (v_bi - v_b(0) - sum_k X_ik alpha_bk)^2 under sum_k alpha_bk = v_b(1) - v_b(0).

    X [n,K] coalitions with weights w [n] (see `coalitions`), v [B,n] their values, empty and full [B]. Where the coalitions
    leave the solution open, the one nearest to equal shares is taken.
    """
    X, v, root, gain = X.double(), v.double(), weights.double().sqrt(), (full - empty).double()[:, None] / X.shape[1]
    within = X - X.mean(1, keepdim=True)  # what X does to coefficients that sum to zero
    rest = v - empty.double()[:, None] - gain * X.sum(1)
    return gain + (rest * root) @ torch.linalg.pinv(within * root[:, None]).T
