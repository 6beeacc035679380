"""Tests keep to folders of their own: a shell that names a real installation must not lose it to them."""

import os
import subprocess
import sys

from deployments.one_machine.settings import ROOT


def test_the_state_folder_that_a_shell_names_is_left_alone(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "registry.sqlite").write_text("all that there is")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tasks/registry/names.py"],
        cwd=ROOT, env={**os.environ, "ZERO_FLEET_STATE": str(state)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert [path.name for path in state.iterdir()] == ["registry.sqlite"]
