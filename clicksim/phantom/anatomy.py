"""Paint the healthy patient: outline, bones and organs, with their tracer uptake.

Positions are those of a reference patient, in body coordinates. None were measured on a patient.
"""

import numpy as np

from clicksim.phantom.head import paint_head, paint_neck
from clicksim.phantom.patient import LEFT, RIGHT, PhantomPatient
from clicksim.phantom.shapes import PhantomCanvas, bend, ellipsoid, tube, waves

FAT_HU, MUSCLE_HU, BLOOD_HU, SPONGY_HU, CORTEX_HU, LUNG_HU = -100, 50, 40, 220, 700, -820

# w, half width, half depth, centre towards anterior; mm
TORSO = np.array(
    [
        (-185, 54, 58, -14), (-240, 57, 60, -16), (-262, 72, 63, -18), (-282, 118, 70, -17),
        (-302, 165, 80, -15), (-335, 188, 92, -10), (-370, 182, 102, -5), (-410, 169, 110, 0),
        (-470, 165, 116, 2), (-540, 161, 116, 4), (-600, 153, 111, 5), (-660, 148, 107, 6),
        (-720, 156, 107, 4), (-780, 170, 111, 0), (-830, 180, 114, -4), (-870, 182, 110, -6),
        (-895, 178, 98, -8), (-915, 150, 70, -8),
    ]
)  # fmt: skip

THIGH = ((90, -6, -862), (90, -4, -915), (88, -2, -1000), (82, -6, -1320), (80, -25, -1700))


def paint_patient(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Paint everything except lesions, from the outside inwards."""
    _outline(canvas, patient)
    _texture(canvas, patient)
    _lungs(canvas, patient)
    _abdominal_fat(canvas)
    for side in (LEFT, RIGHT):
        _limbs(canvas, patient, side)
        _ribs(canvas, patient, side)
        _pelvis(canvas, patient, side)
    _spine(canvas, patient)
    _heart_and_vessels(canvas, patient)
    paint_head(canvas, patient)
    paint_neck(canvas, patient)
    _gut(canvas, patient)
    _upper_abdomen(canvas, patient)
    _urinary(canvas, patient)


def _outline(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Skin, fat and muscle."""
    suv = patient.suv
    for shrink, hu, uptake in ((0.0, FAT_HU, suv["fat"]), (patient.fat_mm, MUSCLE_HU, suv["muscle"])):
        _torso(canvas, patient, shrink, hu, uptake)
        layer = min(shrink, 7.0)
        solids = [
            ellipsoid(canvas, (0, 3, -95), (76 - layer, 96 - layer, 97 - layer)),
            ellipsoid(canvas, (0, 32, -160), (58 - layer, 62 - layer, 66 - layer)),
            ellipsoid(canvas, (0, 92, -128), (14 - layer, 18 - layer, 22 - layer), pitch=-15),
        ]
        for side in (LEFT, RIGHT):
            wide = patient.girth
            solids += tube(
                canvas,
                [(side * x * wide, y, z) for x, y, z in THIGH],
                [r * wide - shrink for r in (92, 90, 84, 60, 50)],
            )
            solids += tube(canvas, _arm(patient, side), [r * wide - shrink * 0.5 for r in (50, 46, 38, 30)])
        for region in solids:
            box, rho = region
            if shrink == 0:
                canvas.body[box] |= rho <= 1
            canvas.fill(region, None, hu, uptake)


def _arm(patient: PhantomPatient, side: int) -> list[tuple[float, float, float]]:
    """Shoulder, elbow and hand; raised beside the head or lowered beside the body."""
    if patient.arms_up:
        return [(side * 160, -12, -325), (side * 182, 5, -260), (side * 205, 35, -40), (side * 130, 60, 150)]
    reach = 178 * patient.girth
    return [
        (side * 158, -12, -325),
        (side * (reach + 18), -12, -380),
        (side * (reach + 48), -30, -610),
        (side * (reach + 42), 30, -860),
    ]


def _torso(canvas: PhantomCanvas, patient: PhantomPatient, shrink: float, hu: int, suv: float) -> None:
    """Neck to groin: a rounded cross-section in each slice; separable, so it costs one sum per voxel."""
    box, u, v, w = canvas.box((-260, -180, TORSO[-1, 0]), (260, 180, TORSO[0, 0]))
    levels = w.ravel()
    wide = 1 + (patient.girth - 1) * np.interp(levels, (-700, -420, -280, -230), (1.0, 1.0, 0.3, 0.0))
    a, b, middle = (np.interp(levels, TORSO[::-1, 0], TORSO[::-1, column]) for column in (1, 2, 3))
    a = np.maximum(a * wide - shrink, 1).astype(np.float32)[:, None, None]
    b = np.maximum(b * wide - shrink, 1).astype(np.float32)[:, None, None]
    across = np.abs(u / a) ** np.float32(2.5)
    along = np.abs((v - middle.astype(np.float32)[:, None, None]) / b) ** np.float32(2.3)
    rho = across + along
    if shrink == 0:
        canvas.body[box] |= rho <= 1
    canvas.fill((box, rho), None, hu, suv)


def _texture(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Slow variation of the soft tissues, independent along each axis."""
    for axis, coordinates in enumerate(canvas.axes):
        shape = [1, 1, 1]
        shape[axis] = -1
        ripple = np.zeros(len(coordinates), np.float32)
        for _ in range(4):
            length = patient.rng.uniform(40, 150)
            ripple += np.sin(2 * np.pi * coordinates / length + patient.rng.uniform(0, 2 * np.pi))
        canvas.activity *= (1 + 0.04 * ripple).astype(np.float32).reshape(shape)


def _lungs(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Five lobes separated by planes; denser and slightly warmer towards the back."""
    for side, lobes in ((LEFT, (10, 10, 11)), (RIGHT, (12, 13, 14))):
        region = ellipsoid(canvas, (side * 76, -2, -428), (60, 86, 126), tilt=-side * 6, rng=patient.rng, wobble=0.02)
        w, v, _ = canvas.at(region)
        uptake = np.float32(patient.suv["lung"]) * (1 - v / 400 - (w + 430) / 900)
        lower = np.broadcast_to(w + 450 < -v * 0.7, region[1].shape)
        middle = ~lower & (w < -450)
        for lobe, part in zip(lobes, (~lower & ~middle, middle, lower), strict=True):
            canvas.fill(region, lobe, LUNG_HU, np.broadcast_to(uptake, part.shape), part=part)


def _abdominal_fat(canvas: PhantomCanvas) -> None:
    """The fat between the organs."""
    canvas.fill(ellipsoid(canvas, (0, 18, -690), (116, 66, 130)), None, FAT_HU, 0.35)


def _limbs(canvas: PhantomCanvas, patient: PhantomPatient, side: int) -> None:
    """Arm, shoulder girdle and thigh bones."""
    suv, arm = patient.suv, _arm(patient, side)
    humerus, femur, clavicle, scapula = (69, 75, 73, 71) if side == LEFT else (70, 76, 74, 72)
    shaft = [(side * 128, -6, -885), (side * 108, 4, -990), (side * 84, 0, -1330)]
    bones = [
        (tube(canvas, [(side * 150, -12, -318), *arm[1:3]], [22, 12, 11]), humerus, 0.75),
        (tube(canvas, [(side * 95, 0, -858), (side * 128, -6, -885)], [23, 16]), femur, 0.75),
        (tube(canvas, shaft, [18, 14, 15]), femur, 0.35),
        (tube(canvas, [(side * 12, 42, -318), (side * 80, 28, -296), (side * 145, -5, -300)], 6.5), clavicle, 0.75),
    ]
    for regions, number, marrow in bones:
        for region in regions:
            canvas.fill(region, number, CORTEX_HU, suv["cortical"])
            canvas.fill((region[0], region[1] / 0.7), number, SPONGY_HU, suv["marrow"] * marrow)
    blade = ellipsoid(canvas, (side * 98, -72, -370), (42, 7, 62), tilt=side * 14)
    canvas.fill(blade, scapula, 350, suv["marrow"] * 0.6)


def _ribs(canvas: PhantomCanvas, patient: PhantomPatient, side: int) -> None:
    """Twelve arcs from the spine, around the chest and down."""
    wide = np.interp(np.arange(12), (0, 2, 5, 8, 11), (62, 108, 134, 138, 118)) * (1 + (patient.girth - 1) * 0.4)
    deep = np.interp(np.arange(12), (0, 2, 5, 8, 11), (42, 76, 97, 98, 80))
    for number in range(12):
        top = -300 - 23.5 * number
        end = (150, 150, 148, 146, 144, 142, 138, 132, 125, 115, 88, 66)[number]
        angle = np.radians(np.linspace(14, end, 13))
        fall = np.linspace(0, 1, 13) ** 1.2 * (30 + 7 * min(number, 8))
        points = np.stack([side * wide[number] * np.sin(angle), -deep[number] * np.cos(angle) + 2, top - fall], axis=1)
        for region in tube(canvas, points.tolist(), 5.2):
            canvas.fill(region, (92 if side == LEFT else 104) + number, 380, patient.suv["marrow"] * 0.65)


def _pelvis(canvas: PhantomCanvas, patient: PhantomPatient, side: int) -> None:
    """Iliac wing, socket, pubis and ischium."""
    marrow, number = patient.suv["marrow"] * 0.85, 77 if side == LEFT else 78
    wing = ellipsoid(canvas, (side * 88, -22, -790), (11, 60, 62), tilt=side * 24, pitch=12)
    canvas.fill(wing, number, 380, marrow)
    socket = ellipsoid(canvas, (side * 92, 0, -852), (34, 32, 34))
    canvas.fill(socket, number, 450, marrow, core=0.76)
    bars = [
        ([(side * 70, 12, -858), (side * 36, 50, -868), (side * 8, 58, -882)], 9.0),
        ([(side * 74, -22, -872), (side * 58, -32, -915), (side * 14, 48, -900)], 10.0),
    ]
    for points, radius in bars:
        for region in tube(canvas, points, radius):
            canvas.fill(region, number, 420, marrow * 0.8)


def _spine(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Twenty-four vertebrae with discs between them, sacrum, cord and breastbone."""
    suv, rng = patient.suv, patient.rng
    heights = np.array([16.5] * 7 + [22.0] * 5 + [25.0] * 7 + [35.0] * 5)
    edges = -168 - np.concatenate([[0], np.cumsum(heights)])
    middles = (edges[:-1] + edges[1:]) / 2
    depth = np.interp(
        middles, (-790, -745, -680, -560, -440, -330, -270, -168), (-52, -46, -42, -60, -68, -50, -34, -22)
    )
    for number, (middle, back, tall) in enumerate(zip(middles, depth, heights, strict=True)):
        size = np.interp(number, (0, 6, 7, 23), (0.62, 0.66, 0.7, 1.15))
        body = ellipsoid(canvas, (0, back, middle), (23 * size, 17 * size, 10.0 + tall * 0.5))
        part = np.broadcast_to(np.abs(canvas.axes[0][body[0][0]] - middle)[:, None, None] < tall * 0.41, body[1].shape)
        marrow = suv["marrow"] * float(rng.uniform(0.94, 1.08))
        canvas.fill(body, 50 - number, 260, marrow, part=part)
        arch = ellipsoid(canvas, (0, back - 34 * size, middle - 4), (9 * size + 3, 16 * size, tall * 0.34), pitch=-20)
        canvas.fill(arch, 50 - number, 420, marrow * 0.7)
        wing = ellipsoid(canvas, (0, back - 22 * size, middle), (34 * size, 6, 6))
        canvas.fill(wing, 50 - number, 420, marrow * 0.7)
    cord = [(0, float(d) - 21, float(m)) for d, m in zip(depth, middles, strict=True)]
    for region in tube(canvas, cord, 7.5):
        canvas.fill(region, 79, 30, 1.5 if patient.tracer == "fdg" else 0.5)
    for region in tube(canvas, [(0, -55, -768), (0, -76, -800), (0, -80, -850)], [36, 30, 10]):
        thin = (
            region[0],
            np.maximum(region[1], np.abs(canvas.axes[1][region[0][1]][None, :, None] + 68) / 19),
        )
        canvas.fill(thin, 25, 260, suv["marrow"] * 0.95)
    for region in tube(canvas, [(0, 58, -325), (0, 88, -400), (0, 97, -470)], [13, 11, 8]):
        canvas.fill(region, 116, 250, suv["marrow"] * 0.85)


def _heart_and_vessels(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Mediastinum, blood pool, left ventricular wall, aorta and great veins."""
    suv, rng = patient.suv, patient.rng
    blood = suv["blood"]
    canvas.fill(ellipsoid(canvas, (4, 5, -405), (34, 52, 90)), None, 0, blood * 0.65)
    canvas.fill(ellipsoid(canvas, (16, 32, -475), (58, 44, 52), tilt=-25), 51, BLOOD_HU, blood)
    wall = ellipsoid(canvas, (42, 34, -486), (34, 34, 48), tilt=-48, pitch=28)
    rho = wall[1]
    w, v, u = canvas.at(wall)
    uneven = 1 + 0.12 * waves(rng, u, v, w, length_mm=60)
    open_base = (u - 42) - (w + 486) > -20
    canvas.fill(wall, 51, 50, suv["myocardium"] * uneven, core=0.7, part=np.broadcast_to(open_base, rho.shape))
    canvas.fill(wall, 51, BLOOD_HU, blood, part=rho <= 0.7)
    arch = bend([(6, 22, -450), (0, 28, -395), (16, -5, -372), (24, -42, -405), (20, -46, -520), (12, -28, -740)], 20)
    for region in tube(canvas, arch.tolist(), np.linspace(14.5, 9.5, 21).tolist()):
        canvas.fill(region, 52, BLOOD_HU, blood)
    for region in tube(canvas, [(-18, -22, -740), (-20, -12, -640), (-20, 2, -540), (-18, 10, -480)], 11.0):
        canvas.fill(region, 63, BLOOD_HU, blood)
    for side, artery in ((LEFT, 65), (RIGHT, 66)):
        path = [(0, -28, -742), (side * 48, -5, -805), (side * 66, 42, -868), (side * 74, 40, -1050)]
        for region in tube(canvas, path, [9, 8, 7, 6]):
            canvas.fill(region, artery, BLOOD_HU, blood)
        neck = [(side * 12, 10, -375), (side * 32, 2, -300), (side * 36, 2, -200)]
        for region in tube(canvas, neck, [6, 5.5, 5]):
            canvas.fill(region, 58 if side == LEFT else 57, BLOOD_HU, blood)


def _gut(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Small bowel loops, duodenum, colon; uptake changes along them."""
    suv, rng = patient.suv, patient.rng
    for loop in range(7):
        centre = np.array([rng.uniform(-55, 60), rng.uniform(18, 55), -690 - 18 * loop + rng.uniform(-8, 8)])
        turns = rng.normal(0, 1, (6, 3)) * (42, 14, 16)
        upper = 1.5 if patient.tracer == "psma" and loop < 3 else 0.75
        if patient.tracer == "psma" and loop < 3:
            centre[0] = rng.uniform(20, 70)
        path = np.clip(bend((centre + turns).tolist(), 20), (-92, -20, -840), (92, 78, -655))
        for region in tube(canvas, path.tolist(), 10.5):
            canvas.fill(region, 18, 25, suv["bowel"] * upper * float(np.exp(rng.normal(0, 0.35))))
    frame = [
        (-112, 20, -800), (-118, 4, -720), (-112, 6, -668), (-60, 58, -684), (0, 66, -696), (62, 58, -676),
        (112, 0, -632), (120, -8, -720), (112, 8, -790), (50, 18, -812), (12, -26, -822), (0, -46, -860),
        (0, -44, -890),
    ]  # fmt: skip
    patch = np.exp(rng.normal(0, 0.5 if patient.tracer == "fdg" else 0.25, 12)).repeat(4)
    for piece, region in enumerate(tube(canvas, bend(frame, 48).tolist(), 16.0)):
        canvas.fill(region, 20, 20, suv["colon"] * float(patch[piece]))
        canvas.fill((region[0], region[1] / 0.6), 20, -150, 0.6 * suv["colon"])
    duct = bend([(-25, 40, -640), (-52, 22, -648), (-58, 6, -690), (-30, 8, -716), (25, 2, -700), (45, 20, -672)], 18)
    for region in tube(canvas, duct.tolist(), 11.0):
        canvas.fill(region, 19, 30, suv["duodenum"] * float(np.exp(rng.normal(0, 0.18))))


def _upper_abdomen(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Stomach, pancreas, liver, gallbladder, spleen."""
    suv, rng = patient.suv, patient.rng
    stomach = ellipsoid(canvas, (66, 26, -585), (38, 36, 56), tilt=18, rng=rng, wobble=0.05)
    canvas.fill(stomach, 6, 20, 0.6)
    canvas.fill(stomach, 6, 40, suv["stomach"], core=0.78)
    for region in tube(canvas, [(-30, 20, -668), (10, 18, -648), (60, -8, -632), (92, -28, -612)], [14, 12, 11, 8]):
        canvas.fill(region, 7, 40, suv["pancreas"])
    lobes = [
        ellipsoid(canvas, (-76, 0, -592), (70, 84, 88), tilt=-10, rng=rng, wobble=0.03),
        ellipsoid(canvas, (-12, 44, -572), (78, 42, 40), tilt=10, rng=rng, wobble=0.04),
    ]
    for region in lobes:
        w, v, u = canvas.at(region)
        uneven = 1 + 0.03 * waves(rng, u, v, w, length_mm=50)
        edge = np.broadcast_to(w > -702 + 0.8 * (u + 120), region[1].shape)
        canvas.fill(region, 5, 60, suv["liver"] * uneven, part=edge)
    canvas.fill(ellipsoid(canvas, (-48, 52, -640), (13, 20, 26)), 4, 10, suv["gallbladder"])
    canvas.fill(
        ellipsoid(canvas, (108, -48, -574), (27, 44, 54), tilt=-14, rng=rng, wobble=0.04),
        1,
        55,
        suv["spleen"],
    )


def _urinary(canvas: PhantomCanvas, patient: PhantomPatient) -> None:
    """Kidneys, ureters, bladder; prostate and testes in men."""
    suv, rng = patient.suv, patient.rng
    for side, number, level in ((LEFT, 3, -664), (RIGHT, 2, -682)):
        kidney = ellipsoid(canvas, (side * 68, -46, level), (27, 27, 55), tilt=-side * 12, rng=rng, wobble=0.04)
        canvas.fill(kidney, number, 40, suv["kidney"])
        canvas.fill((kidney[0], kidney[1] / 0.55), number, 30, 0.55 * suv["kidney"])
        for centre, semi in (
            ((side * 51, -38, level), (8, 9, 14)),
            ((side * 62, -44, level + 26), (5.5, 6, 8)),
            ((side * 66, -44, level - 28), (6, 5.5, 8)),
        ):
            urine = suv["pelvis"] * float(np.exp(rng.normal(0.2, 0.45)))
            canvas.fill(ellipsoid(canvas, centre, semi), number, 10, urine)
        down = [
            (side * 46, -34, level - 14),
            (side * 40, -26, -740),
            (side * 46, -30, -800),
            (side * 22, 8, -852),
        ]
        for region in tube(canvas, bend(down, 14).tolist(), 2.8):
            if rng.random() < 0.45:
                canvas.fill(region, None, 20, suv["ureter"] * float(np.exp(rng.normal(0, 0.5))))
    full = float(rng.uniform(0.8, 1.15))
    bladder = ellipsoid(canvas, (0, 34, -850), (46 * full, 34 * full, 29 * full), rng=rng, wobble=0.03)
    canvas.fill(bladder, 21, 5, suv["bladder"])
    if patient.male:
        canvas.fill(ellipsoid(canvas, (0, 22, -892), (22, 17, 17)), 22, 45, suv["prostate"])
        for side in (LEFT, RIGHT):
            canvas.fill(ellipsoid(canvas, (side * 16, 74, -935), (12, 14, 18)), None, 35, suv["testis"])
