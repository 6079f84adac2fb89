"""Build one optax chain: L2, clip, optimiser, schedule.

The numbers of the chain may be traced. Trials that differ only in these numbers then share a
compiled program.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import optax
from jax import Array

from vidrec import config
from vidrec.errors import UserError

# The step schedule multiplies the rate by STEP_FACTOR at these shares of the updates.
STEPS_AT = (0.5, 0.75)
STEP_FACTOR = 0.1


def build(
    cfg: config.Optim,
    hyper: Mapping[str, Array | float],
    updates_per_epoch: int,
    epochs: Array | int,
) -> optax.GradientTransformation:
    """Return the gradient transformation of one trial; call it inside the traced step.

    L2 is added to the gradient before clipping, so clipping limits the decay too. Decoupled decay
    follows the optimiser, scaled by the learning rate only. Which arrays the state holds depends on
    `cfg` only, never on a traced number.

    Args:
      cfg: settings that are equal for all trials of a group.
      hyper: the traced numbers by dotted name: optim.learning_rate, optim.momentum,
        optim.b1, optim.b2, optim.weight_decay, optim.clip_norm (0: off).
      updates_per_epoch: largest number of updates in an epoch; the schedule counts those made.
      epochs: length of the schedule; may be traced.
    """
    decay = optax.add_decayed_weights(hyper["optim.weight_decay"])
    return optax.chain(
        optax.identity() if cfg.decoupled else decay,
        _clip(cfg, hyper["optim.clip_norm"]),
        _optimiser(cfg, hyper, decay),
        optax.scale_by_schedule(_schedule(cfg, updates_per_epoch, epochs)),
    )


def _clip(cfg: config.Optim, norm: Array | float) -> optax.GradientTransformation:
    if cfg.clip_mode == "preactivation":  # the scanner clips derivatives where they arise
        return optax.identity()
    return optax.clip_by_global_norm(jnp.where(jnp.asarray(norm) > 0, norm, jnp.inf))


def _optimiser(
    cfg: config.Optim,
    hyper: Mapping[str, Array | float],
    decay: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Return the transformation from gradient to update, including sign and learning rate."""
    if ".py:" in cfg.kind:
        if cfg.decoupled:
            raise UserError(f"optim.decoupled: {cfg.kind} has to include its own decay")
        return config.load_user(cfg.kind)(cfg, hyper)
    rule = {
        "sgd": optax.identity,
        "momentum": lambda: optax.trace(hyper["optim.momentum"]),
        "adam": lambda: optax.scale_by_adam(
            b1=hyper["optim.b1"], b2=hyper["optim.b2"], eps=cfg.epsilon
        ),
        # Chainer's and PyTorch's RMSProp add epsilon outside the root.
        "rmsprop": lambda: optax.scale_by_rms(cfg.rms_decay, cfg.epsilon, eps_in_sqrt=False),
    }[cfg.kind]()
    rate = optax.scale_by_learning_rate(hyper["optim.learning_rate"])
    return optax.chain(rule, decay, rate) if cfg.decoupled else optax.chain(rule, rate)


def _schedule(cfg: config.Optim, updates_per_epoch: int, epochs: Array | int) -> optax.Schedule:
    """Return the factor on the learning rate by update: a linear warm-up, then the schedule."""
    warm = cfg.warmup_epochs * updates_per_epoch
    # optax's decays need a static end; time from 0 to 1 lets the number of epochs be traced.
    after = {
        "constant": optax.constant_schedule(1.0),
        "cosine": optax.cosine_decay_schedule(1.0, decay_steps=1),
        "step": optax.piecewise_constant_schedule(1.0, dict.fromkeys(STEPS_AT, STEP_FACTOR)),
    }[cfg.schedule]

    def factor(count: Array) -> Array:
        updates = jnp.maximum(epochs * updates_per_epoch - warm, 1)
        rate = after(jnp.maximum(count - warm, 0) / updates)
        return jnp.minimum(rate, (count + 1) / warm) if warm else rate

    return factor
