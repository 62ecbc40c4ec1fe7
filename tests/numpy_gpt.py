"""GPT-3's decoder in NumPy float64, forward and backward by hand: what the JAX one is held to.

It has none of the real one's machinery (no chunks, scan, padding or mesh) and knows its parameters
only by their names and shapes. Loops run over layers; everything else is written as a formula.
"""

import numpy as np

EPSILON = 1e-5


def moved(params, seed=0):
    """Parameters, as nested dicts of arrays, moved far from where they start, norms and biases too.

    What is 0 or 1 at the start would hide a term that is missing or doubled.
    """
    rng = np.random.default_rng(seed)

    def move(tree):
        if isinstance(tree, dict):
            return {name: move(leaf) for name, leaf in sorted(tree.items())}
        leaf = np.asarray(tree)
        return (leaf + 0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return move(params)


def norm(x, p):
    deviation = np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    unit = (x - x.mean(-1, keepdims=True)) / deviation
    return unit * p["scale"] + p["bias"], (unit, deviation)


def norm_backward(dy, p, saved):
    unit, deviation = saved
    grads = {"scale": (dy * unit).sum((0, 1)), "bias": dy.sum((0, 1))}
    du = dy * p["scale"]
    centred = du - du.mean(-1, keepdims=True)
    return (centred - unit * (du * unit).mean(-1, keepdims=True)) / deviation, grads


def attention(x, p, window):
    q, k, v = (np.einsum("btd,dnh->bnth", x, p["qkv"][:, i]) for i in range(3))
    q, k, v = (y + bias[None, :, None] for y, bias in zip((q, k, v), p["qkv_bias"], strict=True))
    length, scale = x.shape[1], q.shape[-1] ** -0.5
    scores = scale * np.einsum("bnth,bnsh->bnts", q, k)
    for t in range(length):
        for s in range(length):
            if s > t or (window is not None and s <= t - window):
                scores[:, :, t, s] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("bnts,bnsh->bnth", weights, v)
    return np.einsum("bnth,nhd->btd", y, p["out"]) + p["out_bias"], (x, q, k, v, weights, y)


def attention_backward(dy, p, saved):
    x, q, k, v, weights, y = saved
    scale = q.shape[-1] ** -0.5
    grads = {"out": np.einsum("bnth,btd->nhd", y, dy), "out_bias": dy.sum((0, 1))}
    dy = np.einsum("btd,nhd->bnth", dy, p["out"])
    dv = np.einsum("bnts,bnth->bnsh", weights, dy)
    dweights = np.einsum("bnth,bnsh->bnts", dy, v)
    dscores = weights * (dweights - (dweights * weights).sum(-1, keepdims=True))
    dq = scale * np.einsum("bnts,bnsh->bnth", dscores, k)
    dk = scale * np.einsum("bnts,bnth->bnsh", dscores, q)
    dqkv = np.stack([dq, dk, dv])
    grads["qkv"] = np.einsum("btd,ibnth->dinh", x, dqkv)
    grads["qkv_bias"] = dqkv.sum((1, 3))
    return np.einsum("ibnth,dinh->btd", dqkv, p["qkv"]), grads


def mlp(x, p):
    before = x @ p["up"] + p["up_bias"]
    tanh = np.tanh(np.sqrt(2 / np.pi) * (before + 0.044715 * before**3))
    hidden = 0.5 * before * (1 + tanh)
    return hidden @ p["down"] + p["down_bias"], (x, before, tanh, hidden)


def mlp_backward(dy, p, saved):
    x, before, tanh, hidden = saved
    grads = {"down": np.einsum("btf,btd->fd", hidden, dy), "down_bias": dy.sum((0, 1))}
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * before**2)
    slope = 0.5 * (1 + tanh) + 0.5 * before * (1 - tanh**2) * inner
    dbefore = dy @ p["down"].T * slope
    grads |= {"up": np.einsum("btd,btf->df", x, dbefore), "up_bias": dbefore.sum((0, 1))}
    return dbefore @ p["up"].T, grads


def add(total, part, layer):
    """Add one layer's gradients into the stacked arrays."""
    for name, grad in part.items():
        total[name][layer] += grad


class NumpyGPT:
    """`logits(tokens)`, then `gradients(dlogits)` of the same tokens, as a tree like `params`."""

    def __init__(self, params, pattern, window, vocab_size):
        self.params = self._float64(params)
        self.windows = [window if kind == "banded" else None for kind in pattern]
        self.vocab_size = vocab_size

    def _float64(self, tree):
        if isinstance(tree, dict):
            return {name: self._float64(leaf) for name, leaf in tree.items()}
        return np.array(tree, np.float64)

    def _layers(self):
        """(slot, place in the slot's stack, window) in the order that the layers run."""
        stack = self.params["layers"]
        for index in range(len(stack["0"]["mlp"]["up"])):
            for slot, window in enumerate(self.windows):
                yield str(slot), index, window

    def _layer(self, slot, index, room):
        return {k: x[index] for k, x in self.params["layers"][slot][room].items()}

    def logits(self, tokens):
        p, self.tokens, self.saved = self.params, tokens, []
        x = p["embedding"][tokens] + p["positions"][: tokens.shape[1]]
        for slot, index, window in self._layers():
            y, norm_1 = norm(x, self._layer(slot, index, "norm_attention"))
            y, attended = attention(y, self._layer(slot, index, "attention"), window)
            x = x + y
            y, norm_2 = norm(x, self._layer(slot, index, "norm_mlp"))
            y, mixed = mlp(y, self._layer(slot, index, "mlp"))
            x = x + y
            self.saved.append((norm_1, attended, norm_2, mixed))
        self.last, self.norm_final = norm(x, p["norm_final"])
        return self.last @ p["embedding"][: self.vocab_size].T

    def gradients(self, dlogits):
        p = self.params
        grads = self._float64(p)
        self._clear(grads)
        grads["embedding"][: self.vocab_size] += np.einsum("btv,btd->vd", dlogits, self.last)
        dx = dlogits @ p["embedding"][: self.vocab_size]
        dx, grads["norm_final"] = norm_backward(dx, p["norm_final"], self.norm_final)
        for (slot, index, _), saved in zip(
            reversed(list(self._layers())), reversed(self.saved), strict=True
        ):
            norm_1, attended, norm_2, mixed = saved
            total = grads["layers"][slot]
            dy, part = mlp_backward(dx, self._layer(slot, index, "mlp"), mixed)
            add(total["mlp"], part, index)
            dy, part = norm_backward(dy, self._layer(slot, index, "norm_mlp"), norm_2)
            add(total["norm_mlp"], part, index)
            dx = dx + dy
            dy, part = attention_backward(dx, self._layer(slot, index, "attention"), attended)
            add(total["attention"], part, index)
            dy, part = norm_backward(dy, self._layer(slot, index, "norm_attention"), norm_1)
            add(total["norm_attention"], part, index)
            dx = dx + dy
        np.add.at(grads["embedding"], self.tokens, dx)
        grads["positions"][: self.tokens.shape[1]] += dx.sum(0)
        return grads

    def _clear(self, tree):
        for leaf in tree.values():
            if isinstance(leaf, dict):
                self._clear(leaf)
            else:
                leaf[...] = 0
