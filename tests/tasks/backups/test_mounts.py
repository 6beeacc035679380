"""A folder whose disk is not mounted is refused before anything is made in it."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.backups import mounts
from tasks.backups.dump import dump
from tasks.errors import Refused


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A mount point with a space in its name that fstab names, and what mounts something there."""
    point, fstab = tmp_path / "my disk", tmp_path / "fstab"
    point.mkdir()
    fstab.write_text(
        f"# disks\nUUID=1 / ext4 defaults 0 1\n/dev/b {str(point).replace(' ', chr(92) + '040')} ext4 defaults 0 2\n"
    )
    monkeypatch.setattr(mounts, "FSTAB", fstab)

    def mount() -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", point], check=True)
        return point

    yield point, mount
    subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)


def test_a_disk_that_fstab_names_has_to_be_mounted(disk, job):
    point, mount = disk
    there = replace(job, path=point / "backups" / "acme" / "latest.sql.gz")
    with pytest.raises(
        Refused, match=r"nothing is mounted at .*my disk, which .*fstab names, so .*would lie on another"
    ):
        dump(there)
    assert list(point.iterdir()) == []
    mount()
    dump(there)
    assert there.path.is_file()


def test_a_link_to_that_disk_is_followed(disk, job, tmp_path):
    point, _ = disk
    (tmp_path / "link").symlink_to(point)
    with pytest.raises(Refused, match="nothing is mounted at"):
        dump(replace(job, path=tmp_path / "link" / "latest.sql.gz"))


def test_a_folder_that_must_be_mounted_is_on_no_disk_of_its_own(disk, tmp_path, monkeypatch):
    """The rest of this machine may be mounted as it likes: only the disk of the test is seen."""
    point, mount = disk
    seen = mounts.MOUNTINFO.read_text()
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    mounts.MOUNTINFO.write_text("22 1 8:1 / / rw - ext4 /dev/a rw\n")
    mounts.require(tmp_path / "backups", must_be_mounted=False)
    with pytest.raises(Refused, match="nor a folder above it is a mounted file system"):
        mounts.require(tmp_path / "backups", must_be_mounted=True)
    mount()
    mounts.MOUNTINFO.write_text(Path("/proc/self/mountinfo").read_text())
    assert mounts.MOUNTINFO.read_text() != seen
    mounts.require(point / "backups" / "acme", must_be_mounted=True)
