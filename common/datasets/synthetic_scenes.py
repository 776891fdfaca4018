"""Street scenes that are computed: perspective, 19 classes as of Cityscapes, and labels that need context.

Some classes look alike nearby, so that only what is farther off tells them apart:

    wall, building          the same brick band along the street; above a building's are storeys with windows, above a
                            wall trees or the sky
    road, sidewalk          the same asphalt; lane markings lie on the road, the sidewalk is beyond the kerb
    terrain, vegetation     the same green; terrain lies on the ground, vegetation stands up from it
    person, rider           the same figure; a rider's stands on a bicycle or a motorcycle
    truck, bus, train       the same box; a truck's has a cabin beside it, a bus's windows, a train's rails below it

Others (sky, pole, fence, traffic sign, ...) have a look of their own.
"""
import numpy as np

from common.datasets.scene_canvas import ASPHALT, BARS, BRICK, CLOUDS, LEAVES, Canvas, Point

(ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR,
 TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE) = range(19)
IGNORE = 255    # the own car's hood

NUM = {"train": 64, "val": 16}
HEIGHT, WIDTH = 256, 512
FAR, NEAR = 0.07, 3.0    # scale of what is painted: 1 at the bottom of the picture, 0 at the horizon
ROAD_EDGE, PAVED, FRONT = 0.75, 1.15, 1.4    # distance from the middle of the road, in picture heights at scale 1


def make_scene(split: str, index: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0
               ) -> tuple[np.ndarray, np.ndarray]:
    """Make a scene; equal arguments make equal ones, and no scene of one split is in another.

    The layout does not depend on the size in pixels, only on the aspect ratio.

    Parameters
    ----------
    split : 'train' or 'val'
    index
        From 0; there is no end.
    height, width
        Pixels.

    Returns
    -------
    image : uint8 (height, width, 3), BGR
    label : uint8 (height, width)
        0..18, or 255 where there is no class.
    """
    numbers = seed, list(NUM).index(split), index
    canvas = Canvas(height, width)
    _paint(canvas, np.random.default_rng(numbers))
    # Other streams of random numbers, so that the layout is that of every size.
    return canvas.render(np.random.default_rng((*numbers, 1))), canvas.label()


# What is in a scene ---------------------------------------------------------------------------------------------------


class _View:
    """The perspective: a point at distance `u` from the middle of the road, at scale `t`, is at (x(u, t), y(t))."""

    def __init__(self, rng: np.random.Generator, aspect: float):
        self.vanishing_point, self.horizon = aspect * rng.uniform(0.4, 0.6), rng.uniform(0.38, 0.48)

    def x(self, u: float, t: float) -> float:
        return self.vanishing_point + u * t

    def y(self, t: float) -> float:
        return self.horizon + (1 - self.horizon) * t

    def strip(self, left: float, right: float, near: float = NEAR, far: float = 0.0) -> list[Point]:
        """Corners of a strip of the ground along the road."""
        return [(self.x(u, t), self.y(t)) for u, t in ((left, far), (right, far), (right, near), (left, near))]

    def plane(self, u: float, near: float, far: float, low: float, high: float) -> list[Point]:
        """Corners of a plane along the road that reaches from `low` to `high` above the ground."""
        return [(self.x(u, t), self.y(t) - t * h) for t, h in ((near, low), (near, high), (far, high), (far, low))]


def _paint(canvas, rng):
    view = _View(rng, canvas.aspect)
    canvas.box(canvas.add(SKY, rng.uniform((120, 150, 190), (200, 215, 240)), CLOUDS), 0, 0, canvas.aspect, 1)
    has_rails = _paint_ground(canvas, rng, view)
    for side in (-1, 1):
        _paint_front(canvas, rng, view, side)
    things = [(t, side * u, paint) for paint, side, u, t in _place_things(rng, has_rails)]
    for t, u, paint in sorted(things, key=lambda thing: thing[0]):
        paint(canvas, rng, view.x(u, t), view.y(t), t)
    if rng.random() < 0.5:
        canvas.ellipse(canvas.add(IGNORE, (30, 30, 34)), canvas.aspect / 2, 1.08, 0.45 * canvas.aspect, 0.16)


def _paint_ground(canvas, rng, view):
    """Paint what lies flat; return whether there are rails."""
    asphalt, green = _grey(rng, 85, 125), _green(rng)
    canvas.polygon(canvas.add(TERRAIN, green, LEAVES), view.strip(-9, 9))
    canvas.polygon(canvas.add(SIDEWALK, asphalt, ASPHALT), view.strip(-PAVED, PAVED))
    canvas.polygon(canvas.add(SIDEWALK, asphalt + 45), view.strip(-ROAD_EDGE - 0.05, ROAD_EDGE + 0.05))    # kerb
    canvas.polygon(canvas.add(ROAD, asphalt, ASPHALT), view.strip(-ROAD_EDGE, ROAD_EDGE))
    paint, rails = canvas.add(ROAD, (215, 215, 205)), canvas.add(ROAD, (60, 52, 48))
    dashes = 0.06 * 1.5 ** np.arange(0, 10, 1.0)
    for t in dashes:
        canvas.polygon(paint, view.strip(-0.03, 0.03, 1.25 * t, t))
    has_rails = bool(rng.random() < 0.3)
    for u in (0.25, 0.5) if has_rails else ():
        canvas.polygon(rails, view.strip(u - 0.015, u + 0.015))
    return has_rails


def _paint_front(canvas, rng, view, side):
    """Paint what borders the street on one side, from far to near."""
    far = FAR
    bricks, low = rng.uniform((120, 70, 55), (185, 125, 100)), rng.uniform(0.35, 0.5)
    while far < NEAR:
        near = far * rng.uniform(1.25, 1.8)
        kind = rng.choice(4, p=(0.4, 0.25, 0.15, 0.2))
        span = view, side * FRONT, near, far
        if kind == 0:
            _paint_building(canvas, rng, span, bricks, low)
        elif kind == 1:
            if rng.random() < 0.6:
                _paint_trees(canvas, rng, span)
            canvas.polygon(canvas.add(WALL, bricks, BRICK), view.plane(side * FRONT, near, far, 0, low))
        elif kind == 2:
            _paint_trees(canvas, rng, span)
            canvas.polygon(canvas.add(FENCE, _grey(rng, 120, 170), BARS), view.plane(side * FRONT, near, far, 0, low))
        else:
            _paint_trees(canvas, rng, span)
        far = near


def _paint_building(canvas, rng, span, bricks, low):
    view, u, near, far = span
    storeys, height = rng.integers(2, 5), 0.32
    upper = canvas.add(BUILDING, rng.uniform((130, 120, 105), (205, 195, 175)))
    canvas.polygon(upper, view.plane(u, near, far, low, low + storeys * height))
    canvas.polygon(canvas.add(BUILDING, bricks, BRICK), view.plane(u, near, far, 0, low))
    glass = canvas.add(BUILDING, _grey(rng, 45, 85))
    edges = far * (near / far) ** np.linspace(0, 1, 8)
    for storey in range(storeys):
        bottom = low + (storey + 0.25) * height
        for left, right in zip(edges[1::2], edges[2::2], strict=False):
            canvas.polygon(glass, view.plane(u, right, left, bottom, bottom + 0.5 * height))


def _paint_trees(canvas, rng, span):
    view, u, near, far = span
    green = canvas.add(VEGETATION, _green(rng), LEAVES)
    high = rng.uniform(0.55, 1.1)
    canvas.polygon(green, view.plane(u, near, far, 0, high))
    for t in np.geomspace(far, near, 5):
        radius = rng.uniform(0.16, 0.3) * t
        canvas.ellipse(green, view.x(u, t), view.y(t) - t * high, radius, radius)


def _place_things(rng, has_rails):
    """Choose what stands in the street.

    Returns
    -------
    list of (function, side, distance from the middle, scale)
    """
    scales = iter(np.exp(rng.uniform(np.log(0.16), np.log(0.9), 32)))
    large = [_paint_truck, _paint_bus] if not has_rails else [_paint_train]
    things = [(_paint_car, rng.choice((-1, 1)), 0.38, next(scales)) for _ in range(rng.integers(1, 4))]
    things += [(large[rng.integers(len(large))], 1, 0.38, 0.6 * next(scales)) for _ in range(rng.integers(0, 3))]
    things += [(paint, rng.choice((-1, 1)), rng.uniform(0.5, 0.68), next(scales))
               for paint in (_paint_cyclist, _paint_motorcyclist) for _ in range(rng.integers(0, 3))]
    things += [(_paint_person, rng.choice((-1, 1)), rng.uniform(0.85, 1.1), next(scales))
               for _ in range(rng.integers(1, 6))]
    things += [(_paint_mast, rng.choice((-1, 1)), rng.uniform(0.84, 0.9), next(scales))
               for _ in range(rng.integers(2, 6))]
    # A parked bicycle has no rider: it is not the wheels that make one.
    things += [(_paint_wheels(BICYCLE), rng.choice((-1, 1)), 1.0, next(scales)) for _ in range(rng.integers(0, 2))]
    return things


# Things: each is painted at (x, y), where it touches the ground, and `t` times its size in picture heights.


def _paint_box(canvas, rng, label, x, y, t, width, height):
    """Paint the box that trucks, buses and trains share."""
    body = canvas.add(label, rng.uniform((90, 90, 90), (225, 215, 205)))
    canvas.box(body, x - t * width / 2, y - t * height, x + t * width / 2, y - 0.06 * t)


def _paint_wheel_pair(canvas, label, x, y, t, distance, radius):
    tyre = canvas.add(label, (28, 28, 30))
    for side in (-1, 1):
        canvas.ellipse(tyre, x + side * t * distance / 2, y - t * radius, t * radius, t * radius)


def _paint_car(canvas, rng, x, y, t):
    body, glass = canvas.add(CAR, rng.uniform(30, 220, 3)), canvas.add(CAR, (50, 60, 70))
    _paint_wheel_pair(canvas, CAR, x, y, t, 0.3, 0.05)
    canvas.box(body, x - 0.23 * t, y - 0.17 * t, x + 0.23 * t, y - 0.05 * t)
    for number, wide, narrow, low, high in ((body, 0.2, 0.13, 0.16, 0.3), (glass, 0.16, 0.11, 0.18, 0.28)):
        corners = (-wide, low), (-narrow, high), (narrow, high), (wide, low)
        canvas.polygon(number, [(x + a * t, y - b * t) for a, b in corners])
    lamps = canvas.add(CAR, (235, 60, 50) if rng.random() < 0.5 else (250, 245, 215))
    for side in (-1, 1):
        canvas.box(lamps, x + (side * 0.19 - 0.02) * t, y - 0.14 * t, x + (side * 0.19 + 0.02) * t, y - 0.11 * t)


def _paint_truck(canvas, rng, x, y, t):
    _paint_box(canvas, rng, TRUCK, x, y, t, 0.7, 0.62)
    _paint_wheel_pair(canvas, TRUCK, x, y, t, 0.5, 0.07)
    cabin, glass = canvas.add(TRUCK, rng.uniform(40, 200, 3)), canvas.add(TRUCK, (50, 60, 70))
    side = rng.choice((-1, 1))
    near, far = sorted((x + side * 0.36 * t, x + side * 0.56 * t))
    canvas.box(cabin, near, y - 0.44 * t, far, y - 0.06 * t)
    canvas.box(glass, near + 0.03 * t, y - 0.4 * t, far - 0.03 * t, y - 0.28 * t)


def _paint_bus(canvas, rng, x, y, t, label=BUS):
    _paint_box(canvas, rng, label, x, y, t, 0.9, 0.62)
    _paint_wheel_pair(canvas, label, x, y, t, 0.55, 0.07)
    glass = canvas.add(label, (50, 60, 70))
    for left in np.linspace(-0.4, 0.26, 5):
        canvas.box(glass, x + left * t, y - 0.55 * t, x + (left + 0.13) * t, y - 0.36 * t)


def _paint_train(canvas, rng, x, y, t):
    _paint_bus(canvas, rng, x, y, t, TRAIN)


def _paint_figure(canvas, rng, label, x, y, t):
    """Paint the figure that persons and riders share: head, trunk and legs, 0.34 high."""
    clothes, trousers = canvas.add(label, rng.uniform(20, 230, 3)), canvas.add(label, rng.uniform(25, 110, 3))
    skin = canvas.add(label, rng.uniform((120, 80, 60), (230, 190, 165)))
    canvas.box(trousers, x - 0.03 * t, y - 0.16 * t, x + 0.03 * t, y)
    canvas.box(clothes, x - 0.045 * t, y - 0.28 * t, x + 0.045 * t, y - 0.14 * t)
    canvas.ellipse(skin, x, y - 0.31 * t, 0.028 * t, 0.035 * t)


def _paint_person(canvas, rng, x, y, t):
    _paint_figure(canvas, rng, PERSON, x, y, t)


def _paint_wheels(label):
    """Return a function that paints a bicycle or a motorcycle."""
    def paint(canvas, rng, x, y, t):
        frame = canvas.add(label, rng.uniform(20, 120, 3))
        thickness = max(1, round(0.02 * t * canvas.height))
        for side in (-1, 1):
            canvas.ellipse(frame, x + side * 0.1 * t, y - 0.065 * t, 0.065 * t, 0.065 * t,
                           thickness if label == BICYCLE else -1)
        high, low = (0.13, 0.11) if label == BICYCLE else (0.2, 0.07)
        canvas.box(frame, x - 0.11 * t, y - high * t, x + 0.11 * t, y - low * t)
    return paint


def _paint_cyclist(canvas, rng, x, y, t, label=BICYCLE):
    _paint_figure(canvas, rng, RIDER, x, y - 0.08 * t, t)
    _paint_wheels(label)(canvas, rng, x, y, t)


def _paint_motorcyclist(canvas, rng, x, y, t):
    _paint_cyclist(canvas, rng, x, y, t, MOTORCYCLE)


def _paint_mast(canvas, rng, x, y, t):
    """Paint a pole, mostly with a sign or a traffic light at its top."""
    high = rng.uniform(0.6, 0.85)
    canvas.box(canvas.add(POLE, _grey(rng, 100, 150)), x - 0.012 * t, y - high * t, x + 0.012 * t, y)
    kind = rng.choice(3, p=(0.4, 0.35, 0.25))
    top = y - high * t
    if kind == 0:
        plate = canvas.add(TRAFFIC_SIGN, rng.choice(np.array([(205, 30, 40), (25, 75, 180), (225, 195, 35)])))
        canvas.ellipse(plate, x, top, 0.065 * t, 0.065 * t)
        canvas.box(canvas.add(TRAFFIC_SIGN, (240, 240, 240)), x - 0.035 * t, top - 0.014 * t, x + 0.035 * t,
                   top + 0.014 * t)
    elif kind == 1:
        canvas.box(canvas.add(TRAFFIC_LIGHT, (25, 28, 26)), x - 0.04 * t, top - 0.09 * t, x + 0.04 * t, top + 0.09 * t)
        lit = rng.integers(3)
        colour = ((245, 40, 30), (250, 180, 30), (40, 230, 120))[lit]
        canvas.ellipse(canvas.add(TRAFFIC_LIGHT, colour), x, top + (lit - 1) * 0.055 * t, 0.022 * t, 0.022 * t)


def _grey(rng, low, high):
    return np.full(3, rng.uniform(low, high))


def _green(rng):
    return rng.uniform((50, 85, 35), (95, 130, 65))
