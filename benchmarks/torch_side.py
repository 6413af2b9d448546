"""The peer: the same three-branch model in idiomatic torch, with transformers' CLIPModel.

SDPA attention, fused AdamW, autocast to bf16, optional torch.compile; the same fusion block, heads, losses,
clipping, learning rates, decay and parameters as ours. It leaves out what ours computes only to report: branch
3 without the image, the accuracies.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.process import (
    Job,
    best_rate,
    draw_batch,
    draw_parameters,
    process_peak,
    reset_peak,
)
from jax_vlffd.config import LossConfig, ModelConfig
from jax_vlffd.losses import MAX_LOGIT_SCALE


class Attention(nn.Module):
    """Attention of image tokens over text tokens."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(context, width), nn.Linear(context, width)
        self.heads = heads

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Maps [B, N, D], [B, T, C] and a mask [B, T] to [B, N, D]."""

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(context)), split(self.value(context)),
            attn_mask=mask[:, None, None, :],
        )  # fmt: skip
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class Fusion(nn.Module):
    """Branch 3's block, with our parameter names."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        vision, text = config.clip.vision, config.clip.text
        width, eps = vision.width, vision.layernorm_eps
        self.layernorm1 = nn.LayerNorm(width, eps)
        self.layernorm2 = nn.LayerNorm(width, eps)
        self.layernorm3 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, text.width, config.fusion_heads)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(width, config.fusion_mlp_width),
                "fc2": nn.Linear(config.fusion_mlp_width, width),
            }
        )
        self.activation = vision.activation

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Maps image tokens, text tokens and the words' mask to the pooled [B, D]."""
        from transformers.activations import ACT2FN

        x = x + self.attention(self.layernorm1(x), words, mask)
        act = ACT2FN[self.activation]
        x = x + self.mlp["fc2"](act(self.mlp["fc1"](self.layernorm2(x))))
        pooled: Tensor = self.layernorm3(x).mean(dim=1)
        return pooled


class Model(nn.Module):
    """CLIPModel, the fusion block and the heads."""

    def __init__(self, config: ModelConfig, loss: LossConfig, dtype: torch.dtype):
        from transformers import CLIPConfig, CLIPModel

        from jax_vlffd.clip.huggingface_config import clip_to_hf

        super().__init__()
        values: Any = clip_to_hf(config.clip) | {"attn_implementation": "sdpa"}
        self.clip = CLIPModel(CLIPConfig(**values))
        self.fusion = Fusion(config)
        self.image_head = nn.Linear(config.clip.vision.width, 2)
        self.fusion_head = nn.Linear(config.clip.vision.width, 2)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(config.image_mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(config.image_std).view(3, 1, 1))
        self.weights, self.eos, self.compute = loss, config.clip.text.eos_id, dtype

    def _autocast(self) -> Any:
        if self.compute == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.mean.device.type, self.compute)

    def image(self, images: Tensor) -> Tensor:
        """Image tokens [B, N, D] of uint8 images [B, H, W, 3]; the first is the class token's."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        with self._autocast():
            vision = self.clip.vision_model
            tokens: Tensor = vision.post_layernorm(vision(pixel_values=pixels).last_hidden_state)
            return tokens

    def detect(self, images: Tensor) -> Tensor:
        """Branch 1's logits [B, 2]; the last LayerNorm on the class token alone, as CLIPModel has it."""
        pixels = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        with self._autocast():
            pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        logits: Tensor = self.image_head(pooled.float())
        return logits

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The sum of the three losses, multi-positive targets."""
        weights, labels, ids = self.weights, batch["label"].long(), batch["tokens"].long()
        image_tokens = self.image(batch["image"])
        pooled = image_tokens[:, 0].float()
        total = weights.image * F.cross_entropy(self.image_head(pooled), labels)
        if not weights.uses_text:
            return total
        with self._autocast():
            words = self.clip.text_model(input_ids=ids).last_hidden_state
        end = (ids == self.eos).int().argmax(dim=1)
        if weights.alignment > 0:
            pooled_text = words[torch.arange(len(ids), device=ids.device), end].float()
            image = F.normalize(self.clip.visual_projection(pooled), dim=-1)
            text = F.normalize(self.clip.text_projection(pooled_text), dim=-1)
            keys = batch["caption_key"]
            positive = (keys[:, None] == keys[None, :]).float()
            share = positive / positive.sum(dim=1, keepdim=True)
            logits = self.clip.logit_scale.exp() * image @ text.T
            both = F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)
            total = total + weights.alignment * 0.5 * both
        if weights.fusion > 0:
            mask = torch.arange(ids.shape[1], device=ids.device)[None, :] <= end[:, None]
            with self._autocast():
                fused = self.fusion(image_tokens, words, mask)
            total = total + weights.fusion * F.cross_entropy(
                self.fusion_head(fused.float()), labels
            )
        return total


def _load(model: Model, values: dict[str, np.ndarray], config: ModelConfig) -> None:
    """Loads our parameters into the peer; checks that all of its parameters are set."""
    from jax_vlffd.clip.huggingface import to_hf

    named = {f"clip.{key}": value for key, value in to_hf(values, config.clip).items()}
    for path, value in values.items():
        if path.split("/")[0] in ("fusion", "image_head", "fusion_head"):
            named[path.replace("/", ".").replace(".scale", ".weight")] = value
    state = {key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in named.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    required = {name for name, _ in model.named_parameters()}
    unfilled = required & set(missing)
    assert not unexpected, unexpected
    assert not unfilled, unfilled


def _groups(model: Model, job: Job) -> list[dict[str, Any]]:
    """Parameter groups with learning rate and decay by our rules; freezes the others."""
    from jax_vlffd.clip.huggingface import CLIP_TABLE
    from jax_vlffd.model import graph_and_shapes
    from jax_vlffd.training import parameter_rules

    matched = parameter_rules.match_rules(graph_and_shapes(job.run.model)[1])
    trainable = parameter_rules.trainable_paths(
        matched, vision=job.run.tuning.vision, text=job.run.tuning.text
    )
    peer_names = {ours: f"clip.{key}" for ours, key in CLIP_TABLE}
    layers = max(job.run.model.clip.vision.layers, job.run.model.clip.text.layers)
    path_of: dict[str, str] = {}
    for path in matched:
        key = peer_names.get(path, path.replace("/", ".").replace(".scale", ".weight"))
        path_of |= {key.format(n): path for n in range(layers)} if "{}" in key else {key: path}
    optim = job.run.optim
    scales = {
        "vision": optim.vision_scale, "text": optim.text_scale, "head": optim.head_scale,
    }  # fmt: skip
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        path = path_of[name]
        parameter.requires_grad_(path in trainable)
        rule = matched[path]
        group = (optim.learning_rate * scales[rule.part], optim.weight_decay if rule.decay else 0.0)
        if path in trainable:
            groups.setdefault(group, []).append(parameter)
    return [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()]


class Peer:
    """Runs one of the peer's steps; a `process.Side`."""

    def __init__(self, job: Job):
        # Torch has the device; JAX only gives names and shapes.
        jax.config.update("jax_platforms", "cpu")
        config = job.run.model
        self._job = job
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        dtype = torch.float32 if config.compute.dtype == "float32" else torch.bfloat16
        model = Model(config, job.run.loss, dtype)
        _load(model, draw_parameters(config), config)
        self._model = model.to(self._device).train()
        names = ["image"]
        if job.task == "train":
            optim = job.run.optim
            self._optimizer = torch.optim.AdamW(
                _groups(self._model, job), betas=(optim.b1, optim.b2), eps=optim.eps, fused=True
            )
            names += ["label", "tokens", "caption_key"]
        batch = draw_batch(config, job.batch_size)
        self._batch = {name: torch.from_numpy(batch[name]) for name in names}
        if self._device.type == "cuda":
            self._batch = {name: value.pin_memory() for name, value in self._batch.items()}
        calls: dict[str, Any] = {
            "train": self._model,
            "tower": self._tower,
            "detect": self._model.detect,
        }
        self._call: Any = torch.compile(calls[job.task]) if job.peer_compile else calls[job.task]
        start = time.perf_counter()
        if job.peer_compile:  # the first call compiles; it takes no optimizer step
            self._forward_backward()
        self._compile_s = time.perf_counter() - start
        reset_peak()

    def describe(self) -> dict[str, Any]:
        """See `process.Side`."""
        cuda = self._device.type == "cuda"
        return {
            "name": f"torch {torch.__version__}" + (" compiled" if self._job.peer_compile else ""),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "platform": self._device.type,
            "compile_s": round(self._compile_s, 2),
            "trainable": sum(p.numel() for p in self._model.parameters() if p.requires_grad),
        }

    def check(self) -> dict[str, float]:
        """See `process.Side`; the same values as ours."""
        if self._job.task == "detect":
            return {"output": float(self._once().abs().sum())}
        if self._job.task == "tower":
            value = self._once()
            norms = [
                p.grad.norm() for p in self._model.clip.vision_model.parameters()
                if p.grad is not None
            ]  # fmt: skip
            return {"loss": float(value), "gradient_norm": float(torch.stack(norms).norm())}
        checked = {}
        for number in (1, 2):
            loss, norm = self._once()
            checked[f"loss_{number}"], checked[f"gradient_norm_{number}"] = float(loss), float(norm)
        return checked

    def run(self, steps: int) -> list[float]:
        """See `process.Side`."""
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            self._once()
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds

    def _tower(self, images: Tensor) -> Tensor:
        return self._model.image(images)[:, 0].float().square().mean()

    def _forward_backward(self) -> Any:
        batch = {n: v.to(self._device, non_blocking=True) for n, v in self._batch.items()}
        if self._job.task == "detect":
            with torch.inference_mode():
                return self._call(batch["image"])
        self._model.zero_grad(set_to_none=True)
        loss = self._call(batch if self._job.task == "train" else batch["image"])
        loss.backward()
        return loss.detach()

    def _once(self) -> Any:
        out = self._forward_backward()
        if self._job.task != "train":
            return out
        clip = self._job.run.optim.clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), clip)
        self._optimizer.step()
        with torch.no_grad():
            self._model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return out, norm

    def peak(self) -> dict[str, float]:
        """See `process.Side`."""
        if self._device.type == "cuda":
            return {"device_bytes": float(torch.cuda.max_memory_allocated())}
        return {"process_bytes": process_peak()}

    def matmul(self) -> float:
        """See `process.Side`."""
        exact = self._job.run.model.compute.dtype == "float32"
        size = 2048 if self._device.type == "cpu" else 8192
        dtype = torch.float32 if exact else torch.bfloat16
        left, right = torch.ones((2, size, size), dtype=dtype, device=self._device)

        def once() -> None:
            left @ right
            if self._device.type == "cuda":
                torch.cuda.synchronize()

        return best_rate(once, 2.0 * size**3)
