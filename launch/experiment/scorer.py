"""Scores packed sets by a run's image branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.loading.loader import EvalLoader
from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.scores import Scores
from launch.cli.progress import note

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.state import TrainPlan

Transform = Callable[[np.ndarray], np.ndarray]


class Scorer:
    """Scores packed sets by the image branch; compiles once. All processes must call it.

    Args:
      plan: of the run.
      data: batch size, workers.
      tokenizer: of the run.
    """

    def __init__(self, plan: TrainPlan, data: DataSettings, tokenizer: Tokenizer):
        from jax_vlffd.training.step import make_eval_step

        self.plan, self.tokenizer, self._data = plan, tokenizer, data
        self._step = make_eval_step(plan)
        self._reported: set[str] = set()
        self._known: dict[tuple[str, str], tuple[bytes, dict[str, np.ndarray]]] = {}

    def score(
        self,
        parameters: Parameters,
        folder: str | Path,
        split: str,
        transform: Transform | None = None,
        methods: Sequence[str] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> Scores:
        """Scores every record of a split once, without padding and images that cannot be decoded.

        Args:
          parameters: in the plan's shardings.
          folder: of the packed set.
          split: of it.
          transform: applied to the model's view of each image, uint8 [S, S, 3].
          methods: of the fakes that are scored, beside all reals; all when empty.
          tick: called before each batch; may raise.

        Raises:
          UserError: the set or the split is missing or empty, lacks one of the methods, or no image of it can
            be decoded.
        """
        from jax_vlffd.evaluation.calibration import sigmoid
        from jax_vlffd.training.loop import evaluate
        from jax_vlffd.training.sharding import data_share

        clip, data = self.plan.spec.model.clip, self._data
        index, count = data_share(self.plan.mesh)
        loader = EvalLoader(
            folder, split,
            image_size=clip.vision.image_size, tokenizer=self.tokenizer,
            text_length=clip.text.context_length, batch_size=data.batch_size,
            process_index=index, process_count=count,
            workers=data.workers, prefetch=data.prefetch, corrupt=transform, methods=methods,
            resize=self.plan.spec.model.resize,
            captions="label_only",  # the image branch reads none, so a set without captions works too
        )  # fmt: skip
        outputs = evaluate(self._step, parameters, iter(loader), self.plan, tick)
        self._report_undecoded(f"{folder} ({split})", loader.records, len(outputs["index"]))
        logits = outputs["logits"].astype(np.float64)
        margin = logits[:, 1] - logits[:, 0]
        return Scores(
            **self._columns(loader, folder, split, outputs["index"]),
            label=outputs["label"],
            probability=sigmoid(margin),
            logit=margin,
            embedding=outputs.get("embedding"),
        )

    def _columns(
        self, loader: EvalLoader, folder: str | Path, split: str, index: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What the records say of themselves; read once, for a run validates on the same ones often."""
        key = (str(folder), split)
        scored, columns = self._known.get(key, (b"", {}))
        if scored != index.tobytes():
            records = list(loader.metadata(index))
            columns = {
                name: np.array([getattr(r, name) for r in records], dtype=object)
                for name in ("dataset", "method", "video", "frame", "id")
            }
            columns["split"] = np.array([split] * len(records))
            columns["regions"] = np.array([r.regions for r in records])
            columns["caption"] = np.array([r.captions[0] if r.captions else "" for r in records])
            columns["types"] = np.array([r.types for r in records], dtype=bool)
            self._known[key] = (index.tobytes(), columns)
        return columns

    def _report_undecoded(self, name: str, records: int, scored: int) -> None:
        """Says once how many images cannot be decoded: whoever made the set could drop the hard ones."""
        import jax

        if not scored:
            raise UserError(
                f"{name}: no image can be decoded; pack the set again from sound images"
            )
        if scored < records and name not in self._reported and jax.process_index() == 0:
            note(
                f"note: {name}: {records - scored} of {records} images cannot be decoded and are left out"
            )
        self._reported.add(name)
