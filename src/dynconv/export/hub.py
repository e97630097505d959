"""Sharing a trained network: a folder with weights, configuration and card, here or on the Hugging Face Hub.

Needs the extra `hub`: pip install 'dynconv[hub]'.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError("dynconv.export.hub needs huggingface_hub: pip install 'dynconv[hub]'") from error

from dynconv.artifacts.files import write_atomically
from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.weights import save_weights
from dynconv.inference.predictor import Classifier
from dynconv.model.describe import headline

WEIGHTS = "model.safetensors"  # the name that the Hub shows the parameters of
CONFIG = "config.json"  # and the one whose downloads it counts

RESULTS = {"test_accuracy": "test accuracy", "test_accuracy_tta": "with test-time augmentation"}

CARD = """---
{metadata}
---

# {preset}: an image classifier with dynamic convolutions

Each layer holds K convolutions, the experts, and mixes them anew for every image. Trained by dynconv {version} on the
data set {data}.

| | |
|---|---|
| architecture | {architecture} |
| input | RGB, 32x32 pixels, 0 to 255; the preprocessing is part of the network |
| classes | {classes} |
| recipe | preset {preset}, {epochs} epochs, seed {seed}; every hyper-parameter is in `config.json` |
{results}
With dynconv and its extra `hub` (`pip install 'dynconv[hub]'`):

```python
from dynconv.export.hub import HubClassifier

classifier = HubClassifier.from_pretrained("{name}"){where}
classifier.predict("photo.jpg").label
```

It gives one of its {count} classes to whatever it is shown. Not for decisions about people or safety.
"""


class HubClassifier(Classifier, ModelHubMixin):
    """A `Classifier` with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    HubClassifier.load("runs/...").push_to_hub("user/name")
    HubClassifier.from_pretrained("user/name").predict("photo.jpg").label

    What the Hub itself answers, such as that there is no such repository, is raised as huggingface_hub's own error.

    Attributes:
        results: accuracies on the test images, 0..1, where a run says them: test_accuracy, test_accuracy_tta.
    """

    results: dict[str, float]
    _hub_mixin_config: dict[str, Any] | None = {}  # noqa: RUF012, so that the mixin makes none of __init__'s arguments

    @classmethod
    def load(cls, run_or_weights: str | Path = "standard", device: str = "auto") -> Self:
        """As `Classifier.load`, with the run's results."""
        classifier = super().load(run_or_weights, device)
        summary = RunDir.open(Path(run_or_weights)).summary() if Path(run_or_weights).is_dir() else None
        classifier.results = {name: summary[name] for name in RESULTS if summary and summary.get(name) is not None}
        return classifier

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads weights, configuration and card; makes the repository where there is none.

        Args:
            repo_id: "user/name".
            options: private, token, branch, commit_message and others, as `ModelHubMixin.push_to_hub`.

        Returns:
            The commit's address.
        """
        url: str = super().push_to_hub(repo_id, model_card_kwargs={"repo_id": repo_id}, **options)
        return url

    def generate_model_card(self, repo_id: str | None = None) -> ModelCard:
        """The card, filled in. Its licence is the owner's to add."""
        metadata = ModelCardData(
            library_name="dynconv",
            pipeline_tag="image-classification",
            tags=["dynamic-convolution", "conditional-convolution"],
            datasets=["uoft-cs/cifar10"] if self.data_name == "cifar10" else None,
        )
        text = CARD.format(
            metadata=metadata.to_yaml(),
            preset=self.config.preset,
            version=version("dynconv"),
            data=self.data_name,
            architecture=headline(self.config, len(self.classes)),
            classes=", ".join(self.classes).replace("|", "\\|"),
            epochs=self.config.epochs,
            seed=self.config.seed,
            results="".join(f"| {RESULTS[name]} | {value:.2%} |\n" for name, value in self.results.items()),
            name=repo_id or ".",
            where="" if repo_id else "  # in this folder",
            count=len(self.classes),
        )
        return ModelCard(text)

    def _save_pretrained(self, save_directory: Path) -> None:
        # Where the run and its images lay is of no use to others.
        source = self.config.data.source if self.config.data.source in ("cifar10", "shapes") else "auto"
        data = self.config.data.model_copy(update={"source": source})
        config = self.config.model_copy(update={"data": data, "run": None})
        save_weights(save_directory / WEIGHTS, self.net.state_dict(), config, self.classes, self.data_name)
        shown = {"classes": self.classes, "data": self.data_name, "results": self.results}
        text = json.dumps(shown | {"run": config.model_dump(mode="json")}, indent=2) + "\n"
        write_atomically(save_directory / CONFIG, lambda file: file.write_text(text))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: dict[str, Any] | None = None, device: str = "auto", **options: Any
    ) -> Self:
        folder = Path(model_id)
        file = folder / WEIGHTS if folder.is_dir() else hf_hub_download(model_id, WEIGHTS, **options)
        classifier = cls.load(file, device)
        classifier.results = (config or {}).get("results", {})
        return classifier
