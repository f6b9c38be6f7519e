"""Run with the Python of Hugging Face Datasets: the niftifolder, and one image."""

import sys

from datasets import load_dataset

if __name__ == "__main__":
    data = load_dataset("niftifolder", data_dir=sys.argv[1])["train"]
    first = data[0]
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    shape = first["pet"].shape
    images = [name for name, kind in kinds.items() if kind == "Nifti"]
    clicks = sum(len(row) for row in data["prompts"])
    print("RESULT", f"{len(data)} rows, images {', '.join(images)} (first PET {shape}), {clicks} prompt voxels")
