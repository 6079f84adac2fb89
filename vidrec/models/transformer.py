"""A transformer encoder over frames: pre-norm, rotary positions, causal or not.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; layer norm before each part as
in Xiong et al. 2020, arXiv:2002.04745; positions as in Su et al. 2021, "RoFormer",
arXiv:2104.09864.

Dimension letters: B clips, T frames with queries, S frames with keys, C frames kept from before, D
features, U units, H heads, E = U / H.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vidrec.errors import UserError
from vidrec.models.inputs import CallOptions, Packed, expect, lengths_to_mask, pack, window
from vidrec.models.layers import Dense
from vidrec.models.norm_dropout import NormDropout
from vidrec.models.scanner import Scanner, check_whole, checked_carry

# Largest number of queries that are computed at a time.
QUERIES = 256


class Cache(NamedTuple):
    """Keys, not yet rotated by their position, and values of the last C frames, (B, C, U).

    The last valid frame is the last entry.
    """

    keys: Array
    values: Array


class Kept(NamedTuple):
    """The carry of a `Transformer`.

    Attributes:
        frames: Number of valid frames in the caches, (B,).
        caches: One cache for each layer.
    """

    frames: Array
    caches: tuple[Cache, ...]


class Pairs(NamedTuple):
    """Keys, rotated by their position, and values, (B, S, H, E)."""

    keys: Array
    values: Array


class Sight(NamedTuple):
    """Which keys a query sees.

    Attributes:
        behind: Number of frames with keys before the first frame with a query.
        valid_BS: False for keys that no query sees; None: all are valid.
        context: Number of frames before its own that a query sees, and none after it; None: a
            query sees all frames.
    """

    behind: int
    valid_BS: Array | None
    context: int | None


class Transformer(Scanner):
    """Layers of self-attention and a feed-forward network, each after a layer norm.

    If `causal`, a frame sees itself and the `context` frames before it in each layer. The carry
    keeps the keys and values of the last `context` frames, so a stream may have any length. Dropout
    acts on the outputs of attention and network, before they are added to their inputs.

    >>> scanner = Transformer(units=8, layers=2, heads=2)
    >>> features_BTD = jax.random.normal(jax.random.key(0), (2, 5, 3))
    >>> mask_BT = lengths_to_mask(jnp.array([5, 2]), 5)
    >>> variables = scanner.init(jax.random.key(1), features_BTD, mask_BT)
    >>> states_BTU, carry = scanner.apply(variables, features_BTD, mask_BT)

    Attributes:
        units: Width U of every layer; U / heads is an even number.
        layers: Number of layers; each has one attention and one network.
        causal: True: a frame sees only itself and frames before it.
        heads: Number H of attention heads.
        expansion: Width of the network's hidden layer, as a multiple of U.
        context: Number of frames before it that a frame sees if `causal`.
        dropout: Dropout rate, used if a call gives none.
        initialiser: Convention of the initial weights: keras, torch or normal.
        dtype: Type of the operands of matrix products: float32 or bfloat16.
    """

    units: int
    layers: int = 1
    causal: bool = True
    heads: int = 4
    expansion: int = 4
    context: int = 512
    dropout: float = 0.0
    initialiser: str = "keras"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("heads", "expansion", "context"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"scanner.args: {name} = {value} should be at least 1")
        if self.units % (2 * self.heads):
            raise UserError(
                f"scanner.units = {self.units} should be a multiple of {2 * self.heads}: an even "
                f"number for each of {self.heads} heads (scanner.args heads)"
            )

    @property
    def streams(self) -> bool:  # type: ignore[override]
        """Return True if a call can continue from the carry of the previous call."""
        return self.causal

    def check(self, x_BTD: Array, carry: Any) -> None:
        """Check the rank of features, and that there is no carry unless `causal`."""
        expect("features of Transformer", x_BTD, "BTD")
        check_whole(self.causal, carry)

    @nn.compact
    def scan(
        self, x_BTD: Array, mask_BT: Array | None, carry: Any, options: CallOptions
    ) -> tuple[Array, Any]:
        """Return the normalized outputs of the last layer, and the carry."""
        packed = pack(x_BTD, mask_BT)
        if carry is not None:
            carry = checked_carry(carry, self._empty(len(x_BTD)))
        x_BTU = Dense(self.units, self.initialiser, self.dtype, name="embed")(packed.x_BTD)
        caches: list[Any] = []
        for index in range(self.layers):
            heard, cache = self._attend(index, x_BTU, packed, carry)
            x_BTU = x_BTU + self._drop(f"after_attention_{index}", heard, packed, options)
            x_BTU = x_BTU + self._drop(
                f"after_network_{index}", self._network(index, x_BTU), packed, options
            )
            caches.append(cache)
        y_BTU = packed.unpack(_norm("norm")(x_BTU), mask_BT)
        if not self.causal:
            return y_BTU, ()
        frames_B = packed.lengths_B.astype(jnp.float32) + (0 if carry is None else carry.frames)
        return y_BTU, Kept(jnp.minimum(frames_B, self.context), tuple(caches))

    def _empty(self, clips: int) -> Kept:
        """Return the carry before the first frame."""
        zeros = jnp.zeros((clips, self.context, self.units))
        return Kept(jnp.zeros(clips), (Cache(zeros, zeros),) * self.layers)

    def _attend(
        self, index: int, x_BTU: Array, packed: Packed, carry: Kept | None
    ) -> tuple[Array, Cache | None]:
        """Return the output of a layer's attention, and keys and values for the next call."""
        normed = _norm(f"norm_attention_{index}")(x_BTU)
        joined = Dense(3 * self.units, self.initialiser, self.dtype, name=f"qkv_{index}")(normed)
        queries, *new = jnp.split(joined, 3, axis=-1)
        asked, after = Cache(*new), None
        sight = Sight(0, packed.mask_BT, None)
        if self.causal:
            before = (self._empty(len(x_BTU)) if carry is None else carry).caches[index]
            joint = Cache(*(jnp.concatenate([a, b], 1) for a, b in zip(before, new, strict=True)))
            after = Cache(*(window(each, packed.lengths_B, self.context) for each in joint))
            # Padded frames are later than the valid ones, so no valid frame sees them.
            sight = Sight(0, None, self.context)
            if carry is not None:
                valid_BS = _valid(carry.frames, self.context, x_BTU.shape[1])
                asked, sight = joint, Sight(self.context, valid_BS, self.context)
        split = partial(_split, heads=self.heads)
        heard = attend(split(queries), split(asked.keys), split(asked.values), sight, self.dtype)
        out = Dense(self.units, self.initialiser, self.dtype, name=f"out_{index}")
        return out(heard.reshape(x_BTU.shape)), after

    def _network(self, index: int, x_BTU: Array) -> Array:
        """Return the output of a layer's feed-forward network."""
        normed = _norm(f"norm_network_{index}")(x_BTU)
        width = self.expansion * self.units
        hidden = Dense(width, self.initialiser, self.dtype, name=f"hidden_{index}")(normed)
        shrink = Dense(self.units, self.initialiser, self.dtype, name=f"shrink_{index}")
        return shrink(nn.gelu(hidden, approximate=False))

    def _drop(self, name: str, x_BTU: Array, packed: Packed, options: CallOptions) -> Array:
        return NormDropout(dropout=self.dropout, name=name)(x_BTU, packed.mask_BT, options)


def _norm(name: str) -> nn.LayerNorm:
    # The mean of squared deviations: E[x²] - E[x]² would lose precision in float32.
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def _split(x_BSU: Array, heads: int) -> Array:
    return x_BSU.reshape(*x_BSU.shape[:2], heads, -1)


def _valid(frames_B: Array, kept: int, frames: int) -> Array:
    """Return a mask (B, C + T) that is True for valid kept frames and for all new frames."""
    old_BC = jnp.flip(lengths_to_mask(frames_B, kept), 1)
    return jnp.concatenate([old_BC, jnp.ones((len(frames_B), frames), bool)], 1)


def attend(
    queries_BTHE: Array, keys_BSHE: Array, values_BSHE: Array, sight: Sight, dtype: str = "float32"
) -> Array:
    """Return, for each query, the mean of the values that it sees, weighted by attention.

    Queries are computed in blocks, one after another, so memory grows as T and not as T · T.

    Args:
        queries_BTHE: Queries, not yet rotated by their position.
        keys_BSHE: Keys, not yet rotated; the last T belong to the frames with queries.
        values_BSHE: Values of the frames with keys.
        sight: Which keys a query sees.
        dtype: Type of the operands of matrix products: float32 or bfloat16.

    Returns:
        Weighted means (B, T, H, E).
    """
    queries_BTHE = rotate(queries_BTHE, sight.behind)
    pairs = Pairs(rotate(keys_BSHE, 0), values_BSHE)
    frames = queries_BTHE.shape[1]
    blocks = -(-frames // QUERIES)
    # Recomputed in the backward pass: storing the weights of all blocks would take T · T numbers.
    weigh = jax.checkpoint(partial(_weigh, dtype=dtype), prevent_cse=blocks == 1)
    if blocks == 1:
        return weigh(queries_BTHE, pairs, _seen(sight, frames, keys_BSHE.shape[1]))
    length = -(-frames // blocks)
    asked_of = _asked(pairs, sight, length, blocks)
    shape = (len(queries_BTHE), blocks, length, *queries_BTHE.shape[2:])
    parts = jnp.moveaxis(_padded(queries_BTHE, 0, blocks * length).reshape(shape), 1, 0)

    def block(number_and_queries: tuple[Array, Array]) -> Array:
        number, queries = number_and_queries
        return weigh(queries, *asked_of(number))

    answers = jnp.moveaxis(jax.lax.map(block, (jnp.arange(blocks), parts)), 0, 1)
    return answers.reshape(len(queries_BTHE), blocks * length, *shape[3:])[:, :frames]


def _asked(
    pairs: Pairs, sight: Sight, length: int, blocks: int
) -> Callable[[Array], tuple[Pairs, Array]]:
    """Return a function from a block's number to the keys it needs and a mask of those seen."""
    frames = pairs.keys.shape[1]
    if sight.context is None:
        seen = _seen(sight, length, frames)
        return lambda number: (pairs, seen)
    # A block attends to its own frames and the context before them, also before the first frame.
    context = min(sight.context, frames)
    behind = context + sight.behind
    total = behind + blocks * length
    valid_BS = sight.valid_BS
    valid_BS = jnp.ones((1, frames), bool) if valid_BS is None else valid_BS
    padded = [_padded(each, context, total) for each in (*pairs, valid_BS)]
    near = _seen(Sight(context, None, context), length, context + length)

    def asked(number: Array) -> tuple[Pairs, Array]:
        start = sight.behind + number * length
        keys, values, valid = (
            jax.lax.dynamic_slice_in_dim(each, start, context + length, 1) for each in padded
        )
        return Pairs(keys, values), near & valid[:, None, None]

    return asked


def _padded(x_BS: Array, front: int, total: int) -> Array:
    """Pad the axis of frames to `total` entries with zeros (False), `front` of them in front."""
    widths = [(0, 0)] * x_BS.ndim
    widths[1] = (front, total - front - x_BS.shape[1])
    return jnp.pad(x_BS, widths)


def _seen(sight: Sight, frames: int, asked: int) -> Array:
    """Return a mask (B or 1, 1, T, S) that is True if the query sees the key."""
    back = np.arange(frames)[:, None] + sight.behind - np.arange(asked)
    seen = np.ones(back.shape, bool)
    if sight.context is not None:
        seen = (back >= 0) & (back <= sight.context)
    if sight.valid_BS is None:
        return jnp.asarray(seen[None, None])
    return jnp.asarray(seen[None, None]) & sight.valid_BS[:, None, None]


def _weigh(queries: Array, pairs: Pairs, seen: Array, dtype: str) -> Array:
    product = partial(_product, dtype=dtype)
    scores_BHTS = product("bthe,bshe->bhts", queries / math.sqrt(queries.shape[-1]), pairs.keys)
    # A finite number, not -inf: the softmax of a padded frame that sees nothing would be NaN.
    scores_BHTS = jnp.where(seen, scores_BHTS, jnp.finfo(scores_BHTS.dtype).min)
    return product("bhts,bshe->bthe", jax.nn.softmax(scores_BHTS), pairs.values)


def _product(axes: str, one: Array, other: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        one, other = one.astype(jnp.bfloat16), other.astype(jnp.bfloat16)
        return jnp.einsum(axes, one, other, preferred_element_type=jnp.float32)
    return jnp.einsum(axes, one, other)


def rotate(x_BSHE: Array, first: int) -> Array:
    """Rotate each pair of numbers by an angle that grows with the frame's position.

    The product of a query with a key then depends on the distance between their frames.

    Args:
        x_BSHE: Queries or keys; E is even.
        first: Position of the first frame.
    """
    half = x_BSHE.shape[-1] // 2
    # In float64: in float32 the angle at position 3,000 is off by a ten-thousandth.
    angles = np.arange(first, first + x_BSHE.shape[1])[:, None] * 1e4 ** (-np.arange(half) / half)
    cos, sin = (jnp.asarray(f(angles), x_BSHE.dtype)[None, :, None] for f in (np.cos, np.sin))
    one, other = x_BSHE[..., :half], x_BSHE[..., half:]
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1)
