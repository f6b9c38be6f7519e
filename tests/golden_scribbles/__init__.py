"""Golden vectors of scribbles and corrections, stored and compared exactly.

`python -m tests.golden_scribbles` writes them anew. A released protocol never changes, so after a release that
command may add files but must not change one.
"""

from pathlib import Path

import numpy as np

import clicksim
from tests import golden

FOLDER = Path(__file__).parent

TABLES = [{}, {"strategy": "random"}, {"strategy": "boundary"}]
REVISED = [
    {"axis": 0, "tremor_mm": 2.0},
    {"axis": 1, "thickness_mm": 5.0},
    {"strategy": "random", "tremor_mm": 3.0, "thickness_mm": 4.5},
]
CORRECTIONS = [
    {"kind": "click", "n_prompts": 3},
    {"choose": "depth", "n_prompts": 2},
    {"choose": "random", "n_prompts": 2, "strategy": "random"},
    {"errors": ["missed", "false"], "n_prompts": 9},
]


def several():
    """Seven lesions, most of them found in part; two false components, one of which joins two lesions."""
    label = golden.several()[0]
    prediction = np.roll(label, (2, 1), (0, 1))
    prediction[20, 7:20, 12] = 1
    prediction[2:5, 2:5, 20:23] = prediction[24:29, 20, 20] = 0
    return prediction, label


def instances():
    """Three stored instances; one missed, one found too large."""
    label = golden.instances()[0]
    prediction = np.zeros_like(label)
    prediction[2:8, 3:10, 5:10] = 1
    prediction[13:15, 12:15, 3:6] = 2
    return prediction, label


def empty():
    """Nothing to find, something found."""
    label = np.zeros((16, 16, 16), np.uint8)
    prediction = label.copy()
    prediction[4:9, 4:7, 5] = 1
    return prediction, label


CASES = {"several": several, "instances": instances, "empty": empty}


def vectors(name):
    """What every run gives on one case, as it is stored."""
    prediction, label = CASES[name]()
    keys = {"spacing": golden.SPACING, "case_id": name}
    runs = [("label", "autopet-v@1", 42, table) for table in TABLES]
    runs += [("label", "autopet-v@2", 7, table) for table in TABLES + REVISED]
    runs += [("errors", "autopet-v@1", 42, table) for table in TABLES]
    runs += [("errors", "autopet-v@2", 7, table) for table in TABLES + REVISED + CORRECTIONS]
    out = []
    for work, protocol, seed, table in runs:
        arguments = keys | {"protocol": protocol, "seed": seed} | table
        if work == "label":
            prompts = clicksim.simulate_scribbles(label, **arguments)
        else:
            prompts = clicksim.correct(prediction, label, round=2, **arguments)
        out.append(
            {
                "from": work,
                "protocol": protocol,
                "seed": seed,
                "settings": table,
                "prompts": [[p.foreground, p.lesion, [list(v) for v in p.voxels]] for p in prompts],
                "notes": list(prompts.notes),
            }
        )
    return out
