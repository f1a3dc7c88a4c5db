"""Seeded fault schedules: nothing that was stored is lost, doubled or changed, whatever fails when.

`python -m tests.chaos --help`. What a schedule does follows from its seed alone.
"""
