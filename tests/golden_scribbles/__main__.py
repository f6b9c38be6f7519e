"""Write the golden vectors anew: `python -m tests.golden_scribbles`."""

import json

from tests import golden_scribbles

for name in golden_scribbles.CASES:
    runs = ",\n".join(" " + json.dumps(run) for run in golden_scribbles.vectors(name))
    (golden_scribbles.FOLDER / f"{name}.json").write_text(f"[\n{runs}\n]\n", encoding="utf-8")
