"""Checkpoints: one safetensors file with the weights, the settings, the origin of the data and the training state.

A file is complete or missing. Any safetensors reader can read its metadata (JSON under `clickseg`) without Torch:
`model` and `train` settings, `rules` of the store, the catalog's digest, `sources` with licence and citation, step and
versions. Tensors are named `network.*` (the weights), `average.*` (their running mean, if there is one) and
`optimizer.*`. Nothing in it is pickled.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clickseg.model.network import Segmenter
from clickseg.training_settings import ModelSettings
from clicksim.errors import ClicksimError
from clicksim.files import make_folder, replacing

FORMAT = 1
KEY = "clickseg"


class CheckpointError(ClicksimError):
    """A checkpoint cannot be read or does not fit."""


def save_checkpoint(path: str | Path, tensors: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, Any]) -> None:
    """Write a checkpoint; the file is complete or missing.

    Args:
        path: The file; an existing file is replaced.
        tensors: Groups such as `network`, with their tensors by name.
        about: Metadata as plain data.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    flat = {
        f"{group}.{name}": t.detach().cpu().contiguous()
        for group, named in tensors.items()
        for name, t in named.items()
    }
    text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
    target = Path(path)
    make_folder(target.parent)
    with replacing(target) as temporary:
        try:
            save_file(flat, temporary, metadata={KEY: text})
        except SafetensorError as error:  # its message has the number of the system's error
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def checkpoint_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes that tensors take in a checkpoint."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def read_about(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, without its weights.

    Raises:
        CheckpointError: The file is not a clickseg checkpoint.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(KEY)
    if text is None:
        raise CheckpointError(f"{path} has tensors but is not a checkpoint of clickseg")
    about: dict[str, Any] = json.loads(text)
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path} has checkpoint format {about.get('format')}, but this clickseg reads {FORMAT}")
    return about


def read_tensors(path: str | Path, group: str) -> dict[str, Tensor]:
    """Read the tensors of one group, by name; empty if the checkpoint has no such group."""
    with _opened(path) as file:
        names = [name for name in file.keys() if name.startswith(f"{group}.")]  # noqa: SIM118 - not a dict
        return {name[len(group) + 1 :]: file.get_tensor(name) for name in names}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a trained model by name: their running mean if there is one."""
    return read_tensors(path, "average") or read_tensors(path, "network")


def load_model(path: str | Path, device: Any = "cpu") -> tuple[Segmenter, dict[str, Any]]:
    """Load a trained model and the metadata of its checkpoint.

    Args:
        path: A checkpoint: `model.safetensors`, or the `last.safetensors` of an unfinished run.
        device: The device of the model.

    Returns:
        The model in evaluation mode, with the running mean of its weights if there is one; and the metadata, such as
        `rules` (how a case is resampled to the model's grid), `model`, `train`, `sources`, `catalog_digest`, `step`.

    Raises:
        CheckpointError: There is no such checkpoint, or its weights do not fit its settings.
    """
    about = read_about(path)
    with torch.random.fork_rng(devices=[]):
        model = Segmenter(ModelSettings.of(about["model"]))
    put_weights(model, read_weights(path), path)
    return model.to(device).eval(), about


def put_weights(model: Segmenter, weights: Mapping[str, Tensor], where: str | Path) -> None:
    """Set all weights of a model, or raise a `CheckpointError` that names the weights that do not fit."""
    own = model.weights()
    wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    wrong += [name for name in weights if name not in own]
    if wrong:
        raise CheckpointError(
            f"{where} does not fit a {model.settings.size} network for patches of {model.settings.patch}: "
            f"{len(wrong)} tensors differ, such as {', '.join(sorted(wrong)[:3])}"
        )
    for name, weight in own.items():
        weight.copy_(weights[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def put_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state of an optimiser from `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _opened(path: str | Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file, or is damaged: {error}") from error
