"""The only file that knows of devices and processes. It takes functions and knows no model.

Two ways to use several devices, both through `jax.pmap`, on one device as on many:

* trials over devices: every device trains its share of a group's trials, without communication;
* batch over devices: one trial, whose batches are cut into shares; sums and counts are `psum`med.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = Any
How = Literal["vmap", "map"]
AXIS = "batch"


def is_cpu() -> bool:
    """True where the default devices are processors."""
    return jax.default_backend() == "cpu"


def default_how() -> How:
    """Batched over trials on an accelerator; one after another on a processor.

    A processor gains nothing from batching trials, and `lax.map` gives each trial the bits that
    it has alone and skips the stopped ones.
    """
    return "map" if is_cpu() else "vmap"


class Trials:
    """Carries functions of one trial over a group of trials, spread over this host's devices.

    Trees of the group have a leading axis (devices, trials a device); `spread` and `gather` go
    between that and the plain trials' axis. The last places are filled with copies of the last
    trial where the group does not divide evenly.
    """

    def __init__(self, count: int, how: How | None = None, devices: list | None = None):
        devices = devices or jax.local_devices()
        self.count = count
        self.share = -(-count // len(devices))
        self.devices = devices[: -(-count // self.share)]
        self.how = how or default_how()

    def carry(self, step: Callable, *, donate: bool = False) -> Callable:
        """`step(state, hyper, shared) -> (state, out)` for one trial, over all of them.

        A trial with `state.alive` false keeps its state; its `out` is filled with zeros.
        """
        over = _vmapped if self.how == "vmap" else _mapped
        return jax.pmap(
            over(step),
            in_axes=(0, 0, None),
            devices=self.devices,
            donate_argnums=(0,) if donate else (),
        )

    def compile(self, step: Callable, state: Tree, hyper: Tree, shared: Tree) -> Callable:
        """`carry(step)` compiled for these arrays, its state donated."""
        return self.carry(step, donate=True).lower(state, hyper, shared).compile()

    def map(self, fn: Callable, trees: int = 1) -> Callable:
        """`fn(*trial_trees, shared) -> out` for one trial, over all of them, stopped or not."""

        def many(*arguments: Tree) -> Tree:
            *each, shared = arguments
            if self.how == "vmap":
                return jax.vmap(lambda each: fn(*each, shared))(tuple(each))
            return lax.map(lambda each: fn(*each, shared), tuple(each))

        return jax.pmap(many, in_axes=(0,) * trees + (None,), devices=self.devices)

    def spread(self, tree: Tree) -> Tree:
        """(N, …) host arrays to (devices, trials a device, …) on the devices."""
        places = np.minimum(np.arange(len(self.devices) * self.share), self.count - 1)
        shape = (len(self.devices), self.share)

        def place(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)[places]
            return jax.device_put(leaf.reshape(shape + leaf.shape[1:]), self._sharding(split=True))

        return jax.tree.map(place, tree)

    def gather(self, tree: Tree) -> Tree:
        """(devices, trials a device, …) on the devices to (N, …) on the host."""

        def fetch(leaf: jax.Array) -> np.ndarray:
            leaf = np.asarray(leaf)
            return leaf.reshape((len(leaf) * leaf.shape[1], *leaf.shape[2:]))[: self.count]

        return jax.tree.map(fetch, tree)

    def share_all(self, tree: Tree) -> Tree:
        """Arrays that every trial reads, one copy a device, placed once."""
        return jax.tree.map(
            lambda leaf: jax.device_put(np.asarray(leaf), self._sharding(split=False)), tree
        )

    def share_once(self, tree: Tree, placed: dict[int, Tree]) -> Tree:
        """`share_all`, remembered in `placed` by the number of devices."""
        if len(self.devices) not in placed:
            placed[len(self.devices)] = self.share_all(tree)
        return placed[len(self.devices)]

    def _sharding(self, split: bool) -> jax.sharding.Sharding:
        mesh = jax.sharding.Mesh(np.array(self.devices), ("devices",))
        spec = jax.sharding.PartitionSpec("devices") if split else jax.sharding.PartitionSpec()
        return jax.sharding.NamedSharding(mesh, spec)


def _vmapped(step: Callable) -> Callable:
    def many(states: Tree, hypers: Tree, shared: Tree) -> tuple[Tree, Tree]:
        def one(state: Tree, hyper: Tree) -> tuple[Tree, Tree]:
            stepped, out = step(state, hyper, shared)
            kept = jax.tree.map(lambda new, old: jnp.where(state.alive, new, old), stepped, state)
            zero = jax.tree.map(
                lambda leaf: jnp.where(state.alive, leaf, jnp.zeros_like(leaf)), out
            )
            return kept, zero

        return jax.vmap(one)(states, hypers)

    return many


def _mapped(step: Callable) -> Callable:
    def many(states: Tree, hypers: Tree, shared: Tree) -> tuple[Tree, Tree]:
        def one(pair: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
            state, hyper = pair
            shapes = jax.eval_shape(step, state, hyper, shared)[1]
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return lax.cond(
                state.alive,
                lambda: step(state, hyper, shared),
                lambda: (state, nothing),
            )

        return lax.map(one, (states, hypers))

    return many
