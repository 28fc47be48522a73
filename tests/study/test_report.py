"""The report holds what the steps made, also when some are missing."""

import json
from pathlib import Path

import pytest

from megatron_ettin.study.curves import timeline
from megatron_ettin.study.plan import MEMBERS, export_folder, run_folder
from megatron_ettin.study.report import member_histories, write_report
from megatron_ettin.study.settings import StudySettings
from tests.evaluate.suites.test_table import result, write
from tests.support.html import assert_sound, browser, widths

LOSS = {"nats_per_token": 5.0, "standard_error": 0.1, "nats_per_byte": 1.5, "reading": "from both sides"}


def finished_study(folder: Path) -> StudySettings:
    """The products of a study, written by hand."""
    settings = StudySettings(data="corpus", run=folder, evaluate="stdlib,bias")
    for member in MEMBERS:
        for stage in member.stages:
            run = run_folder(settings, f"{member.name}-{stage}")
            run.mkdir(parents=True)
            lines = [{"kind": "step", "step": i, "tokens": 100 * i, "loss": 7.0 - i, "tokens_per_second": 1000.0 * i}
                     for i in (1, 2, 3)]  # fmt: skip
            lines.append({"kind": "evaluation", "step": 3, "tokens": 300, "loss": 4.5})
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        export = export_folder(settings, member.name)
        export.mkdir(parents=True)
        case = {"largest_difference": 1e-6, "largest_logit": 5.0}
        (export / "parity.json").write_text(json.dumps({"met": True, "transformers": "5.0", "cases": [case]}))
    (folder / "evaluation").mkdir()
    losses = {"masked tokens": LOSS, "next tokens, sample": LOSS}
    results = {
        "text": {"unigram_nats_per_token": 6.0, "unigram_nats_per_byte": 2.0, "tokens": 10},
        "models": {member.name: {"losses": losses} for member in MEMBERS},
    }
    (folder / "evaluation" / "results.json").write_text(json.dumps(results))
    (folder / "suites").mkdir()
    scores = dict(zip((member.name for member in MEMBERS), (0.6, 0.5, 0.55, 0.52), strict=True))
    write(folder / "suites" / "stdlib", "stdlib",
          **{name: {"module_of_function": result(score)} for name, score in scores.items()})  # fmt: skip
    return settings


def test_a_finished_study_is_reported_whole(tmp_path):
    settings = finished_study(tmp_path)
    write_report(settings, [])
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["models"]) == {member.name for member in MEMBERS}
    for model in report["models"].values():
        assert model["losses"] == {"mlm": 5.0, "clm": 5.0} and model["parity"]["met"]
    assert [run["tokens_per_second"] for run in report["training"]] == [2000.0] * 8
    assert report["training"][0] == {
        "run": "encoder-pretrain", "steps": 3, "tokens": 300, "last_loss": 4.0, "held_out_loss": 4.5,
        "tokens_per_second": 2000.0,
    }  # fmt: skip
    text = (tmp_path / "report.md").read_text()
    assert "encoder-from-decoder" in text and "6.000" in text and "Not complete" not in text
    assert "## stdlib" in text and "encoder ahead, as in the paper, in 1 of 1" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "results.json").read_text())["models"]
    assert found["decoder"]["suites"]["stdlib"]["module_of_function"]["value"] == 0.5


def test_the_page_of_a_study_stands_by_itself_and_links_every_number(tmp_path):
    settings = finished_study(tmp_path)
    write_report(settings, [])
    page = (tmp_path / "report.html").read_text()
    found = assert_sound(page)
    for name in ("encoder-stdlib-module_of_function", "training-encoder-pretrain", "held-out-text", "decoder-export",
                 "encoder-less-decoder-stdlib-module_of_function", "settings"):  # fmt: skip
        assert f"#json-{name}" in found.links
    assert page.count("<svg") == 3, "one task, and the losses of both objectives"
    assert "another seed of its training" in page
    write_report(settings, [])
    assert (tmp_path / "report.html").read_text() == page


@pytest.mark.skipif(browser() is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_a_study_fits_the_screen(width, tmp_path):
    write_report(finished_study(tmp_path), [])
    needed, _, letters = widths((tmp_path / "report.html").read_text(), width, tmp_path)
    assert needed <= width and len(letters) == 3 and min(letters) >= 9


def test_a_study_that_failed_says_so_in_its_report(tmp_path):
    settings = StudySettings(data="corpus", run=tmp_path)
    write_report(settings, ["train encoder-pretrain"])
    assert "**Not complete**: train encoder-pretrain" in (tmp_path / "report.md").read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["evaluation"] is None and report["training"] == [] and report["conclusions"] == []
    assert "Not complete" in (tmp_path / "report.html").read_text()
    assert_sound((tmp_path / "report.html").read_text())


def test_stages_follow_each_other_in_the_curves_and_members_begin_where_they_started(tmp_path):
    curves, spans = timeline(member_histories(finished_study(tmp_path)))
    assert [(span.stage, span.first, span.last) for span in spans] == [
        ("pretrain", 0, 300), ("extension", 300, 600), ("decay", 600, 900), ("cross", 900, 1200),
    ]  # fmt: skip
    tokens = {item.label: [record["tokens"] for record in item.steps] for item in curves}
    assert tokens["encoder"] == [100 * step for step in range(1, 10)]
    assert tokens["decoder-from-encoder"] == [1000, 1100, 1200]
