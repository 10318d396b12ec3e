"""Stores of images: the same promises on Redis, in a folder and in an object store."""

import pytest

from workers.queue import keys
from workers.queue.artifacts import ArtifactError, Artifacts
from workers.queue.broker import BrokerUnavailable
from workers.queue.connection import connect

BYTES = bytes(range(256))


@pytest.fixture(params=["redis", "folder", "memory", "s3"])
def store(request, redis, tmp_path) -> Artifacts:
    urls = {"redis": "", "folder": str(tmp_path / "images"), "memory": f"memory://{tmp_path.name}"}
    url = request.getfixturevalue("s3") if request.param == "s3" else urls[request.param]
    store = Artifacts.open(url, redis)
    store.check()
    return store


def test_wrong_credentials_and_no_bucket_are_told(redis, s3, s3_refuses):
    with s3_refuses(), pytest.raises(ArtifactError, match=r"EBBTIDE_ARTIFACTS.*Access Key Id"):
        Artifacts.open(s3, redis).check()
    with pytest.raises(ArtifactError, match=r"no-such-bucket.*EBBTIDE_ARTIFACTS.*bucket does not exist"):
        Artifacts.open("s3://no-such-bucket/images", redis).check()


def test_an_object_store_that_refuses_is_no_missing_image(redis, s3, s3_refuses):
    store = Artifacts.open(s3, redis)
    store.put("job", "0.png", BYTES, 60)
    with s3_refuses():
        with pytest.raises(ArtifactError, match="cannot read"):
            store.get("job", "0.png")
        with pytest.raises(ArtifactError, match="cannot store"):
            store.put("job", "1.png", BYTES, 60)
    assert store.get_each([("job", "0.png"), ("job", "1.png")]) == [BYTES, None]


def test_files_come_back_as_they_went(store):
    store.put_many("job", {"0.png": BYTES, "grid.png": b""}, 60)
    store.put("job", "0.png", BYTES[::-1], 60)
    assert store.get("job", "0.png") == BYTES[::-1]
    assert store.get("job", "grid.png") == b""


def test_files_of_several_jobs_go_and_come_together(store):
    assert store.put_each({"a": {"0.png": BYTES}, "b": {"0.png": b"b", "1.png": b"c"}}, 60) == {}
    assert store.get_each([("b", "1.png"), ("a", "1.png"), ("a", "0.png")]) == [b"c", None, BYTES]


def test_a_full_redis_refuses_each_of_several_jobs(redis):
    store = Artifacts.open("", redis)
    redis.config_set("maxmemory", 1)
    try:
        refused = store.put_each({"a": {"0.png": BYTES}, "b": {"0.png": BYTES}}, 60)
    finally:
        redis.config_set("maxmemory", 0)
    assert {job_id: type(error) for job_id, error in refused.items()} == {"a": ArtifactError, "b": ArtifactError}


def test_a_folder_refuses_a_job_and_keeps_its_neighbours(redis, tmp_path):
    store = Artifacts.open(str(tmp_path / "images"), redis)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b").write_text("in the way")
    assert list(store.put_each({"a": {"0.png": BYTES}, "b": {"0.png": BYTES}, "c": {"0.png": BYTES}}, 60)) == ["b"]
    assert store.get_each([("a", "0.png"), ("c", "0.png")]) == [BYTES, BYTES]


def test_what_is_not_there_is_none(store):
    store.put("job", "0.png", BYTES, 60)
    assert store.get("job", "1.png") is None
    assert store.get("other", "0.png") is None


@pytest.mark.parametrize("name", ["../0.png", "0", "", "a/b.png", ".png", "0.png\n", "A.png", "0.PNG", "..", "0..png"])
def test_names_that_no_file_can_have_are_refused(store, name):
    with pytest.raises(ArtifactError, match="no artifact has the name"):
        store.get("job", name)
    with pytest.raises(ArtifactError, match="no artifact has the name"):
        store.put("job", name, BYTES, 60)


@pytest.mark.parametrize("job_id", ["..", "", "a/b", "a\n"])
def test_ids_that_no_job_can_have_are_refused(store, job_id):
    with pytest.raises(ArtifactError, match="no job has the id"):
        store.get(job_id, "0.png")


def test_redis_forgets_files_after_their_time(redis):
    Artifacts.open("", redis).put("job", "0.png", BYTES, 60)
    assert 0 < redis.ttl(keys.artifact("job", "0.png")) <= 60


def test_a_full_redis_is_an_error_that_leaves_nothing(redis):
    store = Artifacts.open("", redis)
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ArtifactError, match="takes no images"):
            store.put_many("job", {f"{n}.png": BYTES for n in range(3)}, 60)
    finally:
        redis.config_set("maxmemory", 0)
    assert list(redis.scan_iter("*artifact*")) == []


def test_a_folder_that_fills_up_half_way_is_left_as_it_was(redis, tmp_path, monkeypatch):
    store = Artifacts.open(str(tmp_path / "images"), redis)
    real, written = store._fs.pipe_file, []

    def full_after_two(path: str, data: bytes) -> None:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(path, data)
        written.append(path)

    monkeypatch.setattr(store._fs, "pipe_file", full_after_two)
    with pytest.raises(ArtifactError, match="No space left on device"):
        store.put_many("job", {f"{n}.png": BYTES for n in range(4)}, 60)
    assert len(written) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_is_swept_of_what_has_outlived_its_time(redis, tmp_path):
    store = Artifacts.open(str(tmp_path), redis)
    store.put("old", "0.png", BYTES, -1)
    store.put("young", "0.png", BYTES, 60)
    assert store.sweep() == 1
    assert store.get("old", "0.png") is None
    assert store.get("young", "0.png") == BYTES
    assert [folder.name for folder in tmp_path.iterdir()] == ["young"]
    assert store.sweep() == 0


def test_a_folder_that_cannot_be_made_is_an_error(redis, tmp_path):
    (tmp_path / "taken").write_bytes(b"a file where the folder should be")
    with pytest.raises(ArtifactError, match="cannot store images"):
        Artifacts.open(str(tmp_path / "taken"), redis).put("job", "0.png", BYTES, 60)


def test_a_lost_redis_is_unavailable_rather_than_empty():
    with connect("redis://127.0.0.1:1/0") as nowhere, pytest.raises(BrokerUnavailable):
        Artifacts.open("", nowhere).get("job", "0.png")


def test_files_are_deleted_by_name(store):
    store.put_many("job", {"0.png": BYTES, "1.png": BYTES}, 60)
    store.put("other", "0.png", BYTES, 60)
    for _ in range(2):
        store.delete("job", ["0.png"])
    assert store.get_each([("job", "0.png"), ("job", "1.png"), ("other", "0.png")]) == [None, BYTES, BYTES]
    store.delete("job", [])
