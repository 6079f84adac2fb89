"""Define a trained model as pure functions of its weights, for files, streams and exports.

Nothing is trained here. So even an encoder of frames that was trained with the scanner is applied
separately: each frame is encoded once, even if several windows contain it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vidrec.config import Config, override
from vidrec.errors import UserError
from vidrec.evaluation import decisions, tasks, views
from vidrec.evaluation.task import LossOptions, Task
from vidrec.models import encoders, model

Tree = Any


@dataclass(frozen=True)
class Network:
    """The functions from frames to features to class scores; most take `variables` first.

    Attributes:
        cfg: settings; frames.length is that of training (two rules take it from the data).
        encoder: network from a frame to features; None if the data are features, or if `model`
            contains an encoder of whole clips.
        model: network from features, or from clips of frames, to scores.
        class_weights: factors of clips' losses by class, as in training; empty: all are 1.
        variables: trees "encoder" and "model" of Flax variables, and "projection" (mean, matrix).
    """

    cfg: Config
    encoder: nn.Module | None
    model: model.VideoModel
    variables: Tree
    class_weights: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        cfg: Config,
        length: int,
        classes: int,
        tree: Mapping[str, Any],
        class_weights: Sequence[float] = (),
    ) -> "Network":
        """Return the network of a trained model's saved arrays."""
        cfg = override(cfg, {"frames.length": length})
        constants = tree.get("constants", {})
        saved = constants | {
            "params": encoders.merge(tree.get("fixed", {}), tree.get("trained", {})),
            # Trained values replace initial ones.
            "batch_stats": encoders.merge(constants.get("batch_stats", {}), tree.get("stats", {})),
        }
        own = {name: part["encoder"] for name, part in saved.items() if "encoder" in part}
        encoder = encoders.build(cfg.encoder) if own or "encoder" in tree else None
        inside = encoder if own and encoder is not None and encoder.takes_clips else None
        variables = {"model": saved, "projection": tree.get("projection", {})}
        if encoder is not None and not inside:
            variables["encoder"] = tree.get("encoder") or own
            variables["model"] = {name: _without_encoder(part) for name, part in saved.items()}
        built = model.build(cfg, classes, encoder=inside)
        on_host = isinstance(encoder, encoders.HostEncoder)
        kept = {"encoder": variables.pop("encoder")} if on_host else {}
        variables = jax.device_put(jax.tree.map(jnp.asarray, variables)) | kept
        return cls(cfg, None if inside else encoder, built, variables, tuple(class_weights))

    @property
    def task(self) -> Task:
        """Return the task of the model."""
        return tasks.of(self.cfg)

    @property
    def takes_features(self) -> bool:
        """Return whether the model takes features made elsewhere, not frames."""
        return self.encoder is None and self.model.encoder is None

    @property
    def precision(self) -> str:
        """Return the type of features; those of a trained encoder are not rounded."""
        return self.cfg.encoder.store_dtype if self.cfg.encoder.trainable == "none" else "float32"

    @property
    def whole_clips(self) -> bool:
        """Return whether a clip must have the trained length."""
        return self.model.encoder is not None or self.cfg.head.kind == "flatten"

    def encode(self, variables: Tree, frames: Array) -> Array:
        """Return the scanner's inputs, (N, D…), for frames (N, H, W, C) or features."""
        x: Any = frames
        if self.encoder is not None:
            x = self.encoder.apply(variables["encoder"], x)
            x = x.astype(self.precision)  # as stored features were rounded
        return self._projected(variables, x)

    def encoder_of_streams(self) -> Callable[[Tree, Any], Array]:
        """Return `encode` compiled; an encoder that runs on the host is called outside of it."""
        if not isinstance(self.encoder, encoders.HostEncoder):
            return jax.jit(self.encode)
        extract = self.encoder.extractor(self.variables["encoder"], 1)
        projected = jax.jit(self._projected)

        def encode(variables: Tree, frames: Any) -> Array:
            features = jnp.asarray(extract(np.asarray(frames))).astype(self.precision)
            return projected({"projection": variables["projection"]}, features)

        return encode

    def _projected(self, variables: Tree, x: Any) -> Array:
        """Return the scanner's inputs for features: projected if the model was trained so."""
        if projection := variables["projection"]:
            x = x.astype(jnp.float32)
            mean = projection["mean"].reshape((1,) * (x.ndim - 1) + (-1,))
            x = jnp.matmul(x - mean, projection["matrix"], precision=lax.Precision.HIGHEST)
        return x

    def score(
        self, variables: Tree, inputs: Array, mask_BT: Array | None = None
    ) -> decisions.ClipScores:
        """Return the scores of clips from their encoded frames, (B, T, D…).

        With several views (`eval.views`), B counts the views of one clip.
        """
        outputs, mask_BT = self._outputs(variables, inputs, mask_BT)
        return self.task.scores(outputs, self.cfg.loss.kind, mask_BT)

    def label(
        self, variables: Tree, inputs: Array, mask_BT: Array, carry: Tree = None
    ) -> tuple[Tree, Array]:
        """Return the carry after these frames, and class probabilities of each, (B, T, K).

        Args:
            variables: variables of the model.
            inputs: encoded frames, (B, T, D…), see `encode`.
            mask_BT: False on padding, which does not change the carry.
            carry: the scanner's carry before the first frame; None: the clip begins here.
        """
        outputs = self._apply(variables, inputs, mask_BT, carry=carry)
        return outputs.carry, self.task.probabilities(outputs.logits)

    def evaluate(
        self, variables: Tree, inputs: Array, mask_BT: Array, labels_B: Array
    ) -> tuple[decisions.ClipScores, Array]:
        """Return the scores of clips, and their loss (B,) by `labels_B` as in training."""
        outputs, mask_BT = self._outputs(variables, inputs, mask_BT)
        settings = self.cfg.loss
        how = LossOptions(
            settings.kind,
            linear=float(settings.frame_weights == "linear"),
            length=self.cfg.frames.length,
            smoothing=settings.label_smoothing or None,
            class_weights=self.class_weights,
            smoothness=settings.smoothness,
            smoothness_limit=settings.smoothness_limit,
        )
        losses_B = self.task.loss(outputs, labels_B, mask_BT, how)
        return self.task.scores(outputs, settings.kind, mask_BT), losses_B

    def _outputs(self, variables: Tree, inputs: Array, mask_BT: Any) -> tuple[Array, Any]:
        """Return the head's outputs and their mask; several views are averaged."""
        outputs = self._apply(variables, inputs, mask_BT)[0]
        if self.cfg.eval.views == views.ONE:
            return outputs, mask_BT
        outputs = self.task.averaged(outputs[:, None], self.cfg.loss.kind)
        return outputs, None if mask_BT is None else mask_BT[:1]

    def _apply(self, variables: Tree, *args: Any, **more: Any) -> Any:
        return self.model.apply(variables["model"], *args, **more)

    def clip(self, variables: Tree, frames: Array) -> Array:
        """Return probabilities (K,) of one whole clip: frames (T, H, W, C), or features (T, D…)."""
        # Frames are encoded one by one under vmap: T may be symbolic, and layers may need to know
        # the size of their batch.
        inputs = jax.vmap(lambda frame: self._in_views(variables, frame))(frames)
        scores = self.score(variables, jnp.moveaxis(inputs, 1, 0))
        return self.task.probabilities(scores.scores_BK[0] / scores.weight_B[0])

    def _in_views(self, variables: Tree, frame: Array) -> Array:
        """Return the scanner's inputs for all views of a frame, (V, D…)."""
        if self.cfg.eval.views == views.ONE:
            return self.encode(variables, frame[None])
        return self.encode(variables, views.shown(frame, self.cfg.eval.views))

    def begin(self, inputs: Any) -> Tree:
        """Return the carry before the first frame.

        Args:
            inputs: inputs of one frame (1, D…), or their `jax.ShapeDtypeStruct`.
        """
        frame = jax.ShapeDtypeStruct((1, *inputs.shape), inputs.dtype)
        outputs = jax.eval_shape(
            lambda x: self.model.init_with_output(jax.random.key(0), x)[0], frame
        )
        averaged = outputs[0] if self.cfg.head.kind == "per_frame" else outputs[2]["head_read"]
        return {
            "scanner": model.initial_carry(self.model, frame),
            "mean": jnp.zeros(averaged.shape, jnp.promote_types(averaged.dtype, jnp.float32)),
            "count": jnp.zeros(()),
        }

    def step(self, variables: Tree, carry: Tree, inputs: Array) -> tuple[Tree, Array]:
        """Return the carry after one more frame's inputs (1, D…), and class probabilities (K,)."""
        frame = inputs[:, None]
        logits, scanner, taps = self._apply(variables, frame, carry=carry["scanner"])
        mean, count = carry["mean"], carry["count"] + 1
        # Running means, since sums over hours would exceed the precision of float32.
        if self.cfg.head.kind == "mean":
            mean = mean + (taps["head_read"] - mean) / count
            head = {"params": variables["model"]["params"]["head"]}
            logits, _ = self.model.head.apply(head, mean[:, None])
        elif self.cfg.head.kind == "per_frame":
            mean = self.task.updated_mean(mean, logits, count)
        carry = {"scanner": scanner, "mean": mean, "count": count}
        if self.cfg.head.kind == "per_frame":
            return carry, self.task.probabilities(mean.reshape(-1))
        scores = self.task.scores(logits.reshape(1, -1), self.cfg.loss.kind)
        return carry, self.task.probabilities(scores.scores_BK[0])

    def check_streams(self) -> None:
        """Raise a UserError that says why, if the model needs the whole clip at once."""
        cfg = self.cfg
        if cfg.eval.views != views.ONE:
            raise UserError(
                f"eval.views = {cfg.eval.views!r} averages several passes over a clip, and a "
                "stream has one; predict the file instead"
            )
        if self.model.encoder is not None:
            raise UserError(
                f"encoder.kind = {cfg.encoder.kind!r} reads a clip of {cfg.frames.length} frames "
                "at once, so this model cannot stream; predict the file instead"
            )
        if cfg.head.kind == "flatten":
            raise UserError(
                f"head.kind = 'flatten' reads the states of all {cfg.frames.length} frames side "
                "by side, so this model cannot stream; predict the file instead"
            )
        if cfg.frames.order != "kept":
            raise UserError(
                f"frames.order = {cfg.frames.order!r} is a control that picks frames of the whole "
                "clip, so this model cannot stream; predict the file instead"
            )
        if not self.model.streams and not cfg.scanner.causal:
            raise UserError(
                "scanner.causal = False: frames see those after them, which a stream has not seen "
                "yet; predict the file instead"
            )
        if not self.model.streams and cfg.scanner.bidirectional == "no":
            raise UserError(
                f"scanner.kind = {cfg.scanner.kind!r} does not say that it streams, so it reads "
                "the whole clip at once; predict the file instead"
            )
        if not self.model.streams:
            raise UserError(
                f"scanner.bidirectional = {cfg.scanner.bidirectional!r}: its second direction "
                "begins at a clip's last frame, which a stream has not seen yet; predict the file "
                "instead"
            )


def _without_encoder(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in tree.items() if name != "encoder"}
