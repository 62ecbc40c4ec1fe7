"""Attention as its formula, for kernels to be compared with."""

import numpy as np


def loops(q, k, v, window=None, start=None, segments=None, direction=None):
    """softmax(q k^T / sqrt(H)) v, one query and one head at a time, in float64.

    Also the gradients of its product with `direction`: with weights w and answer y = w v, a score
    weighs in with w (v - y).
    """
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out, (dq, dk, dv) = np.zeros_like(q), (np.zeros_like(x) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    for b, t, n in np.ndindex(q.shape[:3]):
        place = t + (start or 0)
        low = 0 if window is None else max(0, place - window + 1)
        keys = list(range(low, place + 1))
        if segments is not None:
            keys = [s for s in keys if segments[1][b, s] == segments[0][b, t]]
        scores = scale * k[b, keys, n] @ q[b, t, n]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, n] = weights @ v[b, keys, n]
        if direction is not None:
            slopes = scale * weights * ((v[b, keys, n] - out[b, t, n]) @ direction[b, t, n])
            dq[b, t, n] = slopes @ k[b, keys, n]
            dk[b, keys, n] += np.outer(slopes, q[b, t, n])
            dv[b, keys, n] += np.outer(weights, direction[b, t, n])
    return out, (dq, dk, dv)
