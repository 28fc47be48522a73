"""``ettin evaluate --suite``: from the command line to results, tables and plots."""

import pytest

from megatron_ettin.commands.evaluate import main
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.suites.results import read_results
from tests.evaluate.bias import test_suite as bias


def test_suites_write_results_tables_and_plots_and_go_on(make_folder, tmp_path, capsys):
    local, output = bias.write(tmp_path / "data"), tmp_path / "out"
    command = [
        f"enc={make_folder('mlm')}", f"dec={make_folder('clm')}", "--suite", "bias", "--local", str(local),
        "--output", str(output),
    ]  # fmt: skip
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "## bias" in first and "| enc | encoder |" in first and "winogender_gotcha" in first
    assert (output / "tables.md").read_text() in first
    assert (output / "bias.png").read_bytes().startswith(b"\x89PNG")
    found = read_results(output)["models"]["enc"]["suites"]["bias"]["winogender_male"]
    assert found["environment"]["libraries"]["torch"] and found["command"]
    assert main(command) == 0
    assert "enc, bias winogender_male: there already" in capsys.readouterr().out
    assert main(["--table", str(output)]) == 0
    assert "## bias" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--tasks", "piqa"], "--tasks is a setting of suites"), (["--limit", "3"], "--limit is a setting of suites"),
     (["--suite", "generativ"], "there is no such suite; did you mean 'generative'"),
     (["--suite", "bias", "--budget", "quick"], "--budget is for glue and retrieval"),
     (["--suite", "bias", "--setting", "rate=1e-4"], "--setting says how glue fine-tunes"),
     (["--suite", "bias", "--retrieval.batch", "8"], "--retrieval says how the retrieval suite trains"),
     (["--retrieval.batch", "8"], "--retrieval is a setting of suites"),
     (["--suite", "bias", "--shard", "3/2"], "--shard 3/2"), (["--suite", "losses"], "name a corpus with --data")],
)  # fmt: skip
def test_bad_flags_are_refused_before_any_work(flags, message, make_folder, tmp_path):
    with pytest.raises(ConfigError, match=message):
        main([str(make_folder("mlm")), *flags, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_no_model_is_an_error():
    with pytest.raises(ConfigError, match="name at least one model"):
        main(["--suite", "bias"])
