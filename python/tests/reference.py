"""Attention in float64 with NumPy: two passes, no tiles. It shares nothing with the kernels."""

import numpy


def attention(
    query,
    key,
    value,
    scale=None,
    causal=False,
    top_left=False,
    window=(-1, -1),
    softcap=0.0,
    slopes=None,
    sinks=None,
):
    """Output and log-sum-exp of one sequence: [heads, length, head_dim] each, and [heads, length]."""
    query, key, value = (numpy.asarray(tensor, numpy.float64) for tensor in (query, key, value))
    heads, len_q, head_dim = query.shape
    group = heads // key.shape[0]
    key, value = key.repeat(group, 0), value.repeat(group, 0)
    len_kv = key.shape[1]
    # The factor is a float32, as the kernels get it.
    scale = float(numpy.float32(head_dim**-0.5 if scale is None else scale))
    scores = scale * query @ key.transpose(0, 2, 1)
    if softcap:
        scores = softcap * numpy.tanh(scores / softcap)
    own = numpy.arange(len_q)[:, None] + (0 if top_left else len_kv - len_q)
    distance = own - numpy.arange(len_kv)[None, :]
    if slopes is not None:
        scores = scores - numpy.asarray(slopes, numpy.float64)[:, None, None] * abs(distance)
    left, right = window
    seen = numpy.ones((len_q, len_kv), bool)
    if causal or top_left:
        right = 0
    if left >= 0:
        seen &= distance <= left
    if right >= 0:
        seen &= distance >= -right
    scores = numpy.where(seen, scores, -numpy.inf)
    sink = numpy.full(heads, -numpy.inf) if sinks is None else numpy.asarray(sinks, numpy.float64)
    maximum = numpy.maximum(scores.max(-1, initial=-numpy.inf), sink[:, None])
    maximum = numpy.where(numpy.isfinite(maximum), maximum, 0.0)
    weights = numpy.exp(scores - maximum[..., None])
    total = weights.sum(-1) + numpy.exp(sink[:, None] - maximum)
    with numpy.errstate(divide="ignore"):
        lse = maximum + numpy.log(total)
    return weights / numpy.where(total > 0, total, 1.0)[..., None] @ value, lse
