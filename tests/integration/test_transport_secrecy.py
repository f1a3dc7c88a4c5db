"""Whatever is done with transport keys, none is in a file, an event, a log or an error."""

from __future__ import annotations

import logging
import secrets
import traceback

import pytest

from schemas.suites import suite
from schemas.transport import TransportSource
from server.kek import read_kek
from server.keys.home import KeysError
from server.keys.transport_list import BadList, read_list
from tests.esam_desk import EsamDesk
from tests.key_rig import AGENT, bytes_of, traces
from tests.transport_rig import CARD, DOMAIN, OTHER, event, transport_desk


async def refuse(said, work):
    with pytest.raises(KeysError) as refusal:
        await work
    said.append("".join(traceback.format_exception(refusal.value)))


@pytest.mark.parametrize("name", ["gm", "intl"])
async def test_no_transport_key_is_anywhere(name, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    mine, other, master, default = (secrets.token_bytes(16) for _ in range(4))
    derived = suite(name).diversify(master, bytes.fromhex(OTHER))
    said: list[str] = []
    async with transport_desk(tmp_path / "site", name) as desk:
        await desk.keys_desk.authority.create_domain(DOMAIN, name, "test")
        esam = EsamDesk(name).issue()
        await desk.keys_desk.know(esam)
        await desk.transport.take_list({CARD: mine}, "test")
        await desk.transport.take_root(TransportSource.DERIVED, master, "test", suite=name)
        await desk.transport.take_root(TransportSource.DEFAULT, default, "test", suite=name)
        await refuse(said, desk.transport.take_list({CARD: other}, "test"))
        for source in (TransportSource.DERIVED, TransportSource.DEFAULT):
            await refuse(said, desk.transport.take_root(source, other, "test", suite=name))
        await refuse(
            said, desk.transport.take_root(source, other[:-1], "test", suite=name, replace=True)
        )
        for text in (f"{CARD},{mine.hex()}\n" * 2, f"{CARD},{mine.hex()}0", f"{mine.hex()}"):
            with pytest.raises(BadList) as bad:
                read_list(text.encode())
            said.append("".join(traceback.format_exception(bad.value)))
        await desk.window()
        async with desk.serving() as requests:
            for card in (CARD, OTHER):
                question = desk.question(card)
                answer = await desk.answer(requests, question)
                assert desk.opened(question, answer) == (mine if card == CARD else derived)
                said += [repr(answer), answer.model_dump_json(), repr(question.request)]
            # what fails in the midst of giving: a loan to no ESAM, and a key that was changed
            await desk.answer(requests, desk.question(loan=_loan(esam, index=2)))
            async with desk.engine.begin() as connection:
                await connection.exec_driver_sql(
                    "UPDATE transport_keys SET sealed = x'00' WHERE source = 'derived'"
                )
                await connection.exec_driver_sql("UPDATE transport_keys SET kept = 1")
            await desk.answer(requests, desk.question(OTHER))
            await desk.says(event())
            said += [repr(requests), str(vars(requests))]
        async with desk.engine.begin() as connection:
            said.append(repr(await desk.transport.give(connection, CARD)))
        said += [repr(desk.transport), repr(await desk.transport.standing()), repr(desk.alarms)]
        said += [data for _, data in await desk.keys_desk.news()]
        assert len(desk.alarms) == 2
        kek = read_kek(desk.keys_desk.site.path, {})
    keys = [mine, other, master, default, derived, kek]
    (tmp_path / "site" / "kek").unlink()
    words = "\n".join([*said, caplog.text]).encode()
    assert traces(bytes_of(tmp_path), keys) == []
    assert traces(words, keys) == []
    assert AGENT in words.decode()
    assert traces(words + mine, keys) == [mine] * 2, "the search itself finds nothing"


async def test_what_was_forgotten_is_overwritten_on_the_disk(tmp_path):
    async with transport_desk(tmp_path / "site") as desk:
        await desk.transport.take_list({CARD: b"k" * 16}, "test")
        async with desk.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT sealed FROM transport_keys")
            (sealed,) = rows.scalars()
        assert sealed in bytes_of(tmp_path)
        await desk.transport.forget(TransportSource.LIST, "test")
        assert sealed not in bytes_of(tmp_path)


def _loan(esam, **changes):
    values = {"esam": esam.serial.hex(), "domain": DOMAIN, "index": 1, "version": 1}
    return values | {"challenge": esam.challenge().hex()} | changes
