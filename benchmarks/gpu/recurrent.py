"""One training step of one recurrent layer, forward and backward, at equal precision.

Every side takes the same clips and weights, gives its last state, and takes the gradient of that
state's mean square for every weight. The truth is our loop in exact float32.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import harness
from benchmarks.gpu.harness import OURS, Record, Side
from vidrec.models import cells, fused, interop, recurrence, scanners

SETS = 4  # of inputs, in turn
Shape = tuple[int, int, int, int]
KINDS = {"lstm": cells.LSTM, "gru": cells.GRU}
FORMS = ("loop", "unroll8", "cudnn", "kernel")
# Each program takes some ten seconds to compile on a GPU: not every form at every precision.
FEW = {"tf32": ("cudnn", "kernel"), "float32": ("cudnn",), "bfloat16": ("kernel",)}


def shapes(tiny: bool) -> dict[str, list[Shape]]:
    """Return (clips, frames, features, units) of each cell."""
    if tiny:
        return {"lstm": [(4, 5, 8, 16)], "gru": [(4, 5, 8, 16)]}
    sizes = [(128, 120, 1024, 512), (50, 30, 512, 200)]
    return {"lstm": sizes, "gru": sizes}


def run(record: Record) -> None:
    """Time every cell, shape and precision; then ConvLSTM."""
    for place in range(2):
        for cell, sizes in shapes(record.tiny).items():
            if place >= len(sizes):
                continue
            for precision in ("tf32", "float32", "bfloat16"):
                every = record.tiny or (place == 0 and precision == "tf32")
                forms = FORMS if every else FEW[precision]
                if record.wants(cell, precision):
                    layer(record, cell, sizes[place], precision, forms)
    for units in (4,) if record.tiny else (64, 256):
        if record.wants("convlstm"):
            maps(record, units)


def layer(
    record: Record, kind: str, shape: Shape, precision: str, forms: tuple[str, ...] = FORMS
) -> None:
    """Compare and time one layer; flax's stands beside it where every form does."""
    clips, frames, features, units = shape
    work = f"{kind.upper()} step {clips}x{frames}x{features} to {units}"
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((clips, frames, features), np.float32) for _ in range(SETS)]
    bias = "double" if kind == "lstm" else "single"
    exact = scanners.Recurrent(KINDS[kind](units=units, bias=bias, init="torch"))
    params = exact.init(jax.random.key(0), jnp.asarray(inputs[0][:1, :1]))["params"]
    with harness.precision_of("float32"), recurrence.scan_form("loop"):
        out = gradient(exact)(params, jnp.asarray(inputs[0]))
    truth = harness.flat(out["layer_0_forward"])
    with harness.precision_of(precision):
        sides = ours(exact.cell, forms, precision, params, inputs)
        if forms == FORMS:
            weights = params["layer_0_forward"]
            sides["flax nn.RNN"] = in_flax(kind, precision, weights, inputs)
        if harness.has_torch():
            sides["torch"] = in_torch(kind, exact, precision, params, inputs)
        right = harness.compare(record, work, precision, sides, truth)
        if right:
            harness.timed(record, work, right, precision=precision)


def gradient(scanner: Any, blocks: Any = None) -> Callable[[Any, Any], Any]:
    """Return the gradient of the last state's mean square by every weight, compiled."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        last = scanner.apply({"params": params}, x)[0][:, -1]
        return jnp.mean(last.astype(jnp.float32) ** 2)

    return jax.jit(jax.grad(loss))


def in_form(form: str, scanner: Any, params: Any, inputs: list) -> Side:
    """Return our step with one form of the loop."""
    step, given = gradient(scanner), [jnp.asarray(x) for x in inputs]

    def call(index: int) -> Any:
        with recurrence.scan_form(form):  # read while the first call traces
            return step(params, given[index % SETS])

    return harness.jax_side(call, lambda out: harness.flat(out["layer_0_forward"]))


def ours(cell: Any, forms: tuple[str, ...], precision: str, params: Any, inputs: list) -> dict:
    """Return what users get, and candidates."""
    low = "bfloat16" if precision == "bfloat16" else "float32"
    scanner = scanners.Recurrent(replace(cell, dtype=low))
    sides = {OURS: in_form("auto", scanner, params, inputs)}
    for form in forms:
        if form == "loop" and not harness.on_gpu():
            continue  # it is what `auto` takes there
        gru = isinstance(cell, cells.GRU)
        if form == "cudnn" and (gru or low == "bfloat16" or not harness.on_gpu()):
            continue
        sides[f"{OURS} {form}"] = in_form(form, scanner, params, inputs)
    return sides


def in_torch(
    kind: str, scanner: Any, precision: str, params: Any, inputs: list, *, compiled: bool = False
) -> Side:
    """Return torch.nn.LSTM or GRU: cuDNN on a GPU."""
    import torch
    import turns

    device = turns.torch_device()
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    features, units = inputs[0].shape[-1], scanner.cell.units
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](features, units, batch_first=True)
    state = interop.to_torch(scanner, params)
    made.load_state_dict({name: torch.tensor(np.asarray(each)) for name, each in state.items()})
    made.to(device, dtype)
    given = [torch.tensor(x, device=device, dtype=dtype) for x in inputs]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return (made(x)[0][:, -1].float() ** 2).mean()

    loss = torch.compile(forward) if compiled else forward

    def call(index: int) -> Any:
        made.zero_grad(set_to_none=True)
        loss(given[index % SETS]).backward()

    def result(_: Any) -> dict[str, np.ndarray]:
        slopes = {name: each.grad.float().cpu() for name, each in made.named_parameters()}
        return harness.flat(interop.from_torch(scanner, slopes)["layer_0_forward"])

    return harness.torch_side(call, result)


def in_flax(kind: str, precision: str, weights: Any, inputs: list) -> Side:
    """Return flax's nn.RNN with our weights."""
    import flax.linen as nn

    low = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    units = weights["recurrent_kernel"].shape[0]
    names = {"lstm": "ifgo", "gru": "zrn"}[kind]
    split = {name: jnp.split(each, len(names), -1) for name, each in weights.items()}
    tree: dict[str, Any] = {}
    for place, gate in enumerate(names):
        tree[f"i{gate}"] = {"kernel": split["input_kernel"][place]}
        tree[f"h{gate}"] = {"kernel": split["recurrent_kernel"][place]}
        both = split["bias"][place], split["recurrent_bias"][place]
        if kind == "lstm":
            tree[f"h{gate}"]["bias"] = both[0] + both[1]
        elif gate == "n":
            tree["in"]["bias"], tree["hn"]["bias"] = both
        else:
            tree[f"i{gate}"]["bias"] = both[0] + both[1]
    cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[kind](units, dtype=low)
    module = nn.RNN(cell)
    given = [jnp.asarray(x) for x in inputs]
    [name] = module.init(jax.random.key(0), given[0][:1, :1])["params"]
    step = gradient(_First(module, name))

    def result(out: Any) -> dict[str, np.ndarray]:
        kernels = {
            ours: jnp.concatenate([out[f"{side}{gate}"]["kernel"] for gate in names], -1)
            for side, ours in (("i", "input_kernel"), ("h", "recurrent_kernel"))
        }
        if kind == "lstm":
            bias = jnp.concatenate([out[f"h{gate}"]["bias"] for gate in names])
            both = {"bias": bias, "recurrent_bias": bias}
        else:
            first = jnp.concatenate([out[f"i{gate}"]["bias"] for gate in names])
            n = out["hn"]["bias"]
            both = {"bias": first, "recurrent_bias": jnp.concatenate([first[: -len(n)], n])}
        return harness.flat(kernels | both)

    return harness.jax_side(lambda index: step(tree, given[index % SETS]), result)


class _First:
    """A flax module of one cell, with the outputs of vidrec's scanners."""

    def __init__(self, module: Any, name: str):
        self.module, self.name = module, name

    def apply(self, variables: Any, x: jax.Array) -> tuple:
        return (self.module.apply({"params": {self.name: variables["params"]}}, x),)


def maps(record: Record, units: int) -> None:
    """Compare and time a ConvLSTM beside PyTorch, plain and with the inputs' part hoisted."""
    clips, frames, edge, features = (2, 3, 4, 8) if record.tiny else (16, 30, 7, 512)
    work = f"ConvLSTM step {clips}x{frames}x{edge}x{edge}x{features} to {units}"
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((clips, frames, edge, edge, features), np.float32)] * 2
    inputs[1] = inputs[0][::-1].copy()
    scanner = scanners.Recurrent(cells.ConvLSTM(units=units))
    params = scanner.init(jax.random.key(0), jnp.asarray(inputs[0][:1, :1]))["params"]
    with harness.precision_of("float32"):
        truth = harness.flat(gradient(scanner)(params, jnp.asarray(inputs[0]))["layer_0_forward"])
    for precision in ("tf32", "float32", "bfloat16"):
        if record.left() < 0:
            return
        low = "bfloat16" if precision == "bfloat16" else "float32"
        cell = cells.ConvLSTM(units=units, dtype=low)
        with harness.precision_of(precision):
            step, given = gradient(scanners.Recurrent(cell)), [jnp.asarray(x) for x in inputs]
            sides = {
                OURS: harness.jax_side(
                    partial(lambda step, given, i: step(params, given[i % 2]), step, given),
                    lambda out: harness.flat(out["layer_0_forward"]),
                )
            }
            if harness.has_torch():
                for hoisted in (False, True):
                    name = "torch hoisted" if hoisted else "torch"
                    sides[name] = conv_torch(params, inputs, low, hoisted)
            right = harness.compare(record, work, precision, sides, truth)
            if right:
                harness.timed(record, work, right, precision=precision)


def conv_torch(params: Any, inputs: list, low: str, hoisted: bool) -> Side:
    """Return a ConvLSTM as people write it; gates i, f, g, o."""
    import torch
    import turns
    from torch.nn.functional import conv2d

    weights = {name: np.asarray(each) for name, each in params["layer_0_forward"].items()}
    kernels = [weights["input_kernel"], weights["recurrent_kernel"]]
    features, units, edge = kernels[0].shape[2], kernels[1].shape[2], kernels[0].shape[0] // 2
    joined = np.concatenate(kernels, axis=2).transpose(3, 2, 0, 1)
    on = {"device": turns.torch_device(), "dtype": getattr(torch, low)}
    kernel = torch.tensor(np.ascontiguousarray(joined), **on).requires_grad_()
    bias = torch.tensor(weights["bias"], **on).requires_grad_()
    given = [torch.tensor(np.ascontiguousarray(x.transpose(0, 1, 4, 2, 3)), **on) for x in inputs]

    def call(index: int) -> None:
        x = given[index % len(given)]
        kernel.grad = bias.grad = None
        h = c = x.new_zeros(len(x), units, *x.shape[3:])
        if hoisted:
            wide = conv2d(x.flatten(0, 1), kernel[:, :features], bias, padding=edge)
            parts = wide.unflatten(0, x.shape[:2]).unbind(1)
        else:
            parts = x.unbind(1)
        for each in parts:
            if hoisted:
                gates = each + conv2d(h, kernel[:, features:], padding=edge)
            else:
                gates = conv2d(torch.cat([each, h], 1), kernel, bias, padding=edge)
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        (h.float() ** 2).mean().backward()

    def result(_: Any) -> dict[str, np.ndarray]:
        both = kernel.grad.float().cpu().numpy().transpose(2, 3, 1, 0)
        return harness.flat(
            {
                "input_kernel": both[:, :, :features],
                "recurrent_kernel": both[:, :, features:],
                "bias": bias.grad.float().cpu().numpy(),
            }
        )

    return harness.torch_side(call, result)


def candidates(record: Record) -> None:
    """Time the kernel with its work cut in several ways, for one large model and for groups."""
    sizes = [("lstm", 1, 4, 5, 16), ("gru", 3, 4, 5, 16)]
    if not record.tiny:
        sizes = [
            ("lstm", 1, 128, 120, 512),
            ("gru", 1, 128, 120, 512),
            ("lstm", 1, 50, 30, 200),
            ("lstm", 16, 50, 30, 200),
            ("lstm", 64, 50, 30, 200),
            ("gru", 16, 50, 30, 200),
        ]
    for kind, trials, clips, frames, units in sizes:
        for precision in ("tf32", "bfloat16", "float32"):
            if record.wants(kind, precision, trials):
                cut(record, kind, (trials, clips, frames, units), precision)


def ways(trials: int, clips: int, units: int) -> dict[str, fused.Blocks]:
    """Return ways to cut the kernel's work; the rule's own is first."""
    own = fused.blocks_for(trials, clips, units, fused.processors(), fused.is_exact())
    found = {"rule": own}
    if not harness.on_gpu():
        return found
    if not fused.is_exact():
        found["double inner"] = own._replace(inner=2 * own.inner, stages=2)
        found["half inner"] = own._replace(inner=own.inner // 2, stages=4)
    found["8 warps"] = own._replace(warps=8)
    found["half the slices"] = own._replace(slices=max(1, own.slices // 2))
    found["one slice"] = own._replace(slices=1)
    return found


def cut(record: Record, kind: str, sizes: tuple, precision: str) -> None:
    """Compare and time the recurrence alone (projected inputs given) for a group of trials."""
    trials, clips, frames, units = sizes
    work = f"{kind.upper()} recurrence, {trials} trials of {clips}x{frames}, {units} units"
    gates = KINDS[kind].gates
    rng = np.random.default_rng(0)
    low = "bfloat16" if precision == "bfloat16" else "float32"
    cell = KINDS[kind](units=units, dtype=low)
    inputs = [
        jnp.asarray(rng.standard_normal((trials, clips, frames, gates * units), np.float32))
        for _ in range(2)
    ]
    weights = {
        "recurrent_kernel": jnp.asarray(
            rng.uniform(-1, 1, (trials, units, gates * units)).astype(np.float32) / units**0.5
        )
    }
    if kind == "gru":
        weights["recurrent_bias"] = jnp.zeros((trials, gates * units))

    def step(blocks: Any, form: str) -> Any:
        def loss(weights: Any, x_BTG: jax.Array) -> jax.Array:
            carry = cell.initialize_carry((clips,), jnp.float32)
            if form == "kernel":
                y, _ = fused.scan_cell(cell, weights, x_BTG, None, carry, blocks=blocks)
            else:
                y, _ = recurrence.scan_time(cell, weights, x_BTG, None, carry)
            return jnp.mean(y[:, -1] ** 2)

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))

    def side(blocks: Any, form: str) -> Side:
        compiled = step(blocks, form)

        def call(index: int) -> Any:
            with recurrence.scan_form("loop" if form == "kernel" else form):
                return compiled(weights, inputs[index % 2])

        return harness.jax_side(call)

    with harness.precision_of("float32"):
        exact = KINDS[kind](units=units)
        cell, kept = exact, cell
        truth = harness.flat(side(None, "loop").run(0))
        cell = kept
    with harness.precision_of(precision):
        sides = {"loop": side(None, "loop"), "unroll8": side(None, "unroll8")}
        for name, blocks in ways(trials, clips, units).items():
            sides[f"kernel, {name} {tuple(blocks)}"] = side(blocks, "kernel")
        right = harness.compare(record, work, precision, sides, truth)
        if right:
            harness.timed(record, work, right, precision=precision)


def compiled(record: Record) -> None:
    """Time PyTorch's compiled layers, which take a minute to compile."""
    if not harness.has_torch():
        record.row("compiled PyTorch", note="no PyTorch here")
        return
    for kind, sizes in shapes(record.tiny).items():
        clips, frames, features, units = sizes[0]
        work = f"{kind.upper()} step {clips}x{frames}x{features} to {units}"
        rng = np.random.default_rng(0)
        inputs = [rng.standard_normal((clips, frames, features), np.float32) for _ in range(SETS)]
        bias = "double" if kind == "lstm" else "single"
        scanner = scanners.Recurrent(KINDS[kind](units=units, bias=bias, init="torch"))
        params = scanner.init(jax.random.key(0), jnp.asarray(inputs[0][:1, :1]))["params"]
        with record.part(work, "torch compiled"), harness.precision_of("tf32"):
            plain = in_torch(kind, scanner, "tf32", params, inputs)
            plain.wait(plain.run(0))
            sides = {
                "torch compiled": in_torch(kind, scanner, "tf32", params, inputs, compiled=True)
            }
            right = harness.compare(record, work, "tf32", sides, plain.result(None))
            if right:
                harness.timed(record, work, right, precision="tf32")
