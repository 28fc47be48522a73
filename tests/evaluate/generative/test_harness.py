"""Our models in lm-eval: its own tasks and flags, and the scores of its own model where it has one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from megatron_ettin.errors import CheckpointError, ConfigError, DataError
from megatron_ettin.evaluate.suites.session import evaluate_suites
from megatron_ettin.evaluate.suites.subjects import opened_subjects, subject_of
from megatron_ettin.evaluate.suites.suite import Options
from tests.evaluate.batches import CLS, MASK, SEP
from tests.evaluate.generative import synthetic

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e .[eval-lm]")

EQUAL = 1e-4
"""Nats, of sums over a continuation: float32 in another order."""
SHORT = ("arc_challenge", "lambada_openai", "piqa", "triviaqa", "winogrande", "wsc273", "mmlu_college_computer_science")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_export):
    from megatron_ettin.export import write_folder

    found = {}
    for objective in ("mlm", "mntp", "clm"):
        found[objective] = tmp_path_factory.mktemp(objective)
        write_folder(found[objective], make_export(objective, maximum_length=1_000))
    return found


def subject(folder):
    return subject_of("m", str(folder), folder, False)


def instances(*arguments):
    return [SimpleNamespace(args=pair) for pair in arguments]


def encoder(folder):
    from megatron_ettin.evaluate.generative.encoder_lm import EncoderLM

    return EncoderLM(subject(folder))


PAIRS = (("The sky is", " blue"), ("The sky is", " green"), ("The sky is ", "blue"), ("", "blue"), ("a", "b"))


def test_an_encoder_tokenises_as_published(folders):
    model = encoder(folders["mlm"])

    def ids(text):
        return model.tokenizer.encode(text, add_special_tokens=False)

    assert model._encode_pair("The sky is", " blue") == ([CLS, *ids("The sky is")], [*ids(" blue"), SEP])
    assert model._encode_pair("The sky is  ", "blue") == ([CLS, *ids("The sky is")], [*ids("  blue"), SEP])
    assert model._encode_pair("", "blue") == ([CLS], [*ids("blue"), SEP])
    found = model.loglikelihood(instances(*PAIRS))
    assert found[0] == pytest.approx(found[2], abs=EQUAL), "spaces at the end belong to the continuation"
    assert len({round(value, 3) for value, _ in found}) == 4


@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_an_encoder_writes_by_filling_the_first_mask(objective, folders):
    from megatron_ettin.evaluate.generative.engines import load_any

    model = encoder(folders[objective])
    plain = load_any(model.subject)
    prompts = ["abc", "The quick brown", ""]
    settings = {"until": [], "max_gen_toks": 6, "do_sample": False}
    written = model.generate_until(instances(*((prompt, settings) for prompt in prompts)))
    for prompt, text in zip(prompts, written, strict=True):
        ids = [CLS, *model.tokenizer.encode(prompt, add_special_tokens=False)]
        begun = len(ids)
        while len(ids) < begun + 6:
            row = torch.tensor([[*ids, MASK, MASK, MASK, SEP]])
            best = int(plain(input_ids=row).logits[0, len(ids) + model.subject.label_offset].argmax())
            if best == SEP:
                break
            ids.append(best)
        assert text == model.tokenizer.decode(ids[begun:], skip_special_tokens=True)
    whole = written[0]
    if len(whole) > 2:
        (stopped,) = model.generate_until(instances(("abc", {"until": [whole[1]], "max_gen_toks": 6})))
        assert stopped == whole[: whole.index(whole[1])]


def test_a_text_longer_than_the_model_is_cut_and_said(folders, caplog):
    model = encoder(folders["mlm"])
    long = "word " * 400
    value, _ = model.loglikelihood(instances((long, "end")))[0]
    assert np.isfinite(value) and model.cut == 1
    assert "is cut from the left to 992: the model takes 1000" in caplog.text
    with pytest.raises(DataError, match="does not fit into a model of 1000 tokens"):
        model.loglikelihood(instances(("a", long)))


def test_rolling_windows_cover_every_token_once(make_folder):
    model = encoder(make_folder("mlm", maximum_length=40))
    short, long = model.loglikelihood_rolling(instances(("blue sky",), ("x" * 100,)))
    ids = model.tokenizer.encode("blue sky", add_special_tokens=False)
    ((expected, _),) = model._loglikelihood_tokens([(None, [CLS], ids)])
    assert short == pytest.approx(expected, abs=EQUAL)
    assert long < short


def test_an_encoder_refuses_what_it_cannot_do(folders):
    from megatron_ettin.evaluate.generative.encoder_lm import EncoderLM

    with pytest.raises(CheckpointError, match="is a decoder; run it with --model ettin_decoder"):
        encoder(folders["clm"])
    with pytest.raises(ConfigError, match="ettin_encoder has no argument temperature"):
        EncoderLM(subject(folders["mlm"]), temperature=1)
    with pytest.raises(ConfigError, match="writes greedily"):
        encoder(folders["mlm"]).generate_until(instances(("a", {"do_sample": True, "temperature": 1.0})))


def test_a_decoder_scores_and_writes_as_the_harness_does(folders):
    from megatron_ettin.evaluate.generative.decoder_lm import DecoderLM, harness_decoder

    one = subject(folders["clm"])
    ours, theirs = DecoderLM(one), harness_decoder(one)
    asked = instances(*PAIRS, ("The sky is", " b"), ("x" * 1_200, "yz"))
    for mine, other in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=EQUAL) and mine[1] == other[1]
    texts = instances(("blue " * 300,), ("sky",))
    rolled = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(rolled, abs=10 * EQUAL)
    prompts = instances(*((prompt, {"until": ["\n"], "max_gen_toks": 5}) for prompt in ("ab", "The sky")))
    assert ours.generate_until(prompts) == theirs.generate_until(prompts, disable_tqdm=True)
    with pytest.raises(CheckpointError, match="is no decoder of ours"):
        DecoderLM(subject(folders["mlm"]))


def evaluated(folders, local, output, tasks, **options):
    from megatron_ettin.evaluate.generative.suite import GenerativeSuite

    chosen = Options(local=local, **options)
    with opened_subjects({name: str(folder) for name, folder in folders.items()}) as subjects:
        return evaluate_suites(subjects, [GenerativeSuite(chosen)], chosen, output, tasks=tasks)["models"]


def test_every_task_reads_local_data_in_the_hubs_columns(tmp_path):
    from megatron_ettin.evaluate.generative.suite import task_manager
    from megatron_ettin.evaluate.generative.tasks import TASKS

    local, manager = synthetic.write(tmp_path), task_manager()
    for task in TASKS.values():
        assert set(task.checked(local)) == {split for split in (task.split, task.few_shot_split) if split}
        group = {"group": "local", "task": [task.override(local, str(tmp_path / "cache"))]}
        (loaded,) = manager.load(group)["tasks"].values()
        document = next(iter(loaded.eval_docs))
        assert loaded.config.num_fewshot in (None, task.shots) and loaded.doc_to_text(document) is not None
        metrics = {metric["metric"] for metric in loaded.config.metric_list}
        assert task.metric.partition(",")[0] in metrics


def test_all_kinds_are_scored_by_the_harnesss_tasks(folders, tmp_path):
    local = synthetic.write(tmp_path)
    models = evaluated(folders, local, tmp_path / "out", SHORT)
    kinds = {name: model["kind"] for name, model in models.items()}
    assert kinds == {"mlm": "encoder", "mntp": "encoder-from-decoder", "clm": "decoder"}
    for model in models.values():
        found = model["suites"]["generative"]
        assert list(found) == list(SHORT)
        for task in SHORT:
            assert found[task]["status"] == "done" and found[task]["examples"] == 3
            low, high = found[task]["interval"]
            assert 0 <= low <= found[task]["value"] <= high <= 1
        assert found["arc_challenge"]["metric"] == "acc_norm"
        assert len(found["arc_challenge"]["identity"]["data"]["test"]["sha256"]) == 64


def test_scores_are_those_of_the_harness_with_its_own_model(folders, tmp_path):
    """The decoder through our engine and through ``hf``, and the encoder against the literal method."""
    from lm_eval.evaluator import simple_evaluate

    from megatron_ettin.evaluate.generative.decoder_lm import harness_decoder
    from megatron_ettin.evaluate.generative.suite import task_manager
    from megatron_ettin.evaluate.generative.tasks import TASKS

    local = synthetic.write(tmp_path)
    tasks = ("arc_challenge", "lambada_openai", "winogrande")
    found = evaluated({"clm": folders["clm"]}, local, tmp_path / "out", tasks)["clm"]["suites"]["generative"]
    group = {"group": "local", "task": [TASKS[task].override(local, str(tmp_path / "cache")) for task in tasks]}
    theirs = simple_evaluate(
        model=harness_decoder(subject(folders["clm"])), tasks=[group], task_manager=task_manager(), bootstrap_iters=0
    )["results"]
    for task in tasks:
        assert found[task]["value"] == pytest.approx(theirs[task][TASKS[task].metric], abs=1e-6)
    perplexity = theirs["lambada_openai"]["perplexity,none"]
    assert found["lambada_openai"]["others"]["perplexity,none"] == pytest.approx(perplexity, rel=1e-4)


def test_the_fast_way_and_the_literal_one_give_the_same_results(folders, tmp_path):
    from lm_eval.evaluator import simple_evaluate

    from megatron_ettin.evaluate.generative import reference
    from megatron_ettin.evaluate.generative.encoder_lm import EncoderLM
    from megatron_ettin.evaluate.generative.engines import load_any
    from megatron_ettin.evaluate.generative.suite import task_manager
    from megatron_ettin.evaluate.generative.tasks import TASKS

    class Literal(EncoderLM):
        def _loglikelihood_tokens(self, requests, disable_tqdm=False, **_):
            plain = load_any(self.subject)
            return [
                reference.score(plain, context, ids, mask=MASK, separator=SEP, offset=self.subject.label_offset)
                for __, context, ids in requests
            ]

    local = synthetic.write(tmp_path)
    tasks = ("arc_challenge", "hellaswag", "lambada_openai", "social_iqa", "winogrande", "wsc273")
    results = []
    for model in (encoder(folders["mntp"]), Literal(subject(folders["mntp"]))):
        group = {"group": "local", "task": [TASKS[task].override(local, str(tmp_path / "cache")) for task in tasks]}
        found = simple_evaluate(model=model, tasks=[group], task_manager=task_manager(), limit=1, bootstrap_iters=0)
        results.append({task: found["results"][task] for task in tasks})
    fast, literal = results
    for task in tasks:
        for name, value in literal[task].items():
            if isinstance(value, float):
                assert fast[task][name] == pytest.approx(value, rel=1e-5), f"{task} {name}"


def test_a_split_that_is_absent_is_listed_and_a_missing_column_stops_with_its_row(folders, tmp_path):
    local = synthetic.write(tmp_path)
    (local / "generative/piqa/validation.jsonl.gz").unlink()
    with pytest.raises(DataError, match="asked for by --tasks, but not run: generative piqa: .*validation.jsonl"):
        evaluated({"mlm": folders["mlm"]}, local, tmp_path / "out", ("piqa", "wsc273"))
    path = local / "generative/arc_challenge/test.jsonl"
    (local / "generative/arc_challenge/test.jsonl.gz").unlink()
    path.write_text(json.dumps({"question": "What?", "choices": synthetic.CHOICES}) + "\n")
    with pytest.raises(DataError, match="test.jsonl, row 1: no column answerKey"):
        evaluated({"mlm": folders["mlm"]}, local, tmp_path / "out", ("arc_challenge",))


@pytest.mark.parametrize(
    ("task", "file", "changes", "message"),
    [("arc_challenge", "arc_challenge/test", {"answerKey": "E"}, "answerKey is 'E'; it is one of A, B, C, D"),
     ("hellaswag", "hellaswag/validation", {"label": ""}, "label is ''; it is one of 0, 1, 2, 3"),
     ("piqa", "piqa/validation", {"label": -1}, "label is -1; it is one of 0, 1"),
     ("winogrande", "winogrande_xl/validation", {"answer": "3"}, "answer is '3'; it is one of 1, 2"),
     ("mmlu_college_computer_science", "mmlu/college_computer_science/test", {"answer": 4}, "it is one of 0, 1, 2, 3"),
     ("openbookqa", "openbookqa/test", {"choices": ["red"]}, "its choices are not laid out as the hub's")],
)  # fmt: skip
def test_a_label_outside_the_classes_is_named(task, file, changes, message, tmp_path):
    from megatron_ettin.evaluate.generative.tasks import TASKS

    (row,) = synthetic.ROWS[file]
    path = synthetic.write(tmp_path) / "generative" / f"{file}.jsonl"
    path.with_name(path.name + ".gz").unlink()
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | changes) + "\n")
    with pytest.raises(DataError, match=f"{path.name}, row 2: .*{message}"):
        TASKS[task].checked(tmp_path)


def test_an_offline_hub_names_the_way_without_it(folders, tmp_path, monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="the data of piqa cannot be fetched .*--local FOLDER"):
        evaluated({"mlm": folders["mlm"]}, None, tmp_path / "out", ("piqa",))


def test_real_tasks_on_real_data(folders, shared, tmp_path):
    local = shared / "evaluation"
    if not (local / "generative").is_dir():
        pytest.skip(f"no evaluation data at {local}")
    tasks = ("arc_challenge", "openbookqa", "sciq", "winogrande", "wsc273")
    models = evaluated({"mlm": folders["mlm"], "clm": folders["clm"]}, local, tmp_path / "out", tasks, limit=2)
    for model in models.values():
        assert all(model["suites"]["generative"][task]["examples"] == 2 for task in tasks)
