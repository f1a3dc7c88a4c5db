"""Issuing: the control key is sealed on disk first, then in the chip, and printed nowhere."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from edge_agent import esam_desk
from edge_agent.cli import app
from edge_agent.esam_desk import CannotIssue, describe, issue, lend_from, read_makers_key
from edge_agent.secure_element.esam_chip import Esam, EsamUnavailable, Loan
from edge_agent.virtual.chip import Tear, TearMoment
from schemas.esam import check_value
from schemas.esam_issued import BadIssuingFile, IssuedEsam
from tests.card_desk import SERIAL as CARD
from tests.card_desk import TRANSPORT_KEY
from tests.esam_desk import ESAM_SERIAL, MAKERS_KEY, EsamDesk
from tests.esam_rig import Slot


class Station:
    def __init__(self, folder, suite="intl", serial=ESAM_SERIAL):
        self.desk = EsamDesk(suite, serial=serial)
        self.esam = Esam(Slot(self.desk.chip), None)
        self.file, self.key = folder / "issued.json", folder / "issuing.key"

    async def issue(self, makers_key=MAKERS_KEY):
        return await issue(self.esam, makers_key, self.file, self.key)

    @property
    def control_key(self) -> bytes:
        return IssuedEsam.read(self.file.read_bytes()).control_key(self.key.read_bytes()).key


@pytest.fixture(params=["gm", "intl"])
def station(tmp_path, request):
    return Station(tmp_path, request.param)


async def test_a_blank_one_gets_the_key_that_was_sealed(station):
    issued = await station.issue()
    assert station.desk.chip.image.control_key == station.control_key
    assert issued.check_value == check_value(station.desk.suite, station.control_key).hex()
    assert (issued.serial, issued.already) == (ESAM_SERIAL.hex(), False)
    assert station.file.stat().st_mode & 0o777 == 0o600
    assert station.control_key.hex() not in station.file.read_text() + repr(issued)


async def test_issuing_again_changes_nothing(station):
    first = await station.issue()
    image, content = station.desk.chip.image, station.file.read_bytes()
    again = await station.issue()
    assert (again.check_value, again.already) == (first.check_value, True)
    assert (station.desk.chip.image, station.file.read_bytes()) == (image, content)


async def test_the_key_of_an_issuing_file_that_is_there_is_used(station, tmp_path):
    await station.issue()
    fresh = Station(tmp_path, station.desk.suite.name)  # the same serial, blank again
    await fresh.issue()
    assert fresh.desk.chip.image.control_key == station.control_key


@pytest.mark.parametrize("moment", [TearMoment.IN_WRITE, TearMoment.AFTER_WRITE])
@pytest.mark.parametrize("at", [1, 2])
async def test_an_interrupted_issuing_is_finished_by_doing_it_again(station, moment, at):
    station.desk.arm(Tear(moment, at))
    with pytest.raises(EsamUnavailable, match="taken out"):
        await station.issue()
    station.desk.chip.reset()
    await station.issue()
    assert station.desk.chip.image.control_key == station.control_key


async def test_a_file_that_can_not_be_written_leaves_the_chip_blank(station, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(esam_desk, "write_private", full)
    with pytest.raises(OSError, match="No space"):
        await station.issue()
    assert station.desk.state.control_version == 0


async def test_a_wrong_makers_key_says_how_many_tries_are_left(station):
    with pytest.raises(CannotIssue, match="14 tries are left"):
        await station.issue(bytes(16))
    await station.issue()


async def test_an_issued_one_is_not_given_another_key(station):
    await station.issue()
    station.file.unlink()
    with pytest.raises(CannotIssue, match="name the file it was issued with"):
        await station.issue()
    assert not station.file.exists()
    other = Station(station.file.parent, station.desk.suite.name)
    await other.issue()  # draws another key for the same serial
    with pytest.raises(CannotIssue, match="is not the one in"):
        await station.issue()


async def test_the_file_of_another_esam_or_another_issuing_key_is_refused(station, tmp_path):
    await station.issue()
    other = Station(tmp_path, station.desk.suite.name, serial=bytes(8))
    with pytest.raises(CannotIssue, match="is for ESAM 45534d"):
        await other.issue()
    station.key.write_bytes(bytes(32))
    with pytest.raises(BadIssuingFile, match="issuing key is another"):
        await station.issue()
    station.file.write_text("{}")
    with pytest.raises(BadIssuingFile, match="not an issuing file"):
        await station.issue()


async def test_a_sealed_key_is_good_for_its_serial_and_suite_alone(station):
    await station.issue()
    kek, issued = station.key.read_bytes(), IssuedEsam.read(station.file.read_bytes())
    other = "gm" if issued.suite == "intl" else "intl"
    for change in ({"serial": "00" * 8}, {"suite": other}, {"control_version": 2}):
        with pytest.raises(BadIssuingFile):
            issued.model_copy(update=change).control_key(kek)


async def test_what_it_tells_is_without_empty_places(station):
    await station.issue()
    station.desk.control_key = station.control_key
    station.desk.load(1, index=3)
    state, tables = await describe(station.esam)
    assert state.control_version == 1
    assert list(tables) == [3]


async def test_who_has_the_issuing_file_lends_transport_keys_to_that_esam(station):
    await station.issue()
    lend = lend_from(station.file, station.key)
    loan = Loan(1, 1, CARD, TRANSPORT_KEY)
    station.esam.lend = lend
    await station.esam.lend_key(loan)
    with pytest.raises(BadIssuingFile, match="not for 00000000"):
        await lend(bytes(8), bytes(16), loan)
    with pytest.raises(CannotIssue, match="--issuing-key"):
        lend_from(station.file, None)


def test_a_makers_key_is_read_from_a_file_and_never_shown(tmp_path):
    path = tmp_path / "maker"
    path.write_text(f"{MAKERS_KEY.hex().upper()}\n")
    assert read_makers_key(path) == MAKERS_KEY
    path.write_text(MAKERS_KEY.hex()[:-1])
    with pytest.raises(CannotIssue) as refused:
        read_makers_key(path)
    assert MAKERS_KEY.hex()[:8] not in str(refused.value)


def cli(*arguments: str):
    return CliRunner().invoke(app, ["esam", *arguments])


def test_the_commands_print_serial_and_check_value_and_no_key(tmp_path):
    chip, file, key = (str(tmp_path / name) for name in ("chip", "file", "key"))
    issued = cli("issue", "--virtual", chip, "--file", file, "--issuing-key", key, "--suite", "gm")
    assert issued.exit_code == 0, issued.output
    told = cli("info", "--virtual", chip)
    state = json.loads(told.output)
    assert state["serial"] in issued.stdout
    assert state["control_check_value"] in issued.stderr
    assert (state["suite"], state["control_version"], state["domains"]) == ("gm", 1, {})
    control = IssuedEsam.read((tmp_path / "file").read_bytes()).control_key(
        (tmp_path / "key").read_bytes()
    )
    assert control.key.hex() not in issued.output + told.output


def test_a_new_virtual_esam_is_made_of_the_suite_that_was_named_and_not_another(tmp_path):
    chip, file, key = (str(tmp_path / name) for name in ("chip", "file", "key"))
    words = ["issue", "--virtual", chip, "--file", file, "--issuing-key", key]
    unsaid = cli(*words)
    assert unsaid.exit_code == 1
    assert "--suite gm or --suite intl" in unsaid.stderr
    assert cli(*words, "--suite", "intl").exit_code == 0
    other = cli(*words, "--suite", "gm")
    assert other.exit_code == 1
    assert "is of suite intl, not gm" in other.stderr
    assert cli(*words).exit_code == 0


def test_an_issuing_that_fails_leaves_nothing_that_it_made(tmp_path):
    chip, file, key = (tmp_path / name for name in ("chip", "file", "key"))
    words = ["issue", "--virtual", chip, "--file", file, "--issuing-key", key, "--suite", "gm"]
    key.write_bytes(bytes(32))
    key.chmod(0o644)
    assert cli(*map(str, words)).exit_code == 1
    assert list(tmp_path.iterdir()) == [key]
    key.unlink()
    assert cli(*map(str, words)).exit_code == 0
    before = chip.read_bytes()
    key.write_bytes(bytes(32))
    assert cli(*map(str, words)).exit_code == 1
    assert chip.read_bytes() == before  # it was there: nothing of it is touched
    assert file.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info"], "either --reader or --virtual"),
        (["info", "--reader", "x", "--virtual", "y"], "either --reader or --virtual"),
        (["info", "--virtual", "nowhere"], "no virtual ESAM at nowhere"),
        (["issue", "--reader", "x", "--file", "f", "--issuing-key", "k"], "--makers-key"),
        (["issue", "--virtual", "f", "--file", "f", "--issuing-key", "k"], "virtual ESAM"),
    ],
)
def test_a_command_that_can_not_be_done_says_why(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "f" in arguments and "--virtual" in arguments:
        (tmp_path / "f").write_text("{}")
    result = cli(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr.replace("\n", " ")
