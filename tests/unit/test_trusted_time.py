from datetime import UTC, datetime, timedelta

from edge_agent.core.trusted_time import TrustedTime

SIGNED = datetime(2026, 3, 2, 12, tzinfo=UTC)


def test_without_anything_signed_the_wall_clock_is_believed():
    judged = TrustedTime().judge(SIGNED, 0.0)
    assert (judged.now, judged.trusted) == (SIGNED, True)


def test_a_clock_that_is_set_back_revives_nothing():
    time = TrustedTime()
    time.learn(SIGNED, 100.0)
    judged = time.judge(SIGNED - timedelta(days=400), 160.0)
    assert judged.now == SIGNED + timedelta(seconds=60)
    assert not judged.trusted


def test_a_little_drift_is_tolerated_but_time_still_does_not_go_back():
    time = TrustedTime()
    time.learn(SIGNED, 0.0)
    judged = time.judge(SIGNED - timedelta(minutes=4), 0.0)
    assert (judged.now, judged.trusted) == (SIGNED, True)


def test_an_older_statement_teaches_nothing():
    time = TrustedTime()
    time.learn(SIGNED, 0.0)
    time.learn(SIGNED - timedelta(days=1), 10.0)
    time.learn(None, 10.0)
    assert time.judge(SIGNED - timedelta(days=2), 10.0).now == SIGNED + timedelta(seconds=10)


def test_a_server_that_is_decades_ahead_is_not_believed():
    time = TrustedTime()
    time.learn(SIGNED, 0.0)
    time.hear(SIGNED.replace(year=2099), SIGNED, 0.0)
    judged = time.judge(SIGNED, 0.0)
    assert (judged.now, judged.trusted) == (SIGNED, True)


def test_the_servers_word_sets_a_clock_right_that_has_lost_the_time():
    time, lost = TrustedTime(), datetime(1970, 1, 1, tzinfo=UTC)
    time.learn(SIGNED, 0.0)
    time.hear(None, lost, 0.0)
    time.hear(SIGNED + timedelta(days=300), lost, 0.0)
    judged = time.judge(lost, 0.0)
    assert (judged.now, judged.trusted) == (SIGNED + timedelta(days=300), False)
