"""Differences between patients: build, posture, sex, and the uptake of each organ.

FDG is hot in brain, bladder and sometimes myocardium; PSMA in kidneys, salivary and lacrimal glands, duodenum and
bladder. The values are typical ones, not measurements.
"""

from dataclasses import dataclass

import numpy as np

LEFT, RIGHT = 1, -1

SUV = {
    "fdg": {
        "fat": 0.25, "muscle": 0.65, "blood": 1.6, "lung": 0.45, "marrow": 1.5, "cortical": 0.7,
        "liver": 2.2, "spleen": 1.8, "kidney": 2.6, "pelvis": 8.0, "bladder": 28.0, "ureter": 11.0,
        "white": 3.6, "grey": 9.5, "gland": 2.2, "lacrimal": 1.6, "tonsil": 4.2, "thyroid": 1.3,
        "stomach": 1.9, "duodenum": 1.8, "bowel": 1.5, "colon": 1.7, "pancreas": 1.4, "gallbladder": 0.6,
        "prostate": 1.8, "testis": 2.8,
    },
    "psma": {
        "fat": 0.2, "muscle": 0.5, "blood": 1.4, "lung": 0.4, "marrow": 0.7, "cortical": 0.4,
        "liver": 5.0, "spleen": 6.5, "kidney": 46.0, "pelvis": 32.0, "bladder": 32.0, "ureter": 14.0,
        "white": 0.15, "grey": 0.25, "gland": 18.0, "lacrimal": 14.0, "tonsil": 3.0, "thyroid": 1.3,
        "stomach": 2.2, "duodenum": 14.0, "bowel": 5.5, "colon": 1.6, "pancreas": 2.2, "gallbladder": 3.0,
        "prostate": 2.6, "testis": 0.8,
    },
}  # fmt: skip
"""SUV in each organ before blurring; each patient has random factors for them."""


@dataclass(frozen=True)
class PhantomPatient:
    """Build, posture, sex and uptake of one patient."""

    tracer: str
    suv: dict[str, float]
    girth: float
    fat_mm: float
    arms_up: bool
    male: bool
    rng: np.random.Generator


def draw_patient(tracer: str, rng: np.random.Generator) -> PhantomPatient:
    """Draw a patient of random build and uptake."""
    suv = {name: value * float(np.exp(rng.normal(0, 0.16))) for name, value in SUV[tracer].items()}
    suv["bladder"] *= float(np.exp(rng.normal(0, 0.4)))
    suv["myocardium"] = float(rng.uniform(3, 11) if tracer == "fdg" and rng.random() < 0.65 else 1.9)
    girth = float(np.clip(rng.normal(1.02, 0.07), 0.88, 1.2))
    return PhantomPatient(
        tracer,
        suv,
        girth,
        fat_mm=float(np.clip(14 + 90 * (girth - 1), 6, 30)),
        arms_up=bool(rng.random() < 0.7),
        male=tracer == "psma" or bool(rng.random() < 0.55),
        rng=rng,
    )
