"""Run with nnU-Net's own Python: its integrity check over a dataset folder, and what it makes of the channels."""

import json
import sys
from pathlib import Path

from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    verify_dataset_integrity(str(folder), num_processes=1)
    channels = json.loads((folder / "dataset.json").read_text())["channel_names"]
    schemes = [get_normalization_scheme(name).__name__ for name in channels.values()]
    print("RESULT", f"verify_dataset_integrity accepts it; normalisation {', '.join(schemes)}")
