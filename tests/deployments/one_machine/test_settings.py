"""Settings of the one-machine stack that are refused before anything starts."""

import pytest

from deployments.one_machine.settings import stack
from tasks.errors import InvalidInput


@pytest.mark.parametrize("ports", ["9-1", "20000", "80-90", "20000-70000", "2e4-3e4", "29999-20000", "-"])
def test_a_range_of_ports_that_is_none_is_refused_by_name(monkeypatch, ports):
    monkeypatch.setenv("ZERO_FLEET_PORTS", ports)
    with pytest.raises(InvalidInput, match=f"ZERO_FLEET_PORTS is '{ports}'.*low-high"):
        stack()


@pytest.mark.parametrize("ports", ["20000-29999", "24100-24100"])
def test_a_range_of_ports_is_taken(monkeypatch, ports):
    monkeypatch.setenv("ZERO_FLEET_PORTS", ports)
    assert stack().ports == ports
