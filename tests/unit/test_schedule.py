from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from edge_agent.core.schedule import is_open
from schemas.policy import WEEKDAYS, Schedule, TimeRange, Window

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: summer time from 29 March to 25 October
OFFICE = Schedule(
    windows=(
        Window(start="08:00", end="12:00", days=("mon",)),
        Window(start="13:00", end="24:00", days=("mon",)),
    )
)


def every_day(start: str, end: str) -> Schedule:
    return Schedule(windows=(Window(start=start, end=end, days=WEEKDAYS),))


def local(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=BERLIN)


def test_windows_are_half_open_and_there_may_be_several_a_day():
    def at(hour, minute, second=0):
        return is_open(OFFICE, BERLIN, local(2026, 3, 2, hour, minute, second))

    assert not at(7, 59, 59)
    assert at(8, 0)
    assert at(11, 59, 59)
    assert not at(12, 0)
    assert at(13, 0)
    assert at(23, 59, 59)
    assert not is_open(OFFICE, BERLIN, local(2026, 3, 3, 0, 0))


def test_the_sites_time_zone_counts_and_not_utc():
    assert is_open(OFFICE, BERLIN, datetime(2026, 3, 2, 7, 0, tzinfo=UTC))
    assert not is_open(OFFICE, BERLIN, datetime(2026, 3, 2, 6, 59, tzinfo=UTC))


def test_a_special_day_replaces_the_weekly_windows():
    monday = date(2026, 3, 2)
    half_day = OFFICE.model_copy(
        update={"special_days": {monday: (TimeRange(start="14:00", end="15:00"),)}}
    )
    assert not is_open(half_day, BERLIN, local(2026, 3, 2, 9, 0))
    assert is_open(half_day, BERLIN, local(2026, 3, 2, 14, 0))
    holiday = OFFICE.model_copy(update={"special_days": {monday: ()}})
    assert not is_open(holiday, BERLIN, local(2026, 3, 2, 9, 0))
    assert is_open(holiday, BERLIN, local(2026, 3, 9, 9, 0))


def test_the_hour_that_summer_time_skips_never_comes():
    night = every_day("02:00", "03:00")
    before = datetime(2026, 3, 29, 0, 0, tzinfo=UTC)
    minutes = [before + timedelta(minutes=n) for n in range(180)]
    assert not any(is_open(night, BERLIN, minute) for minute in minutes)


def test_the_hour_that_winter_time_repeats_is_open_both_times():
    night = every_day("02:00", "03:00")
    before = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    minutes = [before + timedelta(minutes=n) for n in range(240)]
    assert sum(is_open(night, BERLIN, minute) for minute in minutes) == 120
