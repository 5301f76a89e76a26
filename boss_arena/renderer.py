"""Draws one tick of the fight, third-person, as the game shows it."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from boss_arena.bodies import CHEST, GOLD, WHITE, Body, Color, Limb, Points, boss_body, hero_body
from boss_arena.scene import COURT_HALF, Scene

CAMERA_BACK, CAMERA_HEIGHT = 7.2, 3.0
PITCH = math.radians(9)
FIELD_OF_VIEW = math.radians(62)
NEAR = 0.5
"""Nothing closer to the camera is drawn."""

TEXTURE_PER_METRE = 14
TEXTURE_MARGIN = 25
"""Metres of wasteland that the ground texture goes on beyond the court."""

PILLARS = 20
PILLAR_HEIGHT, PARAPET_HEIGHT = 2.8, 0.9
FOG = (104, 92, 92)
NAME = "MARGIT, THE FELL OMEN"
SHORT_NAME = "MARGIT"
BLACK: Color = (0, 0, 0)
OUTLINE: Color = (30, 24, 26)


class Renderer:
    """Draws scenes at one size. The same scene always gives the same pixels."""

    def __init__(self, width: int, height: int):
        """Prepares the ground, the sky and the lettering.

        Args:
            width: of the frame in pixels.
            height: of the frame in pixels.
        """
        self._width, self._height = width, height
        self._focal = width / 2 / math.tan(FIELD_OF_VIEW / 2)
        self._horizon = max(round(height / 2 - self._focal * math.tan(PITCH)), 1)
        self._texture = _ground_texture()
        self._sky = _sky(width, self._horizon, self._focal)
        self._unit = max(height / 144, 0.5)
        """Pixels that stand for one pixel of a frame 144 high."""
        self._name = _lettering(NAME if width >= 240 else SHORT_NAME, max(0.32 * self._unit, 0.3))
        corners = np.linspace(-COURT_HALF, COURT_HALF, PILLARS // 4 + 1)[:-1]
        edge = np.full_like(corners, COURT_HALF)
        square = [(corners, -edge), (edge, corners), (-corners, edge), (-edge, -corners)]
        feet = np.concatenate([np.stack(side, axis=1) for side in square])
        heights = (0.0, PILLAR_HEIGHT, PARAPET_HEIGHT)
        self._edge_points = np.concatenate(
            [np.c_[feet, np.full(len(feet), height)] for height in heights]
        )

    def draw(self, scene: Scene) -> NDArray[np.uint8]:
        """A frame, uint8 [H, W, 3] RGB."""
        camera = _Camera(scene, self._width, self._height, self._focal)
        image = np.empty((self._height, self._width, 3), np.uint8)
        self._backdrop(image, camera)
        self._edge(image, camera)
        for x, y, radius, strength in scene.shockwaves:
            self._ring(image, camera, x, y, radius, strength)
        figures = [
            (camera.depth(scene.boss.x, scene.boss.y), scene.boss, 1.0),
            (camera.depth(scene.hero.x, scene.hero.y), scene.hero, 0.45),
        ]
        for _, figure, size in figures:
            self._shadow(image, camera, figure.x, figure.y, size)
        for _, figure, _ in sorted(figures, key=lambda entry: -entry[0]):
            if figure is scene.boss:
                boss = boss_body(figure, scene.second_phase)
                self._body(image, camera, boss)
                if scene.locked:
                    self._lock_dot(image, camera, boss)
            else:
                self._body(image, camera, hero_body(figure))
        for x, y, z, yaw in scene.daggers:
            self._dagger(image, camera, x, y, z, yaw)
        self._bars(image, scene)
        if "dead" in (scene.hero.pose, scene.boss.pose):
            self._verdict(image, scene)
        return image

    def _backdrop(self, image: NDArray[np.uint8], camera: "_Camera") -> None:
        turn = -camera.yaw % (2 * math.pi) / (2 * math.pi)
        left = int(turn * (self._sky.shape[1] - self._width))
        image[: self._horizon] = self._sky[:, left : left + self._width]
        below = image[self._horizon :]
        cv2.warpPerspective(
            self._texture,
            camera.ground_to_image(self._horizon),
            (self._width, self._height - self._horizon),
            dst=below,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=FOG,
        )

    def _edge(self, image: NDArray[np.uint8], camera: "_Camera") -> None:
        points, depth = camera.project(self._edge_points)
        feet, tops, walls = points.astype(np.int32).reshape(3, PILLARS, 2)
        # What stands between the camera and the hero is left out, or it would hide the fight.
        far = [d if d > CAMERA_BACK else 0.0 for d in depth[:PILLARS].tolist()]
        for pillar in sorted(range(PILLARS), key=lambda p: -far[p]):
            after = (pillar + 1) % PILLARS
            if far[pillar] and far[after]:
                quad = np.array([feet[pillar], feet[after], walls[after], walls[pillar]])
                cv2.fillConvexPoly(image, quad, _fade((70, 64, 62), far[pillar]))
        for pillar in range(PILLARS):
            if far[pillar]:
                half = max(1, round(self._focal * 0.4 / far[pillar]))
                (x, y), (_, top) = feet[pillar].tolist(), tops[pillar].tolist()
                shade = _fade((104, 94, 88), far[pillar])
                cv2.rectangle(image, (x - half, top), (x + half, y), shade, -1)

    def _ring(
        self,
        image: NDArray[np.uint8],
        camera: "_Camera",
        x: float,
        y: float,
        radius: float,
        strength: float,
    ) -> None:
        angles = np.linspace(0, 2 * math.pi, 33)
        circle = np.stack(
            [x + radius * np.cos(angles), y + radius * np.sin(angles), np.full(33, 0.15)], axis=1
        )
        points, depth = camera.project(circle)
        thickness = max(1, round(2.5 * self._unit * (0.5 + strength)))
        seen = depth > NEAR
        if seen.all():
            cv2.polylines(image, [points.astype(np.int32)], False, GOLD, thickness)
            return
        for a in np.flatnonzero(seen[:-1] & seen[1:]):
            _line(image, points[a], points[a + 1], GOLD, thickness)

    def _shadow(
        self, image: NDArray[np.uint8], camera: "_Camera", x: float, y: float, size: float
    ) -> None:
        points, depth = camera.project(np.array([[x, y, 0.0]]))
        if depth[0] > NEAR:
            across = self._focal * size / depth[0]
            centre = (int(points[0, 0]), int(points[0, 1]))
            axes = (max(1, int(across)), max(1, int(across * 0.32)))
            cv2.ellipse(image, centre, axes, 0, 0, 360, (44, 38, 38), -1)

    def _body(self, image: NDArray[np.uint8], camera: "_Camera", body: Body) -> None:
        points, depth = camera.project(body.joints)
        if depth.max() < NEAR:
            return
        if body.trail is not None:
            self._trail(image, camera, body.trail, body.trail_color)
        whole = points.astype(np.int32)
        pixels, far = whole.tolist(), depth.tolist()
        strokes = []
        for part in body.parts:
            joints = (part.start, part.end) if isinstance(part, Limb) else part.joints
            depths = [far[joint] for joint in joints]
            if min(depths) > NEAR:
                strokes.append((-sum(depths) / len(depths), part))
        strokes.sort(key=lambda stroke: stroke[0])
        outline = max(2, round(1.6 * self._unit))
        # A dark outline around the whole figure first sets it off from the ground.
        for grown in (outline, 0):
            for behind, part in strokes:
                shade = OUTLINE if grown else part.color
                if isinstance(part, Limb):
                    wide = max(1, round(-2 * self._focal * part.radius / behind)) + grown
                    start, end = pixels[part.start], pixels[part.end]
                    if part.start == part.end:
                        cv2.circle(image, start, max(1, wide // 2), shade, -1)
                    else:
                        cv2.line(image, start, end, shade, wide)
                elif not grown:
                    cv2.fillPoly(image, [whole[list(part.joints)]], shade)

    def _trail(
        self, image: NDArray[np.uint8], camera: "_Camera", trail: Points, color: Color
    ) -> None:
        points, depth = camera.project(trail)
        if depth.min() < NEAR:
            return
        pixels = points.astype(np.int32)
        steps = len(pixels) // 2
        hilts, tips = pixels[::2], pixels[1::2]
        # Only the outer part of the sweep glows, so that the body behind it stays visible.
        inner = (hilts + tips) // 2
        for step in range(steps - 1):
            share = 0.45 + 0.55 * (step + 1) / (steps - 1)
            shade = [int(channel * share) for channel in color]
            quad = np.array([inner[step], tips[step], tips[step + 1], inner[step + 1]])
            cv2.fillPoly(image, [quad], shade)

    def _dagger(
        self,
        image: NDArray[np.uint8],
        camera: "_Camera",
        x: float,
        y: float,
        z: float,
        yaw: float,
    ) -> None:
        along = np.array([math.cos(yaw), math.sin(yaw), 0.0]) * 0.6
        centre = np.array([x, y, z])
        points, depth = camera.project(np.stack([centre - along, centre + along]))
        if depth.min() > NEAR:
            wide = max(1, round(self._focal * 0.22 / depth[0]))
            _line(image, points[0], points[1], GOLD, wide)
            cv2.circle(image, (int(points[1, 0]), int(points[1, 1])), wide, WHITE, -1)

    def _lock_dot(self, image: NDArray[np.uint8], camera: "_Camera", boss: Body) -> None:
        points, depth = camera.project(boss.joints[CHEST : CHEST + 1])
        if depth[0] > NEAR:
            centre = (int(points[0, 0]), int(points[0, 1]))
            cv2.circle(image, centre, max(2, round(3 * self._unit)), (40, 36, 40), -1)
            cv2.circle(image, centre, max(1, round(2 * self._unit)), (255, 255, 255), -1)

    def _bars(self, image: NDArray[np.uint8], scene: Scene) -> None:
        unit = self._unit
        left, top, high = round(8 * unit), round(7 * unit), max(2, round(3 * unit))
        lengths = (0.34, 0.22, 0.28)
        shares = (scene.hero_health, scene.hero_focus, scene.hero_stamina)
        colors: tuple[Color, ...] = ((178, 34, 34), (50, 84, 178), (58, 146, 66))
        for row, (length, share, color) in enumerate(zip(lengths, shares, colors, strict=True)):
            y = top + row * (high + max(1, round(2 * unit)))
            _bar(image, left, y, round(length * self._width), high, share, color)
        wide = round(0.56 * self._width)
        x, y = (self._width - wide) // 2, self._height - round(11 * unit)
        _bar(image, x, y, wide, high, scene.boss_health, (190, 30, 30))
        self._write(image, self._name, x, y - self._name.shape[0] - 1)

    def _write(self, image: NDArray[np.uint8], mask: NDArray[np.bool_], x: int, y: int) -> None:
        region = image[max(y, 0) : max(y, 0) + mask.shape[0], x : x + mask.shape[1]]
        region[mask[: region.shape[0], : region.shape[1]]] = (222, 214, 196)

    def _verdict(self, image: NDArray[np.uint8], scene: Scene) -> None:
        lost = scene.hero.pose == "dead"
        text, color = ("YOU DIED", (168, 28, 28)) if lost else ("ENEMY FELLED", (236, 196, 92))
        middle = slice(round(0.4 * self._height), round(0.6 * self._height))
        image[middle] //= 3
        scale = 0.9 * self._unit * min(1.0, self._width / self._height / 1.4)
        (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_TRIPLEX, scale, 1)
        at = ((self._width - wide) // 2, (self._height + high) // 2)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_TRIPLEX, scale, color, max(1, round(scale)))


class _Camera:
    """Behind the hero and above, looking along the camera's yaw and a little down."""

    def __init__(self, scene: Scene, width: int, height: int, focal: float):
        yaw = scene.camera_yaw
        self.yaw = yaw
        self._forward = np.array([math.cos(yaw), math.sin(yaw)])
        x, y = (scene.hero.x, scene.hero.y) - CAMERA_BACK * self._forward
        self._position = np.array([x, y, CAMERA_HEIGHT])
        cos, sin = math.cos(PITCH), math.sin(PITCH)
        ahead, across = self._forward, (self._forward[1], -self._forward[0])
        self._axes = np.array(
            [
                [across[0], across[1], 0.0],
                [-ahead[0] * sin, -ahead[1] * sin, -cos],
                [ahead[0] * cos, ahead[1] * cos, -sin],
            ]
        )
        """Rows: right, down and into the picture."""
        self._focal = focal
        self._centre = np.array([width / 2, height / 2])

    def depth(self, x: float, y: float) -> float:
        """Distance of a point on the ground from the camera, along its view."""
        return float(self._axes[2] @ (np.array([x, y, 0.0]) - self._position))

    def project(self, points: Points) -> tuple[Points, Points]:
        """Pixels [n, 2] and depths [n] of points [n, 3]; at depths below NEAR they mean nothing."""
        seen = (points - self._position) @ self._axes.T
        depth = seen[:, 2]
        pixels = self._focal * seen[:, :2] / np.maximum(depth, 0.05)[:, None] + self._centre
        return np.clip(pixels, -4000, 4000), depth

    def ground_to_image(self, first_row: int) -> Points:
        """Homography from the ground texture to the rows of the image from `first_row` on."""
        intrinsic = np.array(
            [
                [self._focal, 0, self._centre[0]],
                [0, self._focal, self._centre[1] - first_row],
                [0, 0, 1],
            ]
        )
        plane = np.column_stack([self._axes[:, 0], self._axes[:, 1], -self._axes @ self._position])
        half = COURT_HALF + TEXTURE_MARGIN
        texture = np.array(
            [[1 / TEXTURE_PER_METRE, 0, -half], [0, 1 / TEXTURE_PER_METRE, -half], [0, 0, 1]]
        )
        return intrinsic @ plane @ texture


def _line(image: NDArray[np.uint8], a: Points, b: Points, color: Color, thickness: int) -> None:
    cv2.line(image, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), color, thickness)


def _bar(
    image: NDArray[np.uint8], x: int, y: int, wide: int, high: int, share: float, color: Color
) -> None:
    cv2.rectangle(image, (x - 1, y - 1), (x + wide, y + high), BLACK, -1)
    full = round(wide * share)
    if full > 0:
        cv2.rectangle(image, (x, y), (x + full - 1, y + high - 1), color, -1)


def _fade(color: Color, depth: float) -> Color:
    share = min(depth / 45, 0.8)
    red, green, blue = (int(c + (fog - c) * share) for c, fog in zip(color, FOG, strict=True))
    return red, green, blue


def _lettering(text: str, scale: float) -> NDArray[np.bool_]:
    (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    canvas = np.zeros((high + base + 2, wide + 2), np.uint8)
    cv2.putText(canvas, text, (1, high + 1), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1)
    return canvas > 100


def _ground_texture() -> NDArray[np.uint8]:
    """Stone slabs with cracks on the court, dark waste around it. Always the same."""
    rng = np.random.default_rng(7)
    side = round(2 * (COURT_HALF + TEXTURE_MARGIN) * TEXTURE_PER_METRE)
    noise = cv2.resize(rng.normal(size=(side // 24, side // 24)), (side, side))
    fine = cv2.resize(rng.normal(size=(side // 4, side // 4)), (side, side))
    court = np.empty((side, side, 3), np.float32)
    court[:] = (84, 76, 70)
    court += (7 * noise + 4 * fine)[..., None]
    low, high = TEXTURE_MARGIN * TEXTURE_PER_METRE, side - TEXTURE_MARGIN * TEXTURE_PER_METRE
    slab = 2 * TEXTURE_PER_METRE
    for row, y in enumerate(range(low, high, slab)):
        for x in range(low - (row % 2) * slab // 2, high, slab):
            tone = rng.normal(scale=9)
            left, right = max(x, low), min(x + slab, high)
            court[y : y + slab, left:right] += (34 + tone, 30 + tone, 26 + tone)
            court[y : y + 2, left:right] -= 34
            court[y : y + slab, left : left + 2] -= 34
    for _ in range(70):
        x, y = rng.uniform(low, high, 2)
        for _ in range(6):
            dx, dy = rng.normal(scale=14, size=2)
            ends = (int(x), int(y)), (int(x + dx), int(y + dy))
            cv2.line(court, *ends, (62, 56, 52), 2)
            x, y = x + dx, y + dy
    cv2.circle(court, (side // 2, side // 2), 7 * TEXTURE_PER_METRE, (150, 132, 96), 5)
    cv2.circle(court, (side // 2, side // 2), 3 * TEXTURE_PER_METRE, (150, 132, 96), 3)
    cv2.rectangle(court, (low, low), (high, high), (58, 52, 50), 12)
    distance = np.abs(np.linspace(-1, 1, side)) ** 3
    haze = np.maximum(distance[:, None], distance[None])[..., None].astype(np.float32)
    return np.clip(court + haze * (np.array(FOG, np.float32) - court), 0, 255).astype(np.uint8)


def _sky(width: int, height: int, focal: float) -> NDArray[np.uint8]:
    """A dusk panorama with castle silhouettes, [height, once around plus width, 3]."""
    rng = np.random.default_rng(11)
    around = round(2 * math.pi * focal)
    share = np.linspace(0, 1, height)[:, None, None]
    top, low = np.array([58.0, 56.0, 84.0]), np.array([196.0, 148.0, 108.0])
    sky = np.broadcast_to(top + (low - top) * share**1.6, (height, around, 3)).copy()
    clouds = cv2.resize(rng.normal(size=(6, 40)), (around, height), interpolation=cv2.INTER_CUBIC)
    sky += 9 * clouds[..., None]
    edge = np.cumsum(rng.normal(size=around // 8))
    edge -= np.linspace(0, edge[-1], len(edge))
    ridge = cv2.resize(edge[None], (around, 1))[0]
    ridge = height * (0.72 - 0.12 * ridge / max(abs(ridge).max(), 1e-6))
    rows = np.arange(height)[:, None]
    sky[rows > ridge[None]] = (92, 82, 92)
    for _ in range(26):
        x, wide = int(rng.uniform(0, around)), int(rng.uniform(0.02, 0.06) * width)
        tall = rng.uniform(0.3, 0.75) * height
        sky[int(height - tall) :, x : x + wide] = (66, 60, 72)
        sky[int(height - tall * 1.15) : int(height - tall), x : x + max(wide // 3, 1)] = (
            66,
            60,
            72,
        )
    sun = int(0.3 * around)
    cv2.circle(sky, (sun, int(0.75 * height)), max(2, height // 6), (255, 226, 168), -1)
    around_again = np.concatenate([sky, sky[:, :width]], axis=1)
    return np.clip(around_again, 0, 255).astype(np.uint8)
