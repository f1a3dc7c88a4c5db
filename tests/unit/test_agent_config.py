from pathlib import Path

import pytest

from edge_agent.config import ConfigError, load_config

GOOD = """
site = "demo"
agent = "front-agent"
state_dir = "state"

[[doors]]
door = "front"
io = { kind = "gpio", strike = 17, contact = 27, rex = 22 }
readers = [{ kind = "pcsc", name = "ACS", direction = "in" }]
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return path

    return write


def refusal(path: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(path, environment or {})
    return str(refused.value)


def test_paths_are_relative_to_the_file_and_defaults_are_filled_in(write):
    path = write(GOOD)
    config = load_config(path, {})
    assert config.state_dir == path.parent / "state"
    assert config.root == path.parent / "root.json"
    assert (config.broker.port, config.broker.tls) == (8883, True)
    assert config.doors[0].io.debounce_ms == 20


def test_the_environment_stands_over_the_file(write):
    environment = {
        "OSTIARY_AGENT_BROKER__HOST": "10.0.0.1",
        "OSTIARY_AGENT_BROKER__PORT": "8884",
        "OSTIARY_AGENT_STATE_DIR": "/elsewhere",
        "OSTIARY_AGENT_CONFIG": "ignored here",
        "OTHER": "ignored",
    }
    config = load_config(write(GOOD), environment)
    assert (config.broker.host, config.broker.port) == ("10.0.0.1", 8884)
    assert config.state_dir == Path("/elsewhere")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace('site = "demo"', ""), "site: is missing"),
        (GOOD.replace("site =", "sight ="), "sight: is not a setting"),
        (GOOD.replace('"demo"', '"Demo Site"'), "site: String should match"),
        (GOOD.replace("front-agent", "server"), "agent: Value error"),
        (GOOD.replace("strike = 17", "strike = -1"), "doors.0.io.gpio.strike"),
        (GOOD.replace('kind = "gpio"', 'kind = "magic"'), "doors.0.io"),
        (GOOD.replace("[[doors]]", "[[windows]]"), "doors: is missing"),
        (GOOD + GOOD[GOOD.index("[[doors]]") :], "two doors have the same name"),
        ("site = ", "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(write, text, said):
    path = write(text)
    message = refusal(path)
    assert said in message
    assert str(path) in message


IN_THE_CLEAR = "[broker]\nhost = {host!r}\ntls = false\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_broker_on_this_machine_may_do_without_tls(write, host):
    assert not load_config(write(GOOD + IN_THE_CLEAR.format(host=host)), {}).broker.tls


@pytest.mark.parametrize("host", ["10.0.0.1", "broker.example", "localhost.example", "0.0.0.0"])
def test_a_broker_elsewhere_is_never_spoken_to_in_the_clear(write, host):
    assert "tls = false" in refusal(write(GOOD + IN_THE_CLEAR.format(host=host)))


def test_a_missing_file_says_how_to_name_another(tmp_path):
    assert "--config" in refusal(tmp_path / "none.toml")


def test_a_variable_can_not_set_what_is_no_section(write):
    assert "OSTIARY_AGENT_SITE__NAME" in refusal(write(GOOD), {"OSTIARY_AGENT_SITE__NAME": "x"})


ESAM = """
[[esams]]
kind = "virtual"
path = "esam.bin"
serial = "45534d0000000001"
domains = ["zone-a", "zone-b"]
"""
IN_A_SLOT = """
[[esams]]
kind = "pcsc"
name = "Contact"
serial = "45534d0000000002"
domains = ["zone-c"]
"""


def test_esams_are_read_and_their_files_are_relative_to_the_configuration(write):
    path = write(GOOD + ESAM + IN_A_SLOT)
    virtual, slot = load_config(path, {}).esams
    assert virtual.path == path.parent / "esam.bin"
    assert virtual.domains == ("zone-a", "zone-b")
    assert (slot.name, slot.serial) == ("Contact", "45534d0000000002")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ESAM.replace('serial = "45534d0000000001"', ""), "serial: is missing"),
        (ESAM.replace("45534d0000000001", "1"), "esams.0.virtual.serial"),
        (ESAM.replace('["zone-a", "zone-b"]', "[]"), "esams.0.virtual.domains"),
        (ESAM.replace("virtual", "magic"), "esams.0"),
        (ESAM.replace("zone-b", "zone-a"), "have the same key domain"),
        (ESAM + IN_A_SLOT.replace("zone-c", "zone-a"), "have the same key domain"),
        (ESAM + IN_A_SLOT.replace("0002", "0001"), "two ESAMs have the same serial"),
    ],
)
def test_a_mistake_about_an_esam_is_named(write, text, said):
    assert said in refusal(write(GOOD + text))
