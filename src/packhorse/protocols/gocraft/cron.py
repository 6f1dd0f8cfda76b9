"""Cron specs as robfig/cron v3 understands them, since the Go library plans its periodic jobs with it.

Called by the periodic enqueuer and by the check of a spec at registration. Invariant: the same spec, zone and
moment give the fire time that robfig gives, also where that is odd (daylight saving: quirks section 6).
"""

from __future__ import annotations

import re
import time
from calendar import monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from types import MappingProxyType
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400
_EPOCH: Final = date(1970, 1, 1).toordinal()
#: The end of 1999: every date of the calendar comes within the next five years, the leap day too.
_REFERENCE: Final = 946684799


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: Mapping[str, int]
    allowed: str


_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FORMS = "*, lists (1,2), ranges (1-5), steps (*/5, 10/5)"
_FIELDS: Final = (
    _Field("second", 0, 59, {}, f"0-59, {_FORMS}"),
    _Field("minute", 0, 59, {}, f"0-59, {_FORMS}"),
    _Field("hour", 0, 23, {}, f"0-23, {_FORMS}"),
    _Field("day-of-month", 1, 31, {}, f"1-31, {_FORMS}"),
    _Field("month", 1, 12, _MONTHS, f"1-12, jan-dec, {_FORMS}"),
    _Field("day-of-week", 0, 6, _WEEKDAYS, f"0-6 (0 is Sunday), sun-sat, {_FORMS}"),
)
_DESCRIPTORS: Final = {
    "@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *", "@monthly": "0 0 0 1 * *", "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *", "@midnight": "0 0 0 * * *", "@hourly": "0 0 * * * *",
}  # fmt: skip
_EVERY: Final = "@every "
#: Nanoseconds. Two characters serve as the sign for micro.
_UNITS: Final = {
    "ns": 1, "us": 10**3, "\u00b5s": 10**3, "\u03bcs": 10**3, "ms": 10**6,
    "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip

_INT64_MAX: Final = 2**63 - 1
#: What Go takes for white space; str.split() would take four control characters more.
_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_words_of = re.compile(f"[^{_SPACES}]+").findall
_number_of = re.compile(r"\+?0*([0-9]{1,19})").fullmatch
_UNIT: Final = "|".join(_UNITS)
_duration_of = re.compile(rf"([-+]?)(?:0|((?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:{_UNIT}))+))").fullmatch
_duration_parts = re.compile(rf"([0-9]*)\.?([0-9]*)({_UNIT})").findall


class CronError(ValueError):
    """A spec that robfig/cron would refuse, or one that never fires.

    `field` names the part at fault ("minute", "time zone", or "spec" for the whole), `problem` shows the bad
    value, `allowed` says what can stand there.
    """

    def __init__(self, spec: str, field: str, problem: str, allowed: str) -> None:
        super().__init__(spec, field, problem, allowed)  # all of them in args, so that it survives pickling
        self.spec = spec
        self.field = field
        self.problem = problem
        self.allowed = allowed

    def __str__(self) -> str:
        where = "" if self.field == "spec" else f": {self.field}"
        return f"cron spec {self.spec!r}{where} {self.problem}; allowed: {self.allowed}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Fire times by the calendar. A set of numbers is a bit mask: bit n stands for the number n.

    `every_day` and `every_weekday` record a star, which makes both day fields count instead of either one.
    `zone` None is the zone of this process, as the C library knows it.
    """

    seconds: int
    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    every_day: bool
    every_weekday: bool
    zone: tzinfo | None

    def next(self, after: int) -> int | None:
        """The first fire time later than the unix second `after`; None if five calendar years have none.

        >>> parse("30 4 * * 1", UTC).next(1600000000)
        1600057800
        """
        if not (self.seconds and self.minutes and self.hours and self.months):
            return None  # fields such as `,`: looking for them would visit every minute of five years
        start = after + 1
        # Around changes that are not on the hour (Newfoundland until 2011) robfig can step back, and would
        # then give the same past time for ever.
        while (at := self._next(start)) is not None and at <= after:
            start += _MINUTE
        return at

    def _next(self, start: int) -> int | None:
        walk = _Walk(start, self.zone)
        last_year = walk.date().year + 5
        while walk.date().year <= last_year:
            if (
                self._seek_month(walk)
                and self._seek_day(walk)
                and walk.seek(self.hours, _HOUR, 24)
                and walk.seek(self.minutes, _MINUTE, 60)
                and walk.seek(self.seconds, 1, 60)
            ):
                return walk.at
        return None

    def _seek_month(self, walk: _Walk) -> bool:
        today = walk.date()
        while not self.months >> today.month & 1:
            if walk.first_change():
                walk.set_wall((today.replace(day=1).toordinal() - _EPOCH) * _DAY)
                today = walk.date()  # the day before where midnight is missing, and robfig goes on from there
            walk.set_wall(walk.wall + _length(today) * _DAY)
            today = walk.date()
            if today.month == 1:
                return False
        return True

    def _seek_day(self, walk: _Walk) -> bool:
        while True:
            today = walk.date()
            if self._days_of(today) >> today.day & 1:
                return True
            if walk.first_change():
                walk.set_wall(walk.wall - walk.wall % _DAY)
                today = walk.date()
            walk.add_days(_distance(self._days_of(today) >> today.day, _length(today) - today.day + 1))
            if walk.date().day == 1:
                return False

    def _days_of(self, month: date) -> int:
        """The days of this month on which it fires."""
        first = month.replace(day=1).isoweekday() % 7
        week = (self.weekdays >> first | self.weekdays << 7 - first) & 0x7F
        by_weekday = (week | week << 7 | week << 14 | week << 21 | week << 28) << 1
        days = self.days & by_weekday if self.every_day or self.every_weekday else self.days | by_weekday
        return days & (2 << _length(month)) - 1


@dataclass(frozen=True, slots=True)
class Every:
    """`@every`: a delay in whole seconds, at least one."""

    delay: int

    def next(self, after: int) -> int:
        """Robfig's: relative to the moment of asking, so two askers get two series."""
        return after + self.delay

    def aligned_next(self, after: int) -> int:
        """The next multiple of the delay since the epoch: the same for whoever asks."""
        return (after // self.delay + 1) * self.delay


def parse(spec: str, default_zone: tzinfo | None = None, *, reject_never: bool = True) -> Schedule | Every:
    """A schedule from a spec of five or six fields, a descriptor or `@every`, with or without `TZ=<zone>`.

    Without `TZ=` it counts in `default_zone`, or in this process's local zone as Go does. With `reject_never`
    off, a spec that never fires is accepted (in Go it runs over and over). Errors: CronError.
    """
    zone, rest = _split_zone(spec, default_zone)
    if rest.startswith(_EVERY):
        return Every(max(1, _duration(spec, rest.removeprefix(_EVERY)) // 10**9))
    if rest.startswith("@"):
        if rest not in _DESCRIPTORS:
            allowed = " ".join((*_DESCRIPTORS, "and @every with a duration such as 1h30m"))
            raise CronError(spec, "descriptor", f"{rest!r} is unknown", allowed)
        rest = _DESCRIPTORS[rest]
    schedule = _calendar(spec, rest, zone)
    if reject_never and schedule.next(_REFERENCE) is None:
        raise CronError(spec, "spec", "never fires", "dates that exist, and at least one value in each field")
    return schedule


class _Walk:
    """A moment on its way to the next fire time.

    `at` is unix seconds; `wall` is what the zone's clock shows then, in seconds since its own 1970-01-01.
    The steps are robfig's, down to what they do at a change of offset; stretches without one are leapt over.
    """

    __slots__ = ("_changed", "_offset_at", "at", "wall")

    at: int
    wall: int

    def __init__(self, at: int, zone: tzinfo | None) -> None:
        self._offset_at = _offsets(zone)
        self._changed = False
        self._go_to(at)

    def date(self) -> date:
        return date.fromordinal(_EPOCH + self.wall // _DAY)

    def first_change(self) -> bool:
        """True once: the smaller fields are set to their start at the first step only."""
        first = not self._changed
        self._changed = True
        return first

    def set_wall(self, wall: int) -> None:
        """To the moment at which the clock shows this; to Go's choice where there is none, or two."""
        self._go_to(wall - self._offset_at(wall - self._offset_at(wall)))

    def add_days(self, days: int) -> None:
        """The same time of day later on, then back or forth to midnight if it is not midnight there."""
        at, offset = self.at, self.wall - self.at
        if self.wall % _DAY or self._offset_at(at + days * _DAY) != offset:
            days = 1  # around a change each single midnight counts, since one may be missing
        self.set_wall(self.wall + days * _DAY)
        if self.at <= at:  # the zone left out a day (Samoa, 2011): Go would stay here for ever
            self._go_to(at + _DAY)
        hour = self.wall // _HOUR % 24
        if hour:
            self._go_to(self.at + (24 - hour if hour > 12 else -hour) * _HOUR)

    def seek(self, mask: int, unit: int, size: int) -> bool:
        """On to the next unit in the mask; False if the next larger unit began first."""
        while True:
            value = self.wall // unit % size
            if mask >> value & 1:
                return True
            if self.first_change():
                self._cut(unit)
                value = self.wall // unit % size
            at = self.at + _distance(mask >> value, size - value) * unit
            if self._offset_at(at) != self.wall - self.at:
                at = self.at + unit
            self._go_to(at)
            if self.wall // unit % size == 0:
                return False

    def _cut(self, unit: int) -> None:
        if unit == _HOUR:
            self.set_wall(self.wall - self.wall % _HOUR)
        else:
            self._go_to(self.at - self.at % unit)

    def _go_to(self, at: int) -> None:
        self.at = at
        self.wall = at + self._offset_at(at)


def _distance(mask: int, otherwise: int) -> int:
    """Steps from bit 0 to the next higher bit that is set."""
    mask &= ~1
    return (mask & -mask).bit_length() - 1 if mask else otherwise


def _length(month: date) -> int:
    return monthrange(month.year, month.month)[1]


def _offsets(zone: tzinfo | None) -> Callable[[int], int]:
    """The zone as a function from unix seconds to seconds east of Greenwich."""
    if zone is None:
        return lambda at: time.localtime(at).tm_gmtoff
    if isinstance(zone, timezone):
        constant = _whole_seconds(zone.utcoffset(None))
        return lambda at: constant
    return lambda at: _whole_seconds(datetime.fromtimestamp(at, zone).utcoffset())


def _whole_seconds(offset: timedelta | None) -> int:
    return offset.days * _DAY + offset.seconds if offset is not None else 0


def _split_zone(spec: str, default_zone: tzinfo | None) -> tuple[tzinfo | None, str]:
    for prefix in ("TZ=", "CRON_TZ="):
        if spec.startswith(prefix):
            name, space, rest = spec.removeprefix(prefix).partition(" ")
            if not space:
                raise CronError(spec, "spec", "ends after the time zone", "TZ=<zone> <fields or descriptor>")
            return _zone(spec, name, default_zone), rest.strip(_SPACES)
    return default_zone, spec


def _zone(spec: str, name: str, default_zone: tzinfo | None) -> tzinfo | None:
    if name in ("", "UTC"):
        return UTC
    if name == "Local":
        return default_zone
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path out of the database, a directory of it
        allowed = "an IANA name such as Europe/Berlin, UTC, Local"
        raise CronError(spec, "time zone", f"{name!r} is unknown", allowed) from None


def _duration(spec: str, text: str) -> int:
    """Nanoseconds, each part rounded as Go's ParseDuration does it."""
    match = _duration_of(text)
    allowed = "numbers with units such as 90s, 1h30m, 1.5h (ns us ms s m h), up to 292 years"
    if match is None or len(text) > 1000:
        raise CronError(spec, "@every", f"has {text!r}, which is no duration", allowed)
    total = 0
    for whole, fraction, unit in _duration_parts(match[2] or ""):
        total += int(whole or "0") * _UNITS[unit]
        digits = fraction[:18]  # Go, too, stops before its 64 bits are full
        total += int(float(digits or "0") * (_UNITS[unit] / 10.0 ** len(digits)))
    if total > _INT64_MAX:
        raise CronError(spec, "@every", f"has {text!r}, which is too long", allowed)
    return -total if match[1] == "-" else total


def _calendar(spec: str, text: str, zone: tzinfo | None) -> Schedule:
    words = _words_of(text)
    if len(words) not in (5, 6):
        allowed = "5 fields (minute hour day-of-month month day-of-week), 6 (second first), or a descriptor"
        raise CronError(spec, "spec", f"has {len(words)} fields" if len(words) != 1 else "has 1 field", allowed)
    if len(words) == 5:
        words.insert(0, "0")
    parsed = [_parse_field(spec, field, word) for field, word in zip(_FIELDS, words, strict=True)]
    (seconds, _), (minutes, _), (hours, _), (days, every_day), (months, _), (weekdays, every_weekday) = parsed
    return Schedule(seconds, minutes, hours, days, months, weekdays, every_day, every_weekday, zone)


def _parse_field(spec: str, field: _Field, text: str) -> tuple[int, bool]:
    """The numbers of a field as a mask, and whether a star without a step is among its parts."""
    mask, every = 0, False
    for part in text.split(","):
        if not part:
            continue  # as Go does, even if there is no other part
        try:
            numbers, star = _parse_part(field, part)
        except ValueError as problem:
            raise CronError(spec, field.name, f"has {part!r}: {problem}", field.allowed) from None
        every |= star
        for number in numbers:
            mask |= 1 << number
    return mask, every


def _parse_part(field: _Field, part: str) -> tuple[range, bool]:
    span, *steps = part.split("/")
    if len(steps) > 1:
        raise ValueError("more than one slash")
    step = _number(steps[0]) if steps else 1
    if step == 0:
        raise ValueError("a step of 0")
    low, *highs = span.split("-")
    if low in ("*", "?"):  # what follows a star, as in `*-5`, Go does not read
        return range(field.low, field.high + 1, step), step == 1
    if len(highs) > 1:
        raise ValueError("more than one hyphen")
    first = _number(low, field.names)
    last = _number(highs[0], field.names) if highs else field.high if steps else first
    if first < field.low:
        raise ValueError(f"{first} is below {field.low}")
    if max(first, last) > field.high:
        raise ValueError(f"{max(first, last)} is above {field.high}")
    if first > last:
        raise ValueError("the range runs backwards")
    return range(first, last + 1, step), False


def _number(text: str, names: Mapping[str, int] = MappingProxyType({})) -> int:
    """A name, or a number as Go reads it: `+5` and `007` are numbers, `5.0` and `5_0` are none."""
    if text.lower() in names:
        return names[text.lower()]
    digits = _number_of(text)
    if digits is None or int(digits[1]) > _INT64_MAX:
        raise ValueError(f"{text!r} is no number here")
    return int(digits[1])
