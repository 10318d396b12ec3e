"""What is left of memory and disks, as metrics tell it. How free memory is read is tested in engine/test_memory.py."""

import os
import shutil

from workers.room import RoomCollector, held


def exported(collector: RoomCollector) -> dict[tuple[str, str], float]:
    return {(sample.name, sample.labels.get("folder", "")): sample.value for family in collector.collect() for sample in family.samples}


def test_a_folder_holds_all_its_files_and_a_missing_one_none(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "b").write_bytes(b"x" * 24)
    os.symlink("/dev/zero", tmp_path / "link")
    assert held(tmp_path) == 1024 + len("/dev/zero")
    assert held(tmp_path / "none") == 0


def test_disks_are_told_also_of_folders_that_are_not_there_yet(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 512)
    collector = RoomCollector({"here": tmp_path, "later": tmp_path / "no" / "such"}, counting=True)
    found = exported(collector)
    assert found["ebbtide_folder_bytes", "here"] == 512
    assert found["ebbtide_folder_bytes", "later"] == 0
    for name in ("here", "later"):
        assert found["ebbtide_disk_bytes", name] == shutil.disk_usage(tmp_path).total
        assert 0 < found["ebbtide_disk_free_bytes", name] < found["ebbtide_disk_bytes", name]
    assert found["ebbtide_memory_free_bytes", ""] > 0


def test_what_folders_hold_is_counted_when_asked_for(tmp_path):
    collector = RoomCollector({"here": tmp_path})
    assert ("ebbtide_folder_bytes", "here") not in exported(collector)
    collector.look()
    assert exported(collector)["ebbtide_folder_bytes", "here"] == 0
