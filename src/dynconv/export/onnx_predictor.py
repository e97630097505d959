"""A predictor that computes with onnxruntime, on the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from dynconv.artifacts.found_weights import DEFAULT
from dynconv.export import export, onnx_file, parity
from dynconv.inference.predictor import Predictor

logger = logging.getLogger(__name__)


class OnnxPredictor(Predictor):
    """`Predictor`, except that its logits are onnxruntime's, in float32. Loading it writes no file."""

    _run: parity.Runner

    @classmethod
    def load(cls, run_or_weights: str | Path = DEFAULT, device: str = "cpu") -> Self:
        """Loads the network, exports it, and compares both on images of noise.

        Args:
            device: where torch computes routing weights.

        Raises:
            DynconvError: as for `Predictor.load`; packages are missing, or the outputs are not the network's.
        """
        onnx_file.need()
        predictor = super().load(run_or_weights, device)
        logger.info("exporting the network for onnxruntime")
        size = predictor.frame.size
        shape, generator = (max(parity.BATCHES), 3, size, size), torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        predictor._run = onnx_file.runner(onnx_file.convert(export.trace(predictor.net, images, "nchw")))
        parity.compare(predictor._run, predictor, images)
        return predictor

    def logits(self, images_NCHW: Tensor, *, tta: bool = False) -> Tensor:
        """As `Predictor.logits`; with `tta`, torch computes them."""
        return super().logits(images_NCHW, tta=True) if tta else self._run(images_NCHW.contiguous())[0]
