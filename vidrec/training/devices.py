"""Map functions of one trial over devices and processes; nothing here knows a model.

There are two ways, both through `jax.pmap`, for one device or many, in one process or several:

* `TrialParallel`, trials over devices: each trains its share of a group's trials, without
  communication;
* `DataParallel`, batch over devices: one trial, whose batches are cut into shares; sums and counts
  are `psum`med over the axis AXIS.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidrec.errors import UserError
from vidrec.training import runtime

Tree = Any
How = Literal["vmap", "map"]
Spread = Literal["auto", "trials", "batch"]
AXIS = "batch"
# XLA's default is 3: its programs are as fast on a CPU, and take a tenth longer to compile.
LEVEL = 2
# JAX on a CPU uses an array without a copy if its address is a multiple of this.
ALIGNED = 64


def default_how() -> How:
    """Return "vmap" on an accelerator, and "map", one trial after another, on a CPU.

    Batching trials saves no time on a core. `lax.map` gives each trial the same numbers as when it
    is trained alone, and skips stopped trials.
    """
    return "map" if runtime.is_cpu() else "vmap"


def is_main() -> bool:
    """Return True in the one process that writes files."""
    return runtime.processes() == 1 or jax.process_index() == 0


def barrier() -> None:
    """Wait until every process has called this function."""
    any_process(False)


def main_process_first(work: Callable[[], Any]) -> Any:
    """Call `work` in the main process, then in the others, which find the files that it wrote."""
    made, failure = None, None
    if is_main():
        try:
            made = work()
        except Exception as error:
            failure = error
    if any_process(failure is not None):
        raise failure or UserError("the first process failed; its output says why")
    return made if is_main() else work()


def any_process(mine: bool) -> bool:
    """Return True on every process if any passes True."""
    if runtime.processes() == 1:
        return mine
    return bool(_from_all(np.full(jax.local_device_count(), mine)).any())


def _from_all(rows: np.ndarray) -> np.ndarray:
    """Return the rows of all processes; each process gives one row for each of its devices."""
    if runtime.processes() == 1:
        return rows
    gathered = jax.pmap(lambda row: lax.all_gather(row, AXIS), axis_name=AXIS)(rows)
    return np.asarray(gathered.addressable_shards[0].data)[0]


def memory_needed(compiled: Any) -> float:
    """Return the bytes that a compiled program takes on each device; 0 if that is unknown."""
    told = getattr(compiled, "memory_analysis", lambda: None)()
    if told is None:
        return 0.0
    held = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    return float(held + told.temp_size_in_bytes)


def placement(trials: int, spread: Spread = "auto") -> "TrialParallel | DataParallel":
    """Return how a group uses the devices: it divides the batches of one trial, or the trials.

    If a CPU's cores are the devices, a single trial uses the first one, since its large products
    use all cores anyway. With `spread` "batch" its batches are divided among the cores.
    """
    if (
        spread == "auto"
        and trials == 1
        and runtime.is_cpu()
        and runtime.are_cores()
        and runtime.processes() == 1
    ):
        return DataParallel(jax.devices()[:1])
    if spread == "auto":
        spread = "batch" if trials == 1 else "trials"
    if spread == "trials":
        return TrialParallel(trials)
    if trials > 1:
        raise UserError(
            f"train.parallel = 'batch' trains one trial at a time, and this group has {trials}: it "
            "was begun with another train.parallel; take that, or another --workdir"
        )
    return DataParallel()


class _Devices:
    """Place trees of host arrays on devices, and fetch them."""

    def __init__(self, devices: list | None):
        # pmap takes all devices of all processes; arrays are placed on this process's own.
        self.everyone = devices or jax.devices()
        self.devices = [d for d in self.everyone if d.process_index == jax.process_index()]

    def share_all(self, tree: Tree) -> Tree:
        """Place arrays that every trial reads, one copy a device."""
        return jax.tree.map(
            lambda leaf: jax.device_put(np.asarray(leaf), self._sharding(split=False)), tree
        )

    def share_once(self, tree: Tree, placed: dict[int, Tree]) -> Tree:
        """Place arrays that never change; `placed` keeps them, by the number of devices.

        The devices of a CPU share one copy.
        """
        if len(self.devices) not in placed:
            placed[len(self.devices)] = self.share_all(jax.tree.map(aligned, tree))
        return placed[len(self.devices)]

    def memory_limit(self, shared: Tree) -> float:
        """Return the bytes that a program may take on each device, `shared` included."""
        if not runtime.is_cpu():
            return runtime.memory_limit()
        common = sum(leaf.nbytes for leaf in jax.tree.leaves(shared))  # one copy for all cores
        return common + (runtime.memory_limit() - common) / len(self.devices)

    def _split(self, leaf: np.ndarray) -> jax.Array:
        return jax.device_put(leaf, self._sharding(split=True))

    def _sharding(self, split: bool) -> jax.sharding.Sharding:
        mesh = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        spec = jax.sharding.PartitionSpec(AXIS) if split else jax.sharding.PartitionSpec()
        return jax.sharding.NamedSharding(mesh, spec)

    def rebalance(self, active_N: np.ndarray, trees: Tree) -> Tree:
        """Return the trees as they are; `TrialParallel` moves trials between devices here."""
        del active_N
        return trees

    def advance(self, fn: Callable, *, donate: bool = False) -> Callable:
        raise NotImplementedError

    def map(self, fn: Callable, trees: int = 1) -> Callable:
        raise NotImplementedError

    def unoptimized(self, fn: Callable, *arguments: Tree) -> Callable:
        """Return `map(fn)` compiled for such arguments, on a CPU in a third of the usual time."""
        return compiled(self.map(fn, len(arguments) - 1), *arguments, level=0)


def compiled(program: Any, *arguments: Tree, level: int = LEVEL) -> Callable:
    """Return a program compiled for such arguments; on a CPU at this level of optimisation.

    With several processes, the first call compiles it instead, with the arrays of all processes.
    """
    if runtime.processes() > 1:
        return program
    options = {"xla_backend_optimization_level": level} if runtime.is_cpu() else None
    return program.lower(*arguments).compile(options)


class TrialParallel(_Devices):
    """Apply functions of one trial to a group of trials, spread over the devices.

    Trees of the group have leading axes (devices, trials a device). `shard` makes them from trees
    with one axis of trials, and `fetch` does the reverse. If the group does not divide evenly, the
    remaining places hold copies of the last trial, which do not train. There are at least `places`
    places. Groups with the same number of places can share compiled programs.
    """

    axis_name = None
    num_shards = 1

    def __init__(
        self, count: int, how: How | None = None, devices: list | None = None, *, places: int = 0
    ):
        super().__init__(devices)
        self.count, places = count, max(count, places)
        self.share = -(-places // len(self.everyone))
        if runtime.processes() == 1:
            self.everyone = self.devices = self.devices[: -(-places // self.share)]
        self.how = how or default_how()
        self._lay(np.arange(count))

    def _lay(self, order_N: np.ndarray) -> None:
        """Assign the trials to the devices in turn, in this order."""
        shape = self.share, len(self.everyone)
        filled = np.pad(order_N, (0, math.prod(shape) - self.count), mode="edge")
        self.places = filled.reshape(shape).T
        _, self._where = np.unique(self.places, return_index=True)
        self._own = np.isin(np.arange(self.places.size), self._where).reshape(self.places.shape)

    @property
    def layout(self) -> tuple:
        """Return what a compiled program depends on, apart from the functions of a trial."""
        return (self.how, self.share, *(device.id for device in self.everyone))

    def shard_active(self, active_N: np.ndarray) -> jax.Array:
        """Place the flags of active trials on the devices; copies of trials are not active."""
        return self._split((active_N[self.places] & self._own)[self._mine])

    def rebalance(self, active_N: np.ndarray, trees: Tree) -> Tree:
        """Return the group's trees, reassigned if stopped trials left devices unequal work."""
        busiest = active_N[self.places].sum(1).max()
        even = busiest <= -(-active_N.sum() // len(self.everyone))
        if self.how == "vmap" or active_N.all() or even:
            return trees
        host = self.fetch(trees)
        self._lay(np.argsort(~active_N, kind="stable"))  # copies are then of a stopped trial
        return self.shard(host)

    def advance(self, fn: Callable, *, donate: bool = False) -> Callable:
        """Apply `fn(state, inputs, shared) -> (state, out)` of one trial to all of them.

        Returns:
            `program(active, state, inputs, shared)`. A trial that is not active keeps its state,
            and its `out` is zeros.
        """
        fn = jax.jit(fn, inline=True)  # traced once, for its shapes and for itself

        def many(active: jax.Array, state: Tree, inputs: Tree, shared: Tree) -> Tree:
            none = _zeros_like(lambda *trees: fn(*trees, shared)[1], *_first((state, inputs)))

            def one(trial: tuple) -> tuple[Tree, Tree]:
                active, state, inputs = trial
                return self._if_active(
                    active, lambda: fn(state, inputs, shared), lambda: (state, none)
                )

            return self._each_trial(one, (active, state, inputs), (state, _many(none, active)))

        return jax.pmap(
            many,
            axis_name=AXIS,
            in_axes=(0, 0, 0, None),
            devices=self.everyone,
            donate_argnums=(1,) if donate else (),
        )

    def map(self, fn: Callable, trees: int = 1) -> Callable:
        """Apply `fn(*trial_trees, shared) -> out` of one trial to all of them, stopped or not."""

        def many(*arguments: Tree) -> Tree:
            *trial_trees, shared = arguments
            trials = tuple(trial_trees)
            one = partial(_apply_to, fn, shared)
            return jax.vmap(one)(trials) if self.how == "vmap" else lax.map(one, trials)

        return jax.pmap(many, axis_name=AXIS, in_axes=(0,) * trees + (None,), devices=self.everyone)

    def scorer(self, fn: Callable) -> Callable:
        """Apply `fn(*trial_trees, rows, shared) -> out (S, …)` of one trial to all of them.

        Returns:
            `program(active, trial_trees, rows, shared)`; rows (S, …) are the same for all trials.
            A trial that is not active gives zeros.
        """
        fn = jax.jit(fn, inline=True)  # traced once, as in `advance`

        def many(active: jax.Array, trees: tuple, rows: Tree, shared: Tree) -> Tree:
            none = _zeros_like(lambda *trees: fn(*trees, rows, shared), *_first(trees))

            def one(trial: tuple) -> Tree:
                active, trees = trial
                return self._if_active(active, lambda: fn(*trees, rows, shared), lambda: none)

            return self._each_trial(one, (active, trees), _many(none, active))

        return jax.pmap(many, axis_name=AXIS, in_axes=(0, 0, None, None), devices=self.everyone)

    def selector(self) -> Callable:
        """Return `program(chosen, new, old)`: for each trial `new` if it is chosen, else `old`."""

        def select(chosen: jax.Array, new: Tree, old: Tree) -> Tree:
            def leaf(a: jax.Array, b: jax.Array) -> jax.Array:
                return jnp.where(chosen.reshape(chosen.shape + (1,) * (a.ndim - 1)), a, b)

            return jax.tree.map(leaf, new, old)

        return jax.pmap(select, axis_name=AXIS, devices=self.everyone, donate_argnums=(2,))

    def _each_trial(self, fn: Callable, trials: tuple, before: Tree) -> Tree:
        """Call `fn` for each trial; `active` is the first of `trials`, results replace `before`."""
        return jax.vmap(fn)(trials) if self.how == "vmap" else _loop_over(fn, trials, before)

    def _if_active(self, active: jax.Array, run: Callable, skip: Callable) -> Tree:
        if self.how == "map":  # one trial at a time: a stopped one costs nothing
            return lax.cond(active, run, skip)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), run(), skip())

    def rows(self, count: int) -> int:
        """Return how many rows `scorer` takes, at least `count`."""
        return count

    def shard(self, tree: Tree) -> Tree:
        """Place (N, …) host arrays as (devices, trials a device, …) on the devices."""
        mine = self.places[self._mine]
        return jax.tree.map(lambda leaf: self._split(np.asarray(leaf)[mine]), tree)

    @property
    def _mine(self) -> list[bool]:
        """True for the devices of this process."""
        return [device in self.devices for device in self.everyone]

    def fetch(self, tree: Tree) -> Tree:
        """Fetch (devices, trials a device, …) as (N, …) to the host of every process."""

        def fetch(leaf: jax.Array) -> np.ndarray:
            rows = _from_all(np.asarray(leaf))
            return rows.reshape((len(rows) * rows.shape[1], *rows.shape[2:]))[self._where]

        return jax.tree.map(fetch, tree)


class DataParallel(_Devices):
    """Apply functions of one trial whose batches are divided into shares, one for each device.

    If there are several devices, functions sum the values of the whole batch over the axis
    `axis_name`, and so return the same on each device. Every device has a full copy of the trial's
    trees, without an axis of trials. Host arrays that `shard` takes and `fetch` returns have such
    an axis, of length 1.
    """

    def __init__(self, devices: list | None = None):
        super().__init__(devices)
        self.num_shards = len(self.everyone)
        # Over one device a sum changes nothing, and a CPU's all-reduce copies what it adds.
        self.axis_name = AXIS if self.num_shards > 1 else None
        # pmap needs an argument that is split. A leading axis of devices on the trial's own trees
        # would cost a copy of each tree on every call.
        self._places = self._split(np.arange(len(self.devices)))

    def advance(self, fn: Callable, *, donate: bool = False) -> Callable:
        """Apply `fn(state, inputs, shared) -> (state, out)` on every device to its share of clips.

        Returns:
            `program(active, state, inputs, shared)`, as `TrialParallel.advance` does.
        """

        def everywhere(active: Tree, state: Tree, inputs: Tree, shared: Tree) -> Tree:
            del active  # a single trial that has stopped is not trained at all
            return fn(state, inputs, shared)

        return self._everywhere(everywhere, 4, donate=(1,) if donate else ())

    def map(self, fn: Callable, trees: int = 1) -> Callable:
        """Apply `fn(*trial_trees, shared) -> out` on every device."""
        return self._everywhere(fn, trees + 1)

    def scorer(self, fn: Callable) -> Callable:
        """Apply `fn(*trial_trees, rows, shared) -> out (S, …)`; each device has a share of rows.

        Returns:
            `program(active, trial_trees, rows, shared)`; see the method `rows` for the number.
        """

        def share(active: Tree, trees: tuple, rows: Tree, shared: Tree) -> Tree:
            del active
            if self.num_shards > 1:
                own = lax.axis_index(AXIS)
                rows = jax.tree.map(
                    lambda leaf: leaf.reshape(self.num_shards, -1, *leaf.shape[1:])[own], rows
                )
            out = fn(*trees, rows, shared)
            return jax.tree.map(lambda leaf: lax.all_gather(leaf, AXIS, tiled=True), out)

        return self._everywhere(share, 4)

    def selector(self) -> Callable:
        """Return `program(chosen, new, old)`, as `TrialParallel.selector` does."""

        def select(chosen: jax.Array, new: Tree, old: Tree) -> Tree:
            return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)

        return self._everywhere(select, 3, donate=(2,))

    def rows(self, count: int) -> int:
        """Return how many rows `scorer` takes, at least `count`."""
        return -(-count // self.num_shards) * self.num_shards

    def _everywhere(self, fn: Callable, trees: int, donate: tuple[int, ...] = ()) -> "_Placed":
        mapped = jax.pmap(
            lambda *arguments: fn(*arguments[:-1]),
            axis_name=AXIS,
            in_axes=(None,) * trees + (0,),
            out_axes=None,
            devices=self.everyone,
            donate_argnums=donate,
        )
        return _Placed(mapped, self._places)

    @property
    def layout(self) -> tuple:
        """See `TrialParallel.layout`."""
        return (AXIS, *(device.id for device in self.everyone))

    def shard_active(self, active_N: np.ndarray) -> jax.Array:
        """See `TrialParallel.shard_active`."""
        return self.shard(active_N)

    def shard(self, tree: Tree) -> Tree:
        """Place (1, …) host arrays on the devices, whole on each."""
        return self.share_all(jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree))

    def fetch(self, tree: Tree) -> Tree:
        """Fetch the first device's arrays as (1, …)."""
        return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data)[None], tree)


def aligned(leaf: Any) -> np.ndarray:
    """Return the array, or on a CPU an aligned copy, which JAX then uses without another copy."""
    array = np.asarray(leaf)
    if not runtime.is_cpu() or array.ctypes.data % ALIGNED == 0 or not array.nbytes:
        return array
    memory = np.empty(array.nbytes + ALIGNED, np.uint8)
    first = -memory.ctypes.data % ALIGNED
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class _Placed:
    """A mapped function that gets `places` as its last argument, before and after compiling."""

    def __init__(self, mapped: Any, places: jax.Array):
        self._mapped, self._places = mapped, places

    def __call__(self, *trees: Tree) -> Tree:
        return self._mapped(*trees, self._places)

    def lower(self, *trees: Tree) -> "_Placed":
        return _Placed(self._mapped.lower(*trees, self._places), self._places)

    def compile(self, options: dict[str, Any] | None = None) -> "_Placed":
        return _Placed(self._mapped.compile(options), self._places)

    def memory_analysis(self) -> Any:
        return getattr(self._mapped, "memory_analysis", lambda: None)()


def _apply_to(fn: Callable, shared: Tree, trial: tuple) -> Tree:
    return fn(*trial, shared)


def _loop_over(fn: Callable, trials: tuple, before: Tree) -> Tree:
    """Do what `lax.map(fn, trials)` does, in a loop whose length the compiler does not know.

    The compiler would remove a loop of known length 1 and compile the body differently. A trial
    alone would then get slightly different numbers than in a group.
    """
    active = trials[0]
    # This is always len(active), but the compiler cannot know that.
    rounds = jnp.maximum(len(active), active.sum())

    def body(index: jax.Array, out: Tree) -> Tree:
        trial = jax.tree.map(
            lambda leaf: lax.dynamic_index_in_dim(leaf, index, 0, keepdims=False), trials
        )

        def put(leaf: jax.Array, value: jax.Array) -> jax.Array:
            return lax.dynamic_update_index_in_dim(leaf, value, index, 0)

        return jax.tree.map(put, out, fn(trial))

    return lax.fori_loop(0, rounds, body, before)


def _first(trees: Tree) -> Tree:
    """Return the trees of the first trial."""
    return jax.tree.map(lambda leaf: leaf[0], trees)


def _many(tree: Tree, active: jax.Array) -> Tree:
    """Return a tree of zeros for each trial."""
    return jax.tree.map(lambda leaf: jnp.zeros((len(active), *leaf.shape), leaf.dtype), tree)


def _zeros_like(fn: Callable, *arguments: Tree) -> Tree:
    """Return zeros in the shapes and types of what `fn` returns."""
    shapes = jax.eval_shape(fn, *arguments)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
