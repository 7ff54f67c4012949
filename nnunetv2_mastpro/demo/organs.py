"""A torso in portal-venous CT: what is painted before any lesion. Knots and radii in mm, z y x."""

import numpy as np

from nnunetv2_mastpro.demo.canvas import Canvas, blend, curve, ellipsoid, tube

ORGANS = (
    "liver",
    "kidney_left",
    "kidney_right",
    "lung_left",
    "lung_right",
    "pancreas",
    "colon",
    "spleen",
    "stomach",
    "heart",
    "spine",
    "aorta",
)
LABELS = {name: value for value, name in enumerate(ORGANS, 1)}
FAT, MUSCLE = -100, 55


def paint_torso(canvas: Canvas) -> np.ndarray:
    """Body wall, organs, vessels, bowel, later ones over earlier ones; gives the distance to the cavity's wall."""
    rng = canvas.rng
    canvas.points /= np.float32(rng.uniform(0.94, 1.06))  # of the patient
    canvas.points += rng.uniform((-10, -3, -4), (10, 3, 4)).astype(np.float32)[:, None, None, None]
    cavity = _body(canvas)
    canvas.bend(amount_mm=4.5, scale_mm=55)
    _spine(canvas)
    _lungs(canvas, cavity)
    enhancement = rng.uniform(0.9, 1.15)  # contrast phase and dose differ from case to case
    _upper_abdomen(canvas, cavity, enhancement)
    _vessels(canvas, enhancement)
    _kidneys(canvas, enhancement)
    _pancreas(canvas, enhancement)
    _bowel(canvas, np.maximum(cavity, -canvas.points[0] - 105))
    return cavity


def jitter(rng: np.random.Generator, center_mm, amount_mm) -> np.ndarray:
    """The centre, moved at random by up to `amount_mm` along each axis."""
    return np.asarray(center_mm) + rng.uniform(-1, 1, np.shape(center_mm)) * amount_mm


def _body(canvas: Canvas) -> np.ndarray:
    rng = canvas.rng
    _, y, x = canvas.points
    half_width, half_depth = rng.uniform(123, 131), rng.uniform(88, 95)
    ring = ((np.abs(x) / half_width) ** 2.4 + (np.abs(y) / half_depth) ** 2.4) ** (1 / 2.4)
    body = (ring - 1) * half_depth + 1.5 * canvas.noise(60)
    fat_mm, wall_mm = rng.uniform(6, 13), rng.uniform(7, 10)
    muscle = body + fat_mm
    cavity = muscle + wall_mm
    canvas.paint(body, FAT + 8 * canvas.noise(9))
    canvas.paint(body - 1, np.where(body > -1, 20, canvas.hu))  # skin
    canvas.paint(muscle, MUSCLE + 8 * canvas.noise(7))
    slanted = np.cos(2 * np.pi * (canvas.points[0] + 0.35 * y) / 30)
    ribs = np.maximum(np.abs(muscle + wall_mm / 2) - 3, 8 * (0.45 - slanted) + np.maximum(-25 - canvas.points[0], 0))
    canvas.paint(ribs, 330 + 60 * canvas.noise(8))
    canvas.paint(cavity, FAT + 10 * canvas.noise(10))
    return cavity


def _spine(canvas: Canvas) -> None:
    rng = canvas.rng
    z, y, x = canvas.points
    muscle = MUSCLE + 9 * canvas.noise(7)
    for side in (-1, 1):
        canvas.paint(_column(canvas, 68, side * 27, 20, 24), muscle)
        psoas = _column(canvas, 44, side * rng.uniform(27, 32), 17, 14) + np.clip(z + 5, 0, None) * 0.5
        canvas.paint(psoas, muscle)
    disc = np.cos(2 * np.pi * (z + rng.uniform(0, 34)) / 34) > 0.86
    bone = np.where(disc, 90, 210 + 45 * canvas.noise(6))
    vertebra = _column(canvas, 46, 0, 17, 21)
    canvas.paint(vertebra, bone, structure=LABELS["spine"])
    canvas.paint(np.abs(vertebra + 1.5) - 1.5, np.where(disc, 90, 420))
    arch = np.minimum(_column(canvas, 70, 0, 11, 13), np.hypot(x / 2, (y - 84) / 6) * 5 - 5)
    canvas.paint(arch, 330 + 50 * canvas.noise(7), structure=LABELS["spine"])
    canvas.paint(_column(canvas, 69, 0, 7, 8), 25)


def _column(canvas: Canvas, y_mm: float, x_mm: float, radius_y_mm: float, radius_x_mm: float) -> np.ndarray:
    _, y, x = canvas.points
    scaled = np.hypot((y - y_mm) / radius_y_mm, (x - x_mm) / radius_x_mm)
    return (scaled - 1) * np.float32(np.sqrt(radius_y_mm * radius_x_mm))


def _lungs(canvas: Canvas, cavity: np.ndarray) -> None:
    rng = canvas.rng
    mediastinum = _column(canvas, 5, 4, 75, 26) + np.clip(30 - canvas.points[0], 0, None)
    canvas.paint(np.maximum(mediastinum, cavity), -60 + 25 * canvas.noise(12))
    for name, side in (("lung_right", -1), ("lung_left", 1)):
        center = jitter(rng, (105, 4, side * 60), (8, 4, 4))
        radii = rng.uniform((92, 62, 42), (104, 70, 50))
        distance = np.maximum(ellipsoid(canvas.points, center, radii) + 1.5 * canvas.noise(35), cavity + 2)
        vessels = np.clip(canvas.noise(9) - 1.3, 0, 1) * 700 + np.clip(canvas.noise(16) - 1.5, 0, 1) * 500
        canvas.paint(distance, rng.uniform(-860, -800) + 18 * canvas.noise(8) + vessels, structure=LABELS[name])
    heart = ellipsoid(canvas.points, jitter(rng, (108, -18, 22), 6), rng.uniform((44, 38, 40), (54, 44, 48)), 25)
    heart = np.maximum(heart + 1.5 * canvas.noise(30), cavity + 2)
    canvas.paint(heart, 130 + 14 * canvas.noise(14), structure=LABELS["heart"])


def _upper_abdomen(canvas: Canvas, cavity: np.ndarray, enhancement: float) -> None:
    """Liver with its vessels, spleen, stomach: each covers the lung above it, as the diaphragm does."""
    rng, points = canvas.rng, canvas.points
    right = ellipsoid(points, jitter(rng, (12, -2, -56), (7, 4, 4)), rng.uniform((54, 54, 46), (66, 64, 54)))
    left = ellipsoid(points, jitter(rng, (20, -36, 2), (8, 5, 8)), rng.uniform((22, 22, 46), (32, 28, 62)), -15)
    liver = np.maximum(blend(right, left, 22) + 3 * canvas.noise(30), cavity + 2)
    spleen = ellipsoid(points, jitter(rng, (18, 26, 84), (9, 6, 4)), rng.uniform((32, 26, 17), (46, 34, 24)), 25)
    spleen = np.maximum(spleen + 2 * canvas.noise(25), cavity + 2)
    stomach = ellipsoid(points, jitter(rng, (22, -24, 52), (8, 6, 5)), rng.uniform((26, 24, 22), (36, 32, 32)), 20)
    stomach = np.maximum(stomach + 3 * canvas.noise(25), cavity + 2)
    canvas.paint(np.minimum(np.minimum(stomach, spleen), liver) - 3, MUSCLE)  # diaphragm, walls
    canvas.paint(np.maximum(np.minimum(stomach, spleen) - 3, -30 - points[0]), FAT)
    filling = np.where(points[1] < rng.uniform(-45, -25), -850, rng.uniform(15, 60) + 14 * canvas.noise(7))
    canvas.paint(stomach, 65 * enhancement, structure=LABELS["stomach"])
    canvas.paint(stomach + 4, filling)
    canvas.paint(spleen, 118 * enhancement + 8 * canvas.noise(8), structure=LABELS["spleen"])
    parenchyma = rng.uniform(104, 118) * enhancement
    canvas.paint(liver, parenchyma + 7 * canvas.noise(7), structure=LABELS["liver"])
    veins = np.maximum(2.5 * (np.abs(canvas.noise(32)) + np.abs(canvas.noise(32))) / 0.25 - 2.5, liver + 5)
    canvas.paint(veins, parenchyma + 40 * enhancement, edge_mm=4)


def _vessels(canvas: Canvas, enhancement: float) -> None:
    rng = canvas.rng
    aorta = _column(canvas, rng.uniform(16, 20), rng.uniform(4, 12), *rng.uniform(9, 12, 2))
    cava = _column(canvas, rng.uniform(14, 20), rng.uniform(-24, -17), rng.uniform(8, 10), rng.uniform(10, 13))
    canvas.paint(np.minimum(aorta, cava) - 3, FAT)
    canvas.paint(aorta, 155 * enhancement + 5 * canvas.noise(8), structure=LABELS["aorta"])
    canvas.paint(cava, 135 * enhancement + 8 * canvas.noise(8))


def _kidneys(canvas: Canvas, enhancement: float) -> None:
    rng, points = canvas.rng, canvas.points
    for name, side, z_mm in (("kidney_right", -1, -44), ("kidney_left", 1, -34)):
        center = jitter(rng, (z_mm, 36, side * 60), (9, 4, 4))
        radii = rng.uniform((42, 23, 24), (52, 29, 30))
        kidney = ellipsoid(points, center, radii, side * rng.uniform(15, 40)) + 1.5 * canvas.noise(25)
        sinus = ellipsoid(points, center + (0, -8, -side * 16), radii * (0.45, 0.45, 0.6), side * 30)
        canvas.paint(kidney - 6, FAT + 8 * canvas.noise(10))
        medulla = np.clip((-kidney - 7) / 5, 0, 1) * np.clip(0.6 + canvas.noise(10), 0, 1)
        canvas.paint(kidney, (175 - 65 * medulla) * enhancement + 8 * canvas.noise(6), structure=LABELS[name])
        canvas.paint(sinus, -50 + 35 * canvas.noise(8))


def _pancreas(canvas: Canvas, enhancement: float) -> None:
    rng = canvas.rng
    knots = jitter(rng, [(-28, -4, -34), (-14, -12, -14), (-6, -14, 14), (4, 2, 40), (12, 14, 62)], (5, 3, 4))
    radius = np.linspace(rng.uniform(15, 19), rng.uniform(9, 12), 9)
    pancreas = tube(canvas.points, curve(knots, 9), radius) + 2.2 * canvas.noise(14)
    canvas.paint(pancreas - 4, FAT + 8 * canvas.noise(10))
    canvas.paint(pancreas, 90 * enhancement + 11 * canvas.noise(6), structure=LABELS["pancreas"])


def _bowel(canvas: Canvas, cavity: np.ndarray) -> None:
    """Small-bowel loops, of tumours' HU, then the colon, filled with gas and stool."""
    rng, points = canvas.rng, canvas.points
    for _ in range(rng.integers(3, 6)):
        knots = rng.uniform((-100, -50, -52), (-48, 12, 52), (4, 3))
        loop = np.maximum(tube(points, curve(knots, 12), rng.uniform(8, 11)), cavity + 3)
        canvas.paint(loop, rng.uniform(40, 95))
        canvas.paint(loop + 4, rng.uniform(10, 60) + 15 * canvas.noise(8))
    knots = jitter(
        rng,
        [
            (-108, 5, -84),
            (-70, 8, -88),
            (-42, -22, -76),
            (-56, -52, -36),
            (-64, -56, 10),
            (-46, -46, 54),
            (-22, -8, 84),
            (-66, 12, 90),
            (-108, 8, 86),
        ],
        (5, 4, 4),
    )
    line = curve(knots, 40)
    radius = rng.uniform(14, 18) + rng.normal(0, 1.2, len(line))
    colon = np.maximum(tube(points, line, radius) + 1.2 * canvas.noise(16), cavity + 1)
    canvas.paint(colon - 3, FAT)
    canvas.paint(colon, 75, structure=LABELS["colon"])
    stool = 35 + 30 * canvas.noise(9) - np.clip(canvas.noise(7) - 0.8, 0, 1) * 600
    gas = canvas.noise(45) + 0.04 * (line[:, 1].mean() - points[1]) > rng.uniform(-0.2, 0.5)
    canvas.paint(colon + 4, np.where(gas, -880, stool))
