"""The lines of ruled and squared paper: found from border to border, and taken out without the strokes they cross."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lekhani.inference.session import Floats

FAINTEST = 0.1  # ink of a rule, in parts of the writing's
STEEPEST = 0.7  # rows per column, or columns per row
MOST = 40  # places on one border, beyond which a picture is too busy for rules
LIKE_A_STROKE = 0.7  # in parts of a stroke's thickness and ink: such a line may be one of the glyph
FEW = 3  # lines like strokes are rules only where there are so many

Point = tuple[float, float]  # row and column


@dataclass(frozen=True)
class _Rule:
    """A line, level in the picture as it is or transposed, with half its thickness in pixels and its ink."""

    start: Point
    end: Point
    reach: int
    ink: float

    @property
    def slope(self) -> float:
        return (self.end[0] - self.start[0]) / (self.end[1] - self.start[1])


def without_rules(ink: Floats, *, thick: bool = False) -> tuple[Floats, float | None, bool]:
    """Ink [H,W], 1 where the pen wrote, without rules, and by how many degrees their level ones rise to the right.

    None where there are no level ones. Few lines as thick and dark as strokes may be strokes, such as the head line in
    a picture that is cut to it: they stay unless `thick` is set, and the last value says whether there are any.
    """
    cleaned, slopes, doubtful = ink, [], False
    for turned in (False, True, False):  # level ones again, since upright ones along a border hide them
        page = cleaned.T if turned else cleaned
        rules = _distinct(_rules(page))
        erased = page.copy()
        for rule in rules:
            _erase(erased, page, rule)
        if not rules or erased.sum() < 0.1 * page.sum():
            continue
        stroke = LIKE_A_STROKE * _thickness(erased)
        like_strokes = [rule for rule in rules if rule.ink > LIKE_A_STROKE and 2 * rule.reach + 1 > stroke]
        if 0 < len(like_strokes) < FEW and not thick:
            doubtful = True
            continue
        cleaned = erased.T if turned else erased
        slopes += [] if turned else [rule.slope for rule in rules]
    rise = float(np.degrees(np.arctan(-np.median(slopes)))) if slopes else None
    return cleaned, rise, doubtful


def _rules(ink: Floats) -> list[_Rule]:
    """Lines across the picture that are rather level, the clearest first."""
    height, width = ink.shape
    (left, west), (right, east), (top, north), (bottom, south) = (
        _places(edge) for edge in (ink.T, ink.T[::-1], ink, ink[::-1])
    )
    upper, lower = [(north, column) for column in top], [(height - 1 - south, column) for column in bottom]
    starts = [(row, west) for row in left] + [end for end in upper + lower if end[1] < width / 2]
    ends = [(row, width - 1 - east) for row in right] + [end for end in upper + lower if end[1] >= width / 2]
    found = [rule for start in starts for end in ends if (rule := _rule(ink, start, end))]
    return sorted(found, key=lambda rule: -rule.ink)


def _places(ink: Floats) -> tuple[list[float], int]:
    """Where lines may meet the first rows of a picture, and which row that is: not one with a line along it."""
    for row in range(max(len(ink) // 16, 1)):
        dark = ink[row : row + 2].max(0) > FAINTEST
        if dark.mean() < 0.5:
            spots, count = ndimage.label(dark)
            found = [box[0] for box in ndimage.find_objects(spots)] if count <= MOST else []
            narrow = [part for part in found if part.stop - part.start < max(len(dark) / 4, 8)]
            return [(part.start + part.stop - 1) / 2 for part in narrow], row
    return [], 0


def _rule(ink: Floats, start: Point, end: Point) -> _Rule | None:
    """The line between two points of the border, if it is dark all along and its neighbourhood mostly is not."""
    length = end[1] - start[1]
    if length < ink.shape[1] / 2 or abs(end[0] - start[0]) > STEEPEST * length:
        return None
    coarse = _along(ink, start, end, 1, step=4).max(0)
    if (coarse > FAINTEST).mean() < 0.8:
        return None
    room = max(min(ink.shape) // 25, 4)
    profile = np.quantile(_along(ink, start, end, room), 0.3, 1)  # strokes may lie along most of it
    middle = room - 2 + int(profile[room - 2 : room + 3].argmax())
    level, reach = float(profile[middle]), 0
    while reach < room - 2 and max(profile[middle - reach - 1], profile[middle + reach + 1]) > level / 2:
        reach += 1
    if level < FAINTEST or reach == room - 2 or max(profile[0], profile[-1]) > 0.35 * level:
        return None
    shift = middle - room
    return _Rule((start[0] + shift, start[1]), (end[0] + shift, end[1]), reach, level)


def _distinct(rules: list[_Rule]) -> list[_Rule]:
    """Rules of one direction, without those that are nearly another one."""
    if not rules:
        return []
    usual = float(np.median([rule.slope for rule in rules]))
    kept: list[_Rule] = []
    for rule in sorted(rules, key=lambda one: abs(one.slope - usual)):
        near = 2 * rule.reach + 3
        if abs(rule.slope - usual) < 0.04 and all(
            abs(rule.start[0] - other.start[0] - usual * (rule.start[1] - other.start[1])) > near for other in kept
        ):
            kept.append(rule)
    return kept


def _cells(start: Point, end: Point, reach: int, step: int = 1) -> tuple[npt.NDArray[np.intp], ...]:
    """Rows [2*reach+1, N] and columns [N] of pixels along a line."""
    columns = np.arange(int(np.ceil(start[1])), int(end[1]) + 1, step)
    middle = start[0] + (columns - start[1]) * (end[0] - start[0]) / (end[1] - start[1])
    rows = np.rint(middle).astype(np.intp) + np.arange(-reach, reach + 1)[:, None]
    return rows, columns


def _along(ink: Floats, start: Point, end: Point, reach: int, step: int = 1) -> Floats:
    """Ink [2*reach+1, N] along a line; beyond the picture there is none."""
    rows, columns = _cells(start, end, reach, step)
    inside = (rows >= 0) & (rows < len(ink))
    return np.where(inside, ink[np.clip(rows, 0, len(ink) - 1), columns], np.float32(0))


def _erase(page: Floats, ink: Floats, rule: _Rule) -> None:
    """Take a rule out of `page`, but where strokes cross it or lie on it, as `ink` shows."""
    reach = rule.reach + 1
    strip = _along(ink, rule.start, rule.end, reach + 2)
    beside = np.maximum(strip[:2].max(0), strip[-2:].max(0)) > max(0.4, 0.75 * rule.ink)
    on_it = strip[2:-2].max(0) > 1.3 * rule.ink + 0.15
    kept = ndimage.binary_closing(np.pad(beside | on_it, reach), np.ones(2 * reach + 1))[reach:-reach]
    rows, columns = _cells(rule.start, rule.end, reach)
    page[np.clip(rows[:, ~kept], 0, len(page) - 1), columns[~kept]] = 0


def _thickness(ink: Floats) -> float:
    """How thick strokes are, in pixels."""
    strokes = np.pad(ink > 0.5, 1)
    depth = ndimage.distance_transform_edt(strokes)[strokes]
    return 4 * float(depth.mean()) - 1 if len(depth) else 0.0
