"""Run with MONAI's own Python: the datalist, and one case through its loader."""

import sys
from pathlib import Path

from monai.data import load_decathlon_datalist
from monai.transforms import LoadImaged

if __name__ == "__main__":
    items = load_decathlon_datalist(str(Path(sys.argv[1]) / "datalist.json"), is_segmentation=True)
    case = LoadImaged(keys=["image", "label"], ensure_channel_first=True)(items[0])
    if case["image"].shape[1:] != case["label"].shape[1:]:
        sys.exit(f"image {tuple(case['image'].shape)} and label {tuple(case['label'].shape)} differ")
    clicks = sum(len(item["prompts"]["foreground"]) for item in items)
    folds = sorted({item["fold"] for item in items})
    print(
        "RESULT", f"{len(items)} items, folds {folds}, {clicks} foreground clicks; image {tuple(case['image'].shape)}"
    )
