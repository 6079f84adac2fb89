"""Hold a tree of arrays as one vector for each type, so that a program handles few arrays.

Compiling takes some fifteen milliseconds for each kernel of a program. A trial of small layers has
more kernels that copy, scale and update its many arrays than kernels that compute. If the arrays
are packed, an optimiser updates one vector.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = Any
MOST = 2**20  # numbers; with a larger tree, training takes far longer than compiling


@jax.tree_util.register_pytree_node_class
class Packed:
    """A tree whose arrays are concatenated, in one vector for each data type.

    Leading axes of the vectors, such as an axis of trials, are kept. An array that was packed as
    (U,) unpacks as (N, U) if its vector was given an axis of N trials.

    Attributes:
        vectors: one vector (…, numbers) for each data type.
        layout: structure of the tree, and type and shape of each array.
    """

    def __init__(self, vectors: tuple[Any, ...], layout: tuple):
        self.vectors, self.layout = vectors, layout

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple]:
        """Return the vectors, which JAX traces, and the layout, which is static."""
        return self.vectors, self.layout

    @classmethod
    def tree_unflatten(cls, layout: tuple, vectors: tuple[Any, ...]) -> "Packed":
        """Return the packed tree from the output of `tree_flatten`."""
        return cls(tuple(vectors), layout)

    def unpacked(self) -> Tree:
        """Return the tree."""
        structure, kinds, shapes = self.layout
        pieces: list[Any] = [None] * len(kinds)
        for kind, vector in zip(sorted(set(kinds)), self.vectors, strict=True):
            places = [place for place, each in enumerate(kinds) if each == kind]
            sizes = [math.prod(shapes[place]) for place in places]
            for place, part in zip(places, _split(vector, sizes), strict=True):
                pieces[place] = part.reshape((*part.shape[:-1], *shapes[place]))
        return jax.tree.unflatten(structure, pieces)


def pack(tree: Tree, leading: int = 0) -> Packed:
    """Return the tree as vectors; these are NumPy arrays if all arrays of the tree are.

    Args:
        tree: a tree of arrays.
        leading: number of leading axes that all arrays share, such as an axis of trials.
    """
    leaves, structure = jax.tree.flatten(tree)
    kinds = tuple(str(leaf.dtype) for leaf in leaves)
    shapes = tuple(tuple(leaf.shape[leading:]) for leaf in leaves)
    join = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
    vectors = tuple(
        join.concatenate(
            [
                leaf.reshape((*leaf.shape[:leading], -1))
                for leaf, each in zip(leaves, kinds, strict=True)
                if each == kind
            ],
            axis=-1,
        )
        for kind in sorted(set(kinds))
    )
    return Packed(vectors, (structure, kinds, shapes))


def unpack(tree: Tree) -> Tree:
    """Return a tree with every packed part unpacked and all other parts unchanged."""
    return jax.tree.map(lambda x: x.unpacked() if is_packed(x) else x, tree, is_leaf=is_packed)


def pack_like(tree: Tree, example: Tree, leading: int = 0) -> Tree:
    """Return a tree whose parts are packed where those of an example are."""
    return jax.tree.map(
        lambda like, part: pack(part, leading) if is_packed(like) else part,
        example,
        tree,
        is_leaf=is_packed,
    )


def is_packed(tree: Tree) -> bool:
    """Return True for a packed tree, False for a tree that only contains one."""
    return isinstance(tree, Packed)


def holds_packed(tree: Tree) -> bool:
    """Return True if a part of the tree is packed."""
    return any(map(is_packed, jax.tree.leaves(tree, is_leaf=is_packed)))


def is_worth(tree: Tree) -> bool:
    """Return True for several arrays with few numbers in total; only their shapes matter."""
    leaves = jax.tree.leaves(tree)
    return len(leaves) > 1 and sum(leaf.size for leaf in leaves) <= MOST


def _split(vector: Any, sizes: list[int]) -> list[Any]:
    if isinstance(vector, np.ndarray):
        return np.split(vector, np.cumsum(sizes)[:-1], axis=-1)
    # The gradient of a split is one concatenation; that of slices is a sum of padded vectors.
    split: Callable[..., Any] = lax.split
    return split(vector, sizes, axis=vector.ndim - 1)
