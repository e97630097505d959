"""Shares a trained network: a folder with weights, configuration and card, local or on the Hugging Face Hub.

Needs the extra `hub`: pip install 'dynconv[hub]'.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError("dynconv.export.hub needs huggingface_hub: pip install 'dynconv[hub]'") from error

from dynconv.artifacts.files import write_text
from dynconv.artifacts.found_weights import DEFAULT
from dynconv.artifacts.weights import Weights, save_weights
from dynconv.data.framing import HOW
from dynconv.inference.predictor import Predictor
from dynconv.model.describe import headline

WEIGHTS = "model.safetensors"  # the Hub shows the parameter count of a file with this name
CONFIG = "config.json"  # the Hub counts downloads of this file

RESULTS = {"test_accuracy": "test accuracy", "test_accuracy_tta": "with test-time augmentation"}

CARD = """---
{metadata}
---

# An image classifier with dynamic convolutions

Each layer has K convolutions, the experts, and mixes them for each image. Trained with dynconv on the data set {data}.

| | |
|---|---|
| architecture | {architecture} |
| input | RGB, {size}x{size} pixels ({fit}), 0 to 255; the normalisation is part of the network |
| classes | {classes} |
| provenance | {provenance}; the network is described in `config.json` |
{results}
With dynconv and its extra `hub` (`pip install 'dynconv[hub]'`):

```python
from dynconv.export.hub import HubPredictor

predictor = HubPredictor.from_pretrained("{name}"){where}
predictor.predict("photo.jpg").label
```

Every image gets one of the {count} classes, whatever it shows. Not for decisions about people or safety.
"""


class HubPredictor(Predictor, ModelHubMixin):
    """A `Predictor` with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    HubPredictor.load("runs/...").push_to_hub("user/name")
    HubPredictor.from_pretrained("user/name").predict("photo.jpg").label

    Errors of the Hub, such as a missing repository, are raised as huggingface_hub's own exceptions.

    Attributes:
        results: accuracies on the test images, 0..1, if the run has them: test_accuracy, test_accuracy_tta.
    """

    results: dict[str, float]
    _hub_mixin_config: dict[str, Any] | None = {}  # noqa: RUF012, or the mixin would make one of __init__'s arguments

    @classmethod
    def load(cls, run_or_weights: str | Path = DEFAULT, device: str = "auto") -> Self:
        """Loads as `Predictor.load` does, with the run's results."""
        predictor = super().load(run_or_weights, device)
        summary = predictor.run.summary() if predictor.run else None
        figures = summary.tree() if summary else {}
        predictor.results = {name: figures[name] for name in RESULTS if figures.get(name) is not None}
        return predictor

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads weights, configuration and card. Creates the repository if it does not exist.

        Args:
            repo_id: "user/name".
            options: private, token, branch, commit_message and others of `ModelHubMixin.push_to_hub`.

        Returns:
            The URL of the commit.
        """
        url: str = super().push_to_hub(repo_id, model_card_kwargs={"repo_id": repo_id}, **options)
        return url

    def generate_model_card(self, repo_id: str | None = None) -> ModelCard:
        """The model card, filled in except for the licence, which the owner must add."""
        metadata = ModelCardData(
            library_name="dynconv",
            pipeline_tag="image-classification",
            tags=["dynamic-convolution", "conditional-convolution"],
            datasets=["uoft-cs/cifar10"] if self.data_name == "cifar10" else None,
        )
        text = CARD.format(
            metadata=metadata.to_yaml(),
            data=self.data_name,
            architecture=headline(self.model, len(self.classes), self.frame.size),
            size=self.frame.size,
            fit=HOW[self.frame.fit],
            classes=", ".join(self.classes).replace("|", "\\|"),
            provenance=self.provenance.replace("|", "\\|") or "unknown",
            results="".join(f"| {RESULTS[name]} | {value:.2%} |\n" for name, value in self.results.items()),
            name=repo_id or ".",
            where="" if repo_id else "  # in this folder",
            count=len(self.classes),
        )
        return ModelCard(text)

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = Weights(
            self.net.state_dict(), self.model, self.classes, self.data_name, self.provenance, self.configured_precision,
            self.frame,
        )  # fmt: skip
        save_weights(save_directory / WEIGHTS, weights)
        about = {
            "classes": self.classes,
            "data": self.data_name,
            "results": self.results,
            "model": self.model.model_dump(mode="json"),
            "provenance": self.provenance,
        }
        text = json.dumps(about, indent=2) + "\n"
        write_text(save_directory / CONFIG, text)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict[str, Any] | None = None, device: str = "auto", **options: Any
    ) -> Self:
        folder = Path(model_id)
        file = folder / WEIGHTS if folder.is_dir() else hf_hub_download(model_id, WEIGHTS, **options)
        predictor = cls.load(file, device)
        predictor.results = (config or {}).get("results", {})
        return predictor
