"""Run with mlcroissant's own Python: validation, and every record read."""

import sys
from pathlib import Path

import mlcroissant

if __name__ == "__main__":
    dataset = mlcroissant.Dataset(jsonld=str(Path(sys.argv[1]) / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    if issues.errors:
        sys.exit(issues.report())
    counts = {record.uuid: sum(1 for _ in dataset.records(record.uuid)) for record in dataset.metadata.record_sets}
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    print("RESULT", f"no errors, {len(issues.warnings)} warnings; records read: {text}")
    for warning in sorted(issues.warnings):
        print(" ", warning)
