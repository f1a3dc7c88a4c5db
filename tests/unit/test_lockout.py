from edge_agent.core.lockout import Lockout


def fail(lockout: Lockout, times: int, now_s: float = 0.0, key: str = "card") -> None:
    for _ in range(times):
        lockout.failed(key, now_s)


def test_the_fifth_failure_locks_out_and_each_more_for_twice_as_long():
    lockout = Lockout()
    fail(lockout, 4)
    assert lockout.remaining_s("card", 0.0) == 0.0
    spans = []
    now_s = 0.0
    for _ in range(8):
        fail(lockout, 1, now_s)
        spans.append(lockout.remaining_s("card", now_s))
        now_s += spans[-1]
        assert lockout.remaining_s("card", now_s) == 0.0
    assert spans == [30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0]


def test_a_success_forgets_and_so_does_a_quiet_hour():
    lockout = Lockout()
    fail(lockout, 4)
    lockout.succeeded("card")
    fail(lockout, 4)
    assert lockout.remaining_s("card", 0.0) == 0.0
    fail(lockout, 1, 3601.0)
    assert lockout.remaining_s("card", 3601.0) == 0.0


def test_others_are_not_locked_out_and_the_memory_is_bounded():
    lockout = Lockout(remembered=10)
    fail(lockout, 5, key="bad")
    assert lockout.remaining_s("good", 0.0) == 0.0
    for number in range(100):
        lockout.failed(f"card {number}", 1.0)
    assert len(lockout) == 10
