"""Seeded fault schedules: whatever fails when, nothing stored is lost, doubled or changed.

Nothing that an agent believes goes back or is forgotten, no command is done twice or late, no
strike moves unasked, and once the faults end every agent has what the server wants it to have.
`python -m tests.chaos --help`. The faults of a schedule follow from its seed alone.
"""
