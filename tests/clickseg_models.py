"""Small checkpoints for the tests of prediction, evaluation and container: tiny, untrained, from a seed."""

from clickseg.model.checkpoint import save_checkpoint
from clickseg.model.network import make_model
from clickseg.training_settings import ModelSettings, StoreRules, TrainSettings


def write_model(
    path, *, patch=(16, 16, 16), bias=0.0, spacing=(8.0, 8.0, 8.0), seed=3, digest="none", fold=0, folds=None
):
    """A checkpoint of an untrained model; the bias says how much of everything it takes for lesion."""
    settings = ModelSettings(size="tiny", patch=patch, head_bias=bias)
    about = {
        "model": settings.plain(), "train": TrainSettings(fold=fold).plain(), "step": 0, "catalog_digest": digest,
        "folds": folds or {"plan": "", "digest": "none"},
        "rules": StoreRules(spacing_mm=spacing).plain(),
        "sources": [{"source": "fdat", "release": "1", "licence": "CC BY 4.0", "citation": "nobody"}],
    }  # fmt: skip
    save_checkpoint(path, {"network": make_model(settings, seed).weights()}, about)
    return path
