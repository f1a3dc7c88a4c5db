"""The queue between broker and verification holds what it says, whatever is in a message."""

from server.ingest.intake import Intake, Message


async def test_topics_count_as_payloads_do():
    intake = Intake(max_messages=1000, max_bytes=1000)
    message = Message("t" * 300, b"")
    assert [intake.offer(message) for _ in range(4)] == [True, True, True, False]
    assert len(await intake.take(10, 600)) == 2
    assert intake.offer(message)
    assert intake.offer(message)
    assert not intake.offer(message)
