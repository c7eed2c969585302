"""Models of Hugging Face's hub, by the mixin of its own library: `pip install '.[hub]'` in a clone of alexnet.

from alexnet.hub import AlexNet

AlexNet.of(alexnet.load("RUN")).push_to_hub("me/alexnet")
net = AlexNet.from_pretrained("me/alexnet")  # or a folder; net.whole.predict("cat.jpg")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alexnet.base import hints
from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess
from alexnet.engines.loading import OF_OTHERS, load_classifier
from alexnet.inference.loaded import Loaded
from alexnet.networks import model
from alexnet.networks import variants as v
from alexnet.weights import huggingface
from alexnet.weights.classifier import Classifier, weights_of

try:
    from huggingface_hub import PyTorchModelHubMixin, snapshot_download
except ImportError:
    raise AlexNetError(
        "alexnet.hub needs huggingface_hub, which is not installed: in a clone of alexnet, pip install '.[hub]'."
    ) from None


class AlexNet(model.AlexNet, PyTorchModelHubMixin, library_name="alexnet", pipeline_tag="image-classification"):
    """A network that can be saved to the hub and loaded from it, with its preprocessing and class names."""

    preprocess: Preprocess
    class_names: list[str]
    origin: str
    trained: dict[str, Any]
    naming: str

    @classmethod
    def of(cls, one: Classifier) -> AlexNet:
        """The same network, which shares its weights with the classifier's."""
        old, tensors = one.model, weights_of(one).tensors
        net = cls(v.variant(old.variant.name), old.classes, old.channels, old.input, old.changes)
        net.load_state_dict(tensors, assign=True)
        net.preprocess, net.class_names, net.origin = one.preprocess, one.classes, one.origin
        net.trained, net.naming = one.trained, one.naming
        net.pretrained_cfg = old.pretrained_cfg
        return net.eval()

    @property
    def whole(self) -> Loaded:
        """The classifier: preprocessing, network and names."""
        return Loaded(self, self.preprocess, self.class_names, self.origin, trained=self.trained, naming=self.naming)

    def _save_pretrained(self, save_directory: Path) -> None:
        huggingface.write(weights_of(self.whole), save_directory, replace=True)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, map_location: str = "cpu", **given: Any,
    ) -> AlexNet:  # fmt: skip
        place: str = model_id
        if not Path(model_id).exists():
            files = [huggingface.CONFIG, huggingface.WEIGHTS, "*.safetensors", *OF_OTHERS]
            place = snapshot_download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token, allow_patterns=files,
            )  # fmt: skip
        said = {key: given[key] for key in hints.MEANINGS if given.get(key) is not None}
        return cls.of(load_classifier(place, map_location, **said))
