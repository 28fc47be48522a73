"""Manifests, names and retention: the parts of a checkpoint that need no tensors."""

from __future__ import annotations

import errno
import json
import pickle

import pytest
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MEM_FORMAT_ENCODING
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from megatron_ettin.checkpoint import manifest as manifest_module
from megatron_ettin.checkpoint.load import find, find_newest, verify
from megatron_ettin.checkpoint.manifest import files_of, hash_share, read_manifest, write_manifest
from megatron_ettin.checkpoint.retention import expendable, thin_out
from megatron_ettin.checkpoint.shards import check_index
from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.run_folder import (
    Checkpoint,
    checkpoints_of,
    list_checkpoints,
    note_save,
    parse_source,
    path_of,
    remove_leftovers,
    set_aside,
)


def make(run, step, reason="clock"):
    folder = path_of(run, step)
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "a").write_bytes(b"tensor" * step)
    place = {MetadataIndex("weights"): _StorageInfo("a", 0, 6 * step)}
    (folder / "shards" / ".metadata").write_bytes(pickle.dumps(Metadata(state_dict_metadata={}, storage_data=place)))
    for name in ("common.pt", "metadata.json"):
        (folder / "shards" / name).write_bytes(b"of Megatron-Core")
    (folder / "state.json").write_text(json.dumps({"reason": reason}))
    write_manifest(folder, hash_share(folder, files_of(folder), 0, 1))
    return Checkpoint(path=folder, step=step)


def test_a_whole_checkpoint_is_found(tmp_path):
    for step in (1, 12, 3):
        make(tmp_path, step)
    found = find_newest(tmp_path)
    assert found.checkpoint.step == 12 and not found.skipped
    assert find(tmp_path, 3).step == 3
    with pytest.raises(CheckpointError, match="no checkpoint of step 4; steps there: 1, 3, 12"):
        find(tmp_path, 4)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a flipped byte": (lambda folder: flip(folder / "shards" / "a"), "damaged"),
    "a cut file": (lambda folder: (folder / "shards" / "a").write_bytes(b"tens"), "4 bytes"),
    "a missing file": (lambda folder: (folder / "state.json").unlink(), "missing"),
    "an extra file": (lambda folder: (folder / "shards" / "b").write_bytes(b""), "not in the manifest"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "never completed"),
    "an empty manifest": (lambda folder: (folder / "manifest.json").write_text(""), "is damaged"),
    "another format": (lambda folder: (folder / "manifest.json").write_text("{}"), "not a manifest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_the_one_before_is_taken(tmp_path, damage):
    make(tmp_path, 1)
    broken = make(tmp_path, 2)
    act, reason = DAMAGES[damage]
    act(broken.path)
    with pytest.raises(DamagedError, match=reason):
        verify(broken)
    found = find_newest(tmp_path)
    assert found.checkpoint.step == 1
    assert [(checkpoint.step, reason in why) for checkpoint, why in found.skipped] == [(2, True)]


@pytest.mark.parametrize("lacking", ["shards/common.pt", "shards/metadata.json", "shards/a", "state.json"])
def test_a_checkpoint_that_lacks_a_file_is_damaged_though_its_manifest_fits(tmp_path, lacking):
    whole, broken = make(tmp_path, 1), make(tmp_path, 2)
    (broken.path / lacking).unlink()
    names = files_of(broken.path)
    (broken.path / "manifest.json").unlink()
    write_manifest(broken.path, hash_share(broken.path, names, 0, 1))
    with pytest.raises(DamagedError, match=f"{lacking} had to be written and was not"):
        verify(broken)
    assert find_newest(tmp_path).checkpoint == whole


def newer_manifest(folder, monkeypatch):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"version": 2}))


def newer_torch(folder, monkeypatch):
    monkeypatch.setattr(filesystem, "_StorageInfo", None)
    monkeypatch.delattr(filesystem, "_StorageInfo")


def disk_error(folder, monkeypatch):
    def refuse(path):
        if path.parent.parent == folder:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    real = manifest_module.hash_file
    monkeypatch.setattr(manifest_module, "hash_file", refuse)


def no_memory(folder, monkeypatch):
    def refuse(path):
        raise MemoryError

    monkeypatch.setattr(manifest_module, "hash_file", refuse)


@pytest.mark.parametrize("trouble", [newer_manifest, newer_torch, disk_error, no_memory])
def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path, monkeypatch, trouble):
    make(tmp_path, 1)
    folder = make(tmp_path, 2).path
    trouble(folder, monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        find_newest(tmp_path)
    assert not isinstance(caught.value, DamagedError)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [1, 2]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "shards/../../x"])
def test_a_manifest_cannot_point_outside_its_folder(tmp_path, name):
    checkpoint = make(tmp_path, 1)
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (checkpoint.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not the size and hash of a file in the folder"):
        read_manifest(checkpoint.path)


def test_ranks_share_the_hashing(tmp_path):
    folder = make(tmp_path, 3).path
    names = files_of(folder)
    shares = [hash_share(folder, names, rank, 3) for rank in range(3)]
    assert sum(map(len, shares)) == len(names)
    assert {name: record for share in shares for name, record in share.items()} == hash_share(folder, names, 0, 1)


def test_nothing_at_all_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(CheckpointError, match=f"{checkpoints_of(tmp_path)} holds no whole checkpoint"):
        find(tmp_path)


def test_a_damaged_checkpoint_makes_room_for_its_step(tmp_path):
    first = set_aside(make(tmp_path, 1))
    second = set_aside(make(tmp_path, 1))
    assert first.exists() and second.exists() and list_checkpoints(tmp_path) == []


def test_leftovers_of_crashes_go_and_nothing_else(tmp_path):
    kept = make(tmp_path, 1).path
    folder = checkpoints_of(tmp_path)
    (folder / ".step-00000002.incomplete-1234").mkdir()
    (folder / ".step-00000001.deleted-").mkdir()
    (folder / ".mine").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [".mine", kept.name]


def test_small_files_that_were_not_finished_go_and_those_of_other_programs_stay(tmp_path):
    make(tmp_path, 1)
    (tmp_path / "order").mkdir()
    own = [
        tmp_path / ".config.json.incomplete-b94d4148", tmp_path / ".metrics.repeated-2.jsonl.incomplete-00000000",
        tmp_path / "order" / ".data.json.incomplete-0123abcd", checkpoints_of(tmp_path) / ".LATEST.incomplete-ffffffff",
    ]  # fmt: skip
    others = [tmp_path / ".loss.png.incomplete-00000000", tmp_path / ".config.json.incomplete-mine", tmp_path / ".x"]
    for path in (*own, *others):
        path.write_text("half")
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in own) and all(path.exists() for path in others)


def test_latest_names_the_folder(tmp_path):
    checkpoint = make(tmp_path, 7)
    note_save(checkpoint.path.parent.parent, checkpoint, "steps")
    assert (checkpoints_of(tmp_path) / "LATEST").read_text() == "step-00000007\n"


def test_sources_are_runs_with_or_without_a_step(tmp_path):
    assert parse_source("runs/a")[1] is None
    assert parse_source("runs/a@120") == (parse_source("runs/a")[0], 120)
    assert str(parse_source("me@host/run")[0]) == "me@host/run"
    with pytest.raises(CheckpointError, match="a step number"):
        parse_source("runs/a@last")


def steps_of(reasons, keep):
    known = [(Checkpoint(path=None, step=index), reason) for index, reason in enumerate(reasons)]
    return [checkpoint.step for checkpoint in expendable(known, keep)]


def test_retention_never_takes_the_newest_or_what_marks_the_course():
    assert steps_of(["clock"] * 5, 0) == []
    assert steps_of(["clock"] * 5, 2) == [0, 1, 2]
    assert steps_of(["clock"] * 5, 1) == [0, 1, 2, 3]
    assert steps_of(["tokens", "clock", "end", "signal", "steps"], 1) == [1]
    assert steps_of(["clock", "tokens"], 1) == []
    assert steps_of([], 1) == []


def test_thinning_out_deletes_folders(tmp_path):
    for step, reason in enumerate(["clock", "tokens", "clock", "clock"], start=1):
        make(tmp_path, step, reason)
    assert [checkpoint.step for checkpoint in thin_out(tmp_path, 1)] == [1, 3]
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 4]


class Hostile:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/should-not-exist",)


class Reached:
    """Pickles as an attribute of something, the way in which Python 3.11.2 and 3.12 store members of enumerations."""

    def __init__(self, owner, name):
        self.parts = (owner, name)

    def __reduce__(self):
        return getattr, self.parts


def test_members_of_enumerations_are_read_in_every_spelling_and_other_attributes_refused(tmp_path):
    path = tmp_path / ".metadata"
    path.write_bytes(pickle.dumps(Reached(MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")))
    check_index(path)
    for owner, name in ((MEM_FORMAT_ENCODING, "__subclasses__"), (Metadata, "__init__"), ("text", "format")):
        path.write_bytes(pickle.dumps(Reached(owner, name)))
        with pytest.raises(CheckpointError, match="which no checkpoint needs"):
            check_index(path)


def test_an_index_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / ".metadata"
    path.write_bytes(pickle.dumps({"x": Hostile()}))
    with pytest.raises(CheckpointError, match="posix.system, which no checkpoint needs"):
        check_index(path)
    path.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(DamagedError, match="is damaged"):
        check_index(path)
