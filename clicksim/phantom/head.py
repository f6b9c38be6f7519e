"""Paint head and neck: skull, brain, glands, airway."""

import numpy as np

from clicksim.phantom.patient import LEFT, RIGHT, PhantomPatient
from clicksim.phantom.shapes import Floats, PhantomCanvas, Region, ellipsoid, tube, waves


def paint_head(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Skull, brain with cortex and deep nuclei, and the glands of the face."""
    suv, rng = patient.suv, patient.rng
    canvas.fill(ellipsoid(canvas, (0, 0, -84), (71, 89, 80)), 91, 900, suv["cortical"], core=0.9)
    canvas.fill(ellipsoid(canvas, (0, 0, -84), (64, 80, 72)), None, 10, 0.4)
    for centre, semi in (((0, 0, -78), (63, 79, 64)), ((0, -40, -128), (48, 30, 24))):
        region = ellipsoid(canvas, centre, semi, rng=rng, wobble=0.01)
        canvas.fill(region, 90, 36, _brain_uptake(canvas, patient, region))
    for side in (LEFT, RIGHT):
        deep = (suv["white"] + 2.2 * suv["grey"]) / 3.0
        canvas.fill(ellipsoid(canvas, (side * 22, 14, -84), (7, 20, 14), pitch=10), 90, 38, deep)
        canvas.fill(ellipsoid(canvas, (side * 12, -10, -86), (9, 14, 10)), 90, 38, deep)
        canvas.fill(ellipsoid(canvas, (side * 9, 8, -66), (5, 26, 8)), 90, 8, 0.25 * suv["white"])
        canvas.fill(ellipsoid(canvas, (side * 32, 78, -100), (12, 12, 12)), None, 10, 0.4 * suv["muscle"])
        tear = ellipsoid(canvas, (side * 40, 68, -88), (6, 7, 7))
        canvas.fill(tear, None, 40, suv["lacrimal"])
        parotid = ellipsoid(canvas, (side * 56, -2, -164), (11, 19, 26), tilt=side * 8, rng=rng, wobble=0.06)
        canvas.fill(parotid, None, 20, suv["gland"] * float(rng.uniform(0.85, 1.1)))
        jaw = [(side * 54, 8, -142), (side * 50, 16, -186), (side * 8, 82, -204)]
        for region in tube(canvas, jaw, 6.0):
            canvas.fill(region, None, 700, suv["cortical"])
    canvas.fill(ellipsoid(canvas, (0, 62, -132), (13, 26, 18)), None, -700, 0.15)
    canvas.fill(ellipsoid(canvas, (0, 70, -128), (9, 18, 12)), None, 20, 0.2 * suv["gland"], core=0.4)


def _brain_uptake(canvas: PhantomCanvas, patient: PhantomPatient, region: Region) -> Floats:
    """Grey matter as a folded rind, white matter inside, and the fissure between the hemispheres."""
    rho = region[1]
    w, v, u = canvas.at(region)
    folds = waves(patient.rng, u, v, w, length_mm=26, count=8)
    rind = np.clip((rho + 0.1 * folds - 0.72) / 0.1, 0, 1)
    gyri = 1 + 0.14 * waves(patient.rng, u, v, w, length_mm=18, count=6)
    uptake = patient.suv["white"] + (patient.suv["grey"] * gyri - patient.suv["white"]) * rind
    gap = 1 - 0.55 * np.exp(-((u / 4.0) ** 2)) * (w > -95)
    return np.asarray(uptake * gap, np.float32)


def paint_neck(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Airway, gullet, tonsils, thyroid and the glands below the jaw."""
    suv, rng = patient.suv, patient.rng
    for side in (LEFT, RIGHT):
        canvas.fill(
            ellipsoid(canvas, (side * 30, 36, -202), (11, 15, 12), rng=rng, wobble=0.05),
            None,
            40,
            suv["gland"],
        )
        canvas.fill(ellipsoid(canvas, (side * 16, 18, -172), (6, 7, 10)), None, 45, suv["tonsil"])
        canvas.fill(ellipsoid(canvas, (side * 17, 22, -272), (9, 9, 20)), 17, 110, suv["thyroid"])
    canvas.fill(ellipsoid(canvas, (0, 48, -194), (16, 14, 8)), None, 40, 0.35 * suv["gland"] + suv["muscle"])
    for region in tube(canvas, [(0, 8, -205), (0, -12, -300), (0, -18, -400)], 10.5):
        canvas.fill(region, 15, 35, 1.2 * suv["blood"] * 0.7)
    for region in tube(canvas, [(0, 26, -160), (0, 24, -235), (0, 6, -320), (0, -4, -412)], 8.0):
        canvas.fill(region, 16, -980, 0.15)
