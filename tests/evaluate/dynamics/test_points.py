"""What the user names becomes curves of checkpoints, each at its place in the training."""

import json
import shutil
from types import SimpleNamespace

import pytest

from megatron_ettin.errors import CheckpointError, ConfigError, DataError
from megatron_ettin.evaluate.dynamics import origins
from megatron_ettin.evaluate.dynamics.one_tokenizer import OneTokenizer
from megatron_ettin.evaluate.dynamics.points import points_of
from tests.evaluate.dynamics.conftest import STEPS


def places(*models):
    return [(point.name, point.tokens) for point in points_of([str(model) for model in models])]


def test_a_run_is_a_curve_of_its_checkpoints(run):
    found = points_of([str(run)])
    assert [point.name for point in found] == [f"toy@step{step}" for step in STEPS]
    assert [point.run for point in found] == [run] * 3
    tokens = [point.tokens for point in found]
    assert tokens == sorted(tokens) and tokens[0] > 0
    assert places(f"one={run}@4") == [("one@step4", found[1].tokens)]
    with pytest.raises(CheckpointError, match="has no checkpoint of step 3"):
        points_of([f"{run}@3"])


def test_stages_of_exports_follow_each_other_and_their_tokens_add_up(make_exports):
    folder = make_exports("exports", ["step20", "step3", "ext5", "decay1"])
    expected = [("exports@step3", 300), ("exports@step20", 2_000), ("exports@ext5", 2_500), ("exports@decay1", 2_600)]
    assert places(folder) == expected
    assert places(folder / "step3", folder / "ext5") == [("exports@step3", 300), ("exports@ext5", 800)]


def test_sources_of_one_name_are_one_curve(run, make_exports):
    last = points_of([str(run)])[-1].tokens
    found = places(f"a={run}", f"a={make_exports('later', ['ext5'])}", f"b={run}@2")
    assert found[-2:] == [("a@ext5", last + 500), ("b@step2", found[0][1])]
    with pytest.raises(ConfigError, match=r"a has two checkpoints step2; .*NAME=SOURCE"):
        points_of([f"a={run}", f"a={run}@2"])


def test_folders_of_other_makers_are_placed_by_their_names(make_exports):
    folder = make_exports("exports", ["step1", "step2"])
    for path in folder.iterdir():
        (path / "training.json").unlink()
        path.rename(folder / f"{path.name}000-tokens{path.name[-1]}B")
    assert places(folder) == [("exports@step1000-tokens1B", 1e9), ("exports@step2000-tokens2B", 2e9)]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None])
def test_what_holds_no_checkpoint_is_refused(make, tmp_path):
    make(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is no run"):
        points_of([str(tmp_path / "none")])


class Hub:
    """A hub with one repository, in the place of the real one's client."""

    def __init__(self, folder):
        self.folder, self.fetched = folder, []

    def list_repo_refs(self, repository):
        if repository != "someone/pair":
            raise OSError(f"no repository {repository}")
        branches = [SimpleNamespace(name=path.name, target_commit=f"c-{path.name}") for path in self.folder.iterdir()]
        return SimpleNamespace(branches=[*branches, SimpleNamespace(name="main", target_commit="c-main")], tags=[])

    def snapshot_download(self, repository, revision, allow_patterns):
        assert repository == "someone/pair" and "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
        self.fetched.append(revision)
        return str(self.folder / revision.removeprefix("c-"))


@pytest.fixture
def hub(monkeypatch, make_exports):
    import huggingface_hub

    made = Hub(make_exports("hub", ["step10", "step200"]))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_a_hub_repository_is_a_curve_of_its_revisions(hub):
    found = points_of(["someone/pair"])
    assert [point.name for point in found] == ["pair@step10", "pair@step200"], "main is no checkpoint"
    assert [point.origin.known_by() for point in found] == ["someone/pair c-step10", "someone/pair c-step200"]
    assert not hub.fetched, "nothing is fetched before it is needed"
    with found[1].opened() as subject:
        assert subject.kind == "encoder" and subject.point["step"] == 200
    assert hub.fetched == ["c-step200"], "a revision that moves on meanwhile is not mixed in"
    assert [point.name for point in points_of(["p=someone/pair@step200", "p=someone/pair@step10"])] == [
        "p@step200", "p@step10",
    ]  # fmt: skip


def test_a_hub_that_does_not_answer_names_the_way_without_it(hub):
    with pytest.raises(CheckpointError, match="hub does not list its revisions .no repository other/one.*@REVISION"):
        points_of(["other/one"])
    (point,) = points_of(["other/one@step5"])
    assert point.origin.known_by() == "", "what a revision is now cannot be told"


def test_published_revisions_are_placed_by_the_tokens_of_their_stages(monkeypatch):
    import huggingface_hub

    names = ("step599525", "step2999", "ext1729", "decay8210")
    refs = SimpleNamespace(tags=[SimpleNamespace(name=name, target_commit=name) for name in names], branches=[])
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(list_repo_refs=lambda _: refs))
    found = points_of(["jhu-clsp/ettin-encoder-17m"])
    assert [point.revision for point in found] == ["step2999", "step599525", "ext1729", "decay8210"]
    assert [round(point.tokens / 1e9, 1) for point in found] == [8.5, 1_700.0, 1_708.5, 1_758.5]


def test_a_second_tokenizer_is_refused_by_name(run, make_exports):
    folder = make_exports("exports", ["step1", "step2"])
    OneTokenizer().require_stored(points_of([str(run), str(folder)]))
    path = folder / "step2" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"exports@step2 .*another tokenizer than toy@step2.*runs of their own"):
        OneTokenizer().require_stored(points_of([str(run), str(folder)]))


def test_a_template_makes_no_second_tokenizer(make_exports):
    encoders, decoders = make_exports("encoders", ["step1"]), make_exports("decoders", ["step1"], objective="clm")
    assert (encoders / "step1/tokenizer.json").read_bytes() != (decoders / "step1/tokenizer.json").read_bytes()
    OneTokenizer().require_stored(points_of([str(encoders), str(decoders)]))


def test_a_checkpoint_of_a_run_is_exported_once_and_then_only_refilled(run, tmp_path, monkeypatch):
    from megatron_ettin.export import read_folder
    from megatron_ettin.export.runs import export_checkpoint

    points = points_of([str(run)])
    exports = []
    monkeypatch.setattr(origins, "export_checkpoint", lambda *a, **o: exports.append(a) or export_checkpoint(*a, **o))
    for point in points:
        export_checkpoint(point.origin.checkpoint, tmp_path / point.revision)
        with point.origin.folder() as folder:
            ours, theirs = read_folder(folder), read_folder(tmp_path / point.revision)
            assert ours.config.model.layers == theirs.config.model.layers
            assert all((ours.tensors[name] == tensor).all() for name, tensor in theirs.tensors.items())
            notes = [json.loads((path / "training.json").read_text()) for path in (folder, tmp_path / point.revision)]
            assert notes[0] == notes[1]
    assert len(exports) == 1


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (shard,) = (copy / "checkpoints/step-00000004/shards").glob("__0_0.distcp")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="step-00000004"), points_of([f"{copy}@4"])[0].opened():
        pass
