"""Prompt runs of a catalog in one line, and conversion with the workers named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clicksim.catalog import Source
from clicksim.pipeline.conversion import Summary, convert
from clicksim.pipeline.simulation import PromptRun, simulate_catalog
from clicksim.pipeline.workers import Crew

CREW = ("workers", "executor", "progress", "note")


@dataclass(frozen=True)
class Asked:
    """A prompt run over a catalog, and where its files go."""

    catalog: str | Path
    protocol: str = "autopet-iv@2"
    seed: int = 42
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    layout: str = "plain"
    table: str = "clicks"
    annotator: Any = None

    @property
    def run(self) -> PromptRun:
        return PromptRun(self.protocol, self.seed, self.settings, table=self.table, annotator=self.annotator)


def crew_of(options: dict[str, Any]) -> Crew:
    """The crew that some options name; they are taken out."""
    return Crew(**{name: options.pop(name) for name in CREW if name in options})


def simulate(asked: Asked, **options: Any) -> tuple[str, Summary]:
    """The id of the one run, and how it ended."""
    out = None if asked.out is None else Path(asked.out)
    crew = crew_of(options)
    found = simulate_catalog(asked.catalog, [asked.run], out=out, layout=asked.layout, crew=crew, **options)
    ((name, summary),) = found.items()
    return name, summary


def convert_source(source: Source, folder: Path, catalog: Path, **options: Any) -> Summary:
    """Convert with the workers among the options."""
    return convert(source, folder, catalog, crew=crew_of(options), **options)
