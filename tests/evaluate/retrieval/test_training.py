"""Contrastive training is the published one, goes on where it stopped, and its folder embeds as it should."""

import json
import shutil

import numpy as np
import pytest
import torch

from megatron_ettin.errors import CheckpointError, TrainingError
from megatron_ettin.evaluate.retrieval.folder import write_untrained
from megatron_ettin.evaluate.retrieval.settings import SCALE, WARM_UP, ContrastSettings
from megatron_ettin.evaluate.retrieval.trained import FACTS, EmbeddingModels
from megatron_ettin.evaluate.retrieval.triplets import read_triplets
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import Options
from tests.evaluate.retrieval import synthetic
from tests.evaluate.retrieval.synthetic import TRIPLETS

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="sentence-transformers is not installed: pip install -e .[eval-embed]"
)
from megatron_ettin.evaluate.retrieval.contrast import load, newest_checkpoint, ranked_rightly, train  # noqa: E402

pytestmark = pytest.mark.slow

ROUNDING = 1e-5
"""Of float32 sums in another order, relative to the largest entry."""
SETTINGS = ContrastSettings(batch=8, mini_batch=3, checkpoint_steps=1)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def untrained(make_folder, tmp_path):
    def make(objective="mlm", pooling="mean", name="untrained"):
        folder = tmp_path / f"{name}-{objective}-{pooling}"
        folder.mkdir()
        with opened_subjects({"m": str(make_folder(objective))}) as (subject,):
            write_untrained(folder, subject, pooling, 500)
        return folder

    return make


@pytest.fixture
def triplets(tmp_path):
    return read_triplets(synthetic.write(tmp_path / "data"), 1_000)


def states(folder, text):
    """Token states [T, H] of one text, by transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(input_ids=ids).last_hidden_state[0].numpy()


POOLED = {
    "mean": lambda x_TH: x_TH.mean(0),
    "lasttoken": lambda x_TH: x_TH[-1],
    "weightedmean": lambda x_TH: np.average(x_TH, axis=0, weights=np.arange(1, len(x_TH) + 1)),
}


@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
@pytest.mark.parametrize("pooling", list(POOLED))
def test_embeddings_are_pooled_states_whatever_the_padding(objective, pooling, untrained):
    folder = untrained(objective, pooling)
    texts = ["a", "a longer text of many words", "middle one"]
    found = load(folder).encode(texts, batch_size=3)
    for text, vector in zip(texts, found, strict=True):
        expected = POOLED[pooling](states(folder, text))
        assert np.abs(vector - expected).max() < ROUNDING * np.abs(expected).max()


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_the_cached_loss_is_the_plain_one_with_its_gradients(objective, untrained):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = load(untrained(objective, "lasttoken" if objective == "clm" else "mean"))
    columns = [[row[column] for row in TRIPLETS[:12]] for column in ("query", "positive", "negative")]
    found = []
    for loss in (
        losses.MultipleNegativesRankingLoss(model, scale=SCALE),
        losses.CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=5),
    ):
        model.zero_grad()
        value = loss([model.preprocess(texts) for texts in columns], labels=None)
        value.backward()
        found.append((value.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (plain, gradients), (cached, others) = found
    assert cached == pytest.approx(plain, rel=ROUNDING)
    query, positive, negative = (torch.tensor(model.encode(texts)) for texts in columns)
    documents = torch.nn.functional.normalize(torch.cat([positive, negative]))
    logits = SCALE * torch.nn.functional.normalize(query) @ documents.T
    assert plain == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.arange(12)).item(), rel=1e-4)
    for one, other in zip(gradients, others, strict=True):
        assert (one - other).abs().max() <= ROUNDING * one.abs().max() + 1e-9


def test_the_rate_rises_in_the_published_share_of_steps_and_falls_to_nothing(untrained, triplets, tmp_path):
    settings = ContrastSettings(batch=8, mini_batch=8, epochs=8, checkpoint_steps=1)
    train(load(untrained()), triplets, settings, 1e-3, 0, tmp_path / "work")
    state = json.loads((newest_checkpoint(tmp_path / "work") / "trainer_state.json").read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    steps, rise = len(rates), int(np.ceil(WARM_UP * len(rates)))
    expected = [i / rise if i < rise else (steps - i) / (steps - rise) for i in range(steps)]
    assert steps >= 36 and np.allclose(rates, 1e-3 * np.array(expected), rtol=1e-6)


def test_a_stopped_training_goes_on_to_the_same_weights(untrained, triplets, tmp_path, monkeypatch):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    folder, whole = untrained(), None
    for stop in (None, 3):
        work = tmp_path / f"work-{stop}"
        if stop is not None:
            plain, count = losses.CachedMultipleNegativesRankingLoss.forward, [0]

            def cut(self, *arguments, plain=plain, count=count, **options):
                count[0] += 1
                if count[0] == 4:
                    raise KeyboardInterrupt
                return plain(self, *arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(losses.CachedMultipleNegativesRankingLoss, "forward", cut)
                with pytest.raises(KeyboardInterrupt):
                    train(load(folder), triplets, SETTINGS, 1e-3, 0, work)
            assert newest_checkpoint(work).name == "checkpoint-3"
            shutil.copytree(work / "checkpoint-3", work / "checkpoint-4")
            (work / "checkpoint-4" / "trainer_state.json").unlink()
            assert newest_checkpoint(work).name == "checkpoint-3", "one that is cut off does not count"
            shutil.rmtree(work / "checkpoint-4")
        model = load(folder)
        before = [p.clone() for p in model.parameters()]
        train(model, triplets, SETTINGS, 1e-3, 0, work)
        assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        if whole is None:
            whole = [p.clone() for p in model.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), whole, strict=True))


def test_weights_that_are_no_numbers_are_named(untrained, make_folder, triplets, tmp_path):
    with pytest.raises(TrainingError, match="a rate of 0.9 ended in weights that are no numbers; give a lower"):
        model = load(untrained())
        with torch.no_grad():
            next(model.parameters()).mul_(1e30)
        train(model, triplets, SETTINGS, 0.9, 0, tmp_path / "work")
    folder = untrained(name="broken")
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if "layers" in name)
    tensors[name].view(-1)[0] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        load(folder)


def test_held_out_triplets_are_counted_as_the_librarys_evaluator_does(untrained, triplets):
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    model = load(untrained())
    rows = triplets.train.to_list()
    for row in rows[::3]:
        row["positive"], row["negative"] = row["negative"], row["positive"]
    columns = {column: [row[column] for row in rows] for column in ("query", "positive", "negative")}
    share = evaluation.TripletEvaluator(*columns.values())(model)["cosine_accuracy"]
    assert ranked_rightly(model, columns) == round(share * len(rows))
    assert 0 < share < 1


def test_models_are_trained_once_and_the_best_rate_is_taken(make_folder, tmp_path):
    settings = ContrastSettings(batch=8, mini_batch=8, learning_rates=(1e-9, 3e-3), epochs=4)
    options = Options(local=synthetic.write(tmp_path / "data"), seeds=2, retrieval=settings)
    said = []
    models = EmbeddingModels(options, tmp_path / "keep", say=said.append)
    with opened_subjects({"m": str(make_folder("clm"))}) as (subject,):
        chosen = models.chosen(subject)
        facts = [json.loads((folder / FACTS).read_text()) for folder in chosen]
        assert len(said) == 3, "both rates with the first seed, the better one with the second"
        assert [one["seed"] for one in facts] == [0, 1] and len({one["learning_rate"] for one in facts}) == 1
        assert models.chosen(subject) == chosen and len(said) == 3
        assert not list((tmp_path / "keep").glob("*.training")) and not list((tmp_path / "keep").glob(".*"))
        (chosen[0] / FACTS).write_text("{")
        with pytest.raises(CheckpointError, match="remove the folder, and the model is trained again"):
            models.chosen(subject)
        shutil.rmtree(chosen[0])
        models.chosen(subject)
        assert len(said) == 4
    vector = load(chosen[1]).encode(["a b"])[0]
    assert np.abs(vector - states(chosen[1], "a b")[-1]).max() < ROUNDING * np.abs(vector).max()
