"""cron against robfig's own answers, and against models that look at every second, minute or day."""

from __future__ import annotations

import dataclasses
import doctest
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as clock_time
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import cron as golden

from packhorse.protocols.gocraft import cron
from packhorse.protocols.gocraft.cron import CronError, Every, Schedule, parse

FROM = 1600000000  # Sunday 2020-09-13 12:26:40 UTC


def following(schedule: Schedule | Every, after: int, count: int) -> list[int | None]:
    """That many fire times in a row, or fewer and a None."""
    found: list[int | None] = []
    at: int | None = after
    while at is not None and len(found) < count:
        at = schedule.next(at)
        found.append(at)
    return found


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the zone of this process, as an operator does with TZ."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


# Robfig's own answers.


@pytest.mark.parametrize("row", golden()["next"], ids=itemgetter("spec"))
def test_fires_when_robfig_fires(row: dict[str, Any]) -> None:
    schedule = parse(row["spec"], ZoneInfo(row["tz"]), reject_never=False)
    assert following(schedule, row["from"], len(row["next"])) == row["next"]


@pytest.mark.parametrize("row", golden()["next"], ids=itemgetter("spec"))
def test_without_a_zone_it_counts_in_the_zone_of_the_process(row: dict[str, Any], local_zone: Any) -> None:
    local_zone(row["tz"])
    schedule = parse(row["spec"], reject_never=False)
    assert following(schedule, row["from"], len(row["next"])) == row["next"]


@pytest.mark.parametrize("spec", [row["spec"] for row in golden()["rejected"]])
def test_refuses_what_robfig_refuses(spec: str) -> None:
    with pytest.raises(CronError) as caught:
        parse(spec)
    assert str(caught.value).startswith(f"cron spec {spec!r}")
    assert caught.value.allowed


# Errors and odd specs.


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("60 * * * *", "minute has '60': 60 is above 59; allowed: 0-59, *, lists"),
        ("0 0 * * sun-7", "day-of-week has 'sun-7': 7 is above 6; allowed: 0-6 (0 is Sunday), sun-sat"),
        ("0 0 0,1 * *", "day-of-month has '0': 0 is below 1; allowed: 1-31"),
        ("0 0 * 5-2 *", "month has '5-2': the range runs backwards; allowed: 1-12, jan-dec"),
        ("0 1.5 * * *", "hour has '1.5': '1.5' is no number here"),
        ("*/0 * * * * *", "second has '*/0': a step of 0"),
        ("1-2-3 * * * *", "minute has '1-2-3': more than one hyphen"),
        ("1/2/3 * * * *", "minute has '1/2/3': more than one slash"),
        ("0 jan * * *", "hour has 'jan': 'jan' is no number here"),
        ("*/99999999999999999999 * * * *", "'99999999999999999999' is no number here"),
        ("\u0665 * * * *", "is no number here"),
        ("1_0 * * * *", "'1_0' is no number here"),
        ("*\x1c* * * *", "has 4 fields"),
        (
            "* * *",
            "has 3 fields; allowed: 5 fields (minute hour day-of-month month day-of-week), 6 (second first)",
        ),
        ("@foo", "descriptor '@foo' is unknown; allowed: @yearly @annually"),
        ("@daily ", "descriptor '@daily ' is unknown"),
        ("@every 1d", "@every has '1d', which is no duration; allowed: numbers with units"),
        ("@every  5s", "@every has ' 5s', which is no duration"),
        ("@every .s", "@every has '.s', which is no duration"),
        ("@every 3000000h", "@every has '3000000h', which is too long"),
        ("TZ=Mars/Base * * * * *", "time zone 'Mars/Base' is unknown; allowed: an IANA name"),
        ("TZ=../UTC * * * * *", "time zone '../UTC' is unknown"),
        ("TZ=Europe * * * * *", "time zone 'Europe' is unknown"),
        ("TZ=UTC", "ends after the time zone; allowed: TZ=<zone>"),
        ("TZ=UTC ", "has 0 fields"),
        ("0 0 30 2 *", "never fires; allowed: dates that exist"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        (", * * * *", "never fires"),
        ("* * , * *", "never fires"),
    ],
)
def test_errors_name_the_field_the_value_and_what_is_allowed(spec: str, message: str) -> None:
    with pytest.raises(CronError) as caught:
        parse(spec)
    assert f"cron spec {spec!r}" in str(caught.value)
    assert message in str(caught.value)


def test_an_error_survives_pickling() -> None:
    with pytest.raises(CronError) as caught:
        parse("0 25 * * *")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, CronError)
    assert copy.field == "hour"
    assert str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("*-5 * * * *", "* * * * *"),
        ("?-x/20 * * * *", "*/20 * * * *"),
        ("+05 007 * * *", "5 7 * * *"),
        (",1,,2, * * * *", "1,2 * * * *"),
        ("0 0 ? JAN-jun/2 MON", "0 0 * 1,3,5 1"),
        ("10/20 * * * *", "10,30,50 * * * *"),
        ("\u20035\xa0* * * *", "5 * * * *"),
        ("CRON_TZ=UTC  @weekly ", "TZ=UTC 0 0 0 * * 0"),
        ("TZ= @hourly", "TZ=UTC 0 0 * * * *"),
        ("@annually", "0 0 0 1 1 *"),
    ],
)
def test_odd_specs_that_robfig_takes(odd: str, plain: str) -> None:
    assert parse(odd) == parse(plain)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("90s", 90), ("1h30m", 5400), ("2h45m30.9s", 9930), ("1.5h", 5400), (".5m", 30), ("1.m", 60),
        ("0", 1), ("-5s", 1), ("+5s", 5), ("500ms", 1), ("2000000us1000000\u00b5s1000000\u03bcs", 4),
        ("1s1s", 2), ("3000000000ns", 3), ("2562047h47m16.854775807s", 9223372036),
    ],
)  # fmt: skip
def test_every_takes_go_durations(duration: str, seconds: int) -> None:
    assert parse(f"@every {duration}") == Every(seconds)
    assert parse(f"TZ=Asia/Tokyo @every {duration}") == Every(seconds)


@given(st.integers(1, 10**6), st.integers(0, 2**33))
def test_aligned_every_is_the_next_multiple(delay: int, after: int) -> None:
    at = Every(delay).aligned_next(after)
    assert after < at <= after + delay
    assert at % delay == 0
    assert Every(delay).next(after) == after + delay


def test_schedules_are_values() -> None:
    schedule = parse("*/5 * * * *", UTC)
    assert schedule == parse("0 0/5 * * * *", UTC)
    assert hash(schedule) == hash(parse("0,5-55/5 * * * *", UTC))
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.minutes = 1  # type: ignore[misc,union-attr]
    assert not hasattr(schedule, "__dict__")


def test_never_fires() -> None:
    assert parse("0 0 30 2 *", UTC, reject_never=False).next(FROM) is None
    assert parse("0 0 * , *", UTC, reject_never=False).next(FROM) is None
    # 2100 is no leap year: from 2097 on, five calendar years hold no 29 February.
    leap = parse("0 0 29 2 *", UTC)
    assert leap.next(int(datetime(2096, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())) is None
    assert leap.next(int(datetime(2099, 1, 1, tzinfo=UTC).timestamp())) == 4233686400


# Models.

FIELDS = {
    "second": (0, 59), "minute": (0, 59), "hour": (0, 23),
    "day": (1, 31), "month": (1, 12), "weekday": (0, 6),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """A field's text, the numbers it stands for, and whether it is a star."""

    text: str
    numbers: frozenset[int]
    star: bool = False


@st.composite
def parts(draw: st.DrawFn, name: str, wide: bool = False) -> Part:
    low, high = FIELDS[name]
    every = Part("*", frozenset(range(low, high + 1)), star=True)
    if wide or draw(st.booleans()):
        return every
    pieces = {}
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, high + 3))
        forms = {
            f"{first}": range(first, first + 1),
            f"{first}-{last}": range(first, last + 1),
            f"{first}-{last}/{step}": range(first, last + 1, step),
            f"{first}/{step}": range(first, high + 1, step),
            f"*/{step + 1}": range(low, high + 1, step + 1),
        }
        text = draw(st.sampled_from(sorted(forms)))
        pieces[text] = forms[text]
    return Part(",".join(pieces), frozenset().union(*pieces.values()))


@dataclasses.dataclass(frozen=True)
class Model:
    """Six fields, and the plainest way to tell whether they fit a moment."""

    second: Part
    minute: Part
    hour: Part
    day: Part
    month: Part
    weekday: Part

    @property
    def spec(self) -> str:
        return " ".join(getattr(self, name).text for name in FIELDS)

    def fits_date(self, when: date) -> bool:
        day = when.day in self.day.numbers
        weekday = when.isoweekday() % 7 in self.weekday.numbers
        either = day and weekday if self.day.star or self.weekday.star else day or weekday
        return either and when.month in self.month.numbers

    def fits(self, when: datetime) -> bool:
        clock = when.second in self.second.numbers and when.minute in self.minute.numbers
        return clock and when.hour in self.hour.numbers and self.fits_date(when.date())

    def first(self, after: int, until: int, zone: tzinfo, step: int = 1) -> int | None:
        """Looks at every moment from the first multiple of the step."""
        start = (after // step + 1) * step
        moments = range(start, until + 1, step)
        return next((at for at in moments if self.fits(datetime.fromtimestamp(at, zone))), None)


def models(**wide: bool) -> st.SearchStrategy[Model]:
    return st.builds(Model, **{name: parts(name, wide.get(name, False)) for name in FIELDS})


moments = st.integers(946684800, 4102444800)


def check(found: int | None, expected: int | None, until: int) -> None:
    if expected is None:
        assert found is None or found > until
    else:
        assert found == expected


@given(models(hour=True, day=True, month=True, weekday=True), moments)
def test_next_is_the_first_second_that_fits(model: Model, after: int) -> None:
    until = after + 3700
    found = parse(model.spec, UTC).next(after)
    check(found, model.first(after, until, UTC), until)


@given(models(), moments)
def test_next_is_the_first_minute_that_fits(model: Model, after: int) -> None:
    model = dataclasses.replace(model, second=Part("0", frozenset({0})))
    until = after + 2 * 86400
    found = parse(model.spec, UTC, reject_never=False).next(after)
    check(found, model.first(after, until, UTC, step=60), until)


@given(models(), st.times(), moments)
def test_next_is_the_first_day_that_fits_in_five_years(model: Model, clock: clock_time, after: int) -> None:
    start = datetime.fromtimestamp(after + 1, UTC)
    day = datetime.combine(start, clock.replace(microsecond=0), UTC)
    while day.year <= start.year + 5 and not (day >= start and model.fits_date(day)):
        day += timedelta(days=1)
    spec = f"{clock:%S %M %H} {model.day.text} {model.month.text} {model.weekday.text}"
    found = parse(spec, UTC, reject_never=False).next(after)
    assert found == (int(day.timestamp()) if day.year <= start.year + 5 else None)


# Where an hour is missing or comes twice, but not at midnight, robfig fires at each moment that fits.
CHANGES = [
    ("America/New_York", datetime(2020, 3, 8, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2020, 11, 1, 6, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2024, 3, 31, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2024, 10, 27, 1, tzinfo=UTC)),
    ("Australia/Sydney", datetime(2023, 9, 30, 16, tzinfo=UTC)),
]


@given(models(), st.sampled_from(CHANGES), st.integers(-86400, 7200))
def test_next_is_the_first_minute_that_fits_around_a_change(
    model: Model, change: tuple[str, datetime], distance: int
) -> None:
    model = dataclasses.replace(model, second=Part("0", frozenset({0})))
    zone = ZoneInfo(change[0])
    after = int(change[1].timestamp()) + distance
    until = after + 86400
    found = parse(model.spec, zone, reject_never=False).next(after)
    check(found, model.first(after, until, zone, step=60), until)


ODD_ZONES = ["Asia/Amman", "America/Sao_Paulo", "Australia/Lord_Howe", "America/St_Johns", "Pacific/Apia"]
ODD_ZONES += ["Africa/Casablanca", "Antarctica/Troll", "Asia/Kathmandu"]


@given(models(), st.sampled_from(ODD_ZONES), moments)
def test_next_is_later_in_every_zone(model: Model, zone: str, after: int) -> None:
    found = parse(model.spec, ZoneInfo(zone), reject_never=False).next(after)
    assert found is None or found > after


def test_a_change_within_the_hour_gives_robfigs_hour() -> None:
    """The first of November 2009, 00:01, was 31 October, 23:01: robfig does not look at the hour again."""
    schedule = parse("0 1 0 1 * *", ZoneInfo("America/St_Johns"))
    found = schedule.next(1254364319)
    assert found is not None
    assert datetime.fromtimestamp(found, ZoneInfo("America/St_Johns")).isoformat() == "2009-10-31T23:01:00-03:30"


def test_next_is_later_where_robfig_steps_back() -> None:
    """Newfoundland set its clocks back at 00:01, to 23:01 of the day before."""
    schedule = parse("36 40 0-7/2,13-14/5,9 * * */4", ZoneInfo("America/St_Johns"))
    after = 1194146149
    assert schedule.next(after) == 1194149436
    assert datetime.fromtimestamp(1194149436, ZoneInfo("America/St_Johns")).isoformat() == "2007-11-04T00:40:36-03:30"


def test_a_zone_that_left_out_a_day_does_not_stop_the_search() -> None:
    """Samoa had no 30 December 2011."""
    apia = ZoneInfo("Pacific/Apia")
    found = parse("0 12 31 12 *", apia).next(int(datetime(2011, 12, 29, 9, tzinfo=apia).timestamp()))
    assert found is not None
    assert datetime.fromtimestamp(found, apia).isoformat() == "2011-12-31T12:00:00+14:00"


def test_zones_by_name_and_by_offset() -> None:
    half_past = timezone(timedelta(hours=5, minutes=30))
    assert parse("0 0 * * *", half_past).next(FROM) == 1600021800
    schedule = parse("TZ=Asia/Tokyo 0 9 * * *", ZoneInfo("America/New_York"))
    assert schedule == parse("0 9 * * *", ZoneInfo("Asia/Tokyo"))
    assert parse("TZ=Local 0 9 * * *", ZoneInfo("Asia/Tokyo")) == schedule


class CountingZone(tzinfo):
    """UTC that counts how often it is asked."""

    asked = 0

    def utcoffset(self, when: datetime | None) -> timedelta:
        self.asked += 1
        return timedelta(0)

    dst = utcoffset

    def tzname(self, when: datetime | None) -> str:
        return "counting"


@pytest.mark.parametrize(
    ("spec", "limit"),
    [("* * * * * *", 10), ("*/5 * * * *", 20), ("30 4 * * *", 50), ("0 0 31 12 *", 150), ("0 0 29 2 *", 600)],
)
def test_next_leaps_instead_of_scanning(spec: str, limit: int) -> None:
    zone = CountingZone()
    schedule = parse(spec, zone)
    zone.asked = 0
    assert schedule.next(FROM) is not None
    assert 0 < zone.asked <= limit


def test_the_examples_in_docstrings() -> None:
    assert doctest.testmod(cron).attempted > 0
    assert doctest.testmod(cron).failed == 0
