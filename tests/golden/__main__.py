"""Write the golden vectors anew: `python -m tests.golden`."""

import json

from tests import golden

for name in golden.CASES:
    runs = ",\n".join(" " + json.dumps(run) for run in golden.vectors(name))
    (golden.FOLDER / f"{name}.json").write_text(f"[\n{runs}\n]\n", encoding="utf-8")
