"""The file that a virtual ESAM is kept in."""

from __future__ import annotations

import pytest

from edge_agent.virtual.chip import BadImage
from edge_agent.virtual.esam_memory import EsamImage
from edge_agent.virtual.esam_os import VirtualEsam
from tests.card_desk import repeatable
from tests.esam_desk import ESAM_SERIAL, MAKERS_KEY, EsamDesk


def test_it_is_kept_in_a_file_for_its_owner_alone(tmp_path):
    path = tmp_path / "esam.bin"
    desk = EsamDesk("gm", path=path).issue().load(1)
    again = VirtualEsam.open(path, repeatable(1))
    assert again.image == desk.chip.image
    assert path.stat().st_mode & 0o777 == 0o600
    assert "45534d" in path.read_text()


def test_another_chip_or_a_damaged_file_is_not_taken_for_it(tmp_path):
    path = tmp_path / "esam.bin"
    EsamDesk("gm", path=path)
    with pytest.raises(ValueError, match="is ESAM 45534d"):
        VirtualEsam(path, "intl", ESAM_SERIAL, MAKERS_KEY, repeatable(1))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadImage):
        VirtualEsam.open(path, repeatable(1))
    for content in (b"", b"[]", b'{"chip": "ESAM"}'):
        with pytest.raises(BadImage):
            EsamImage.decode(content)


@pytest.mark.parametrize("count", [0, 16, 32, 47, 49, 64])
def test_a_version_that_lacks_a_key_is_no_version(count):
    image = EsamDesk("intl").issue().load(1).chip.image
    assert EsamImage.decode(image.encode()) == image
    torn = image.with_domain(1, image.domains[1].with_keys(1, bytes(count)))
    with pytest.raises(BadImage):
        EsamImage.decode(torn.encode())
