#!/usr/bin/env bash
# The paired study: a pair through three stages, each made into the other, all four converted, compared on one held-out
# text and asked the tasks of the suites that --evaluate names; one report:
#
#   bash examples/study.sh                                     at toy scale, less than half an hour on two cores of a CPU
#   bash examples/study.sh TEXT FOLDER [flags of ettin study]
#   bash examples/study.sh my_text.jsonl study-17m --size 17m --tokens 50M --ranks 8 --evaluate glue,generative,bias
#
# TEXT is a .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt file, or a folder of them. A tokenizer is trained on it unless
# ETTIN_TOKENIZER names a tokenizer.json. Without arguments it is Python's own library, less the modules that the tasks
# are made from, FOLDER is study-toy, or what ETTIN_STUDY names, and ETTIN_TOKENS (1500K) is the length of the first stage.
# Started again, it goes on where it stopped; status 1 when any part failed. Unlike quickstart.sh it expects an installed
# package.
set -euo pipefail
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

if [ $# -eq 0 ]; then
    folder=${ETTIN_STUDY:-study-toy} text=${ETTIN_STUDY:-study-toy}/text tools=$(dirname "$0")/../tools
    mkdir -p "$folder/tasks"
    python -m megatron_ettin.evaluate.stdlib.build "$folder/tasks"
    [ -e "$text/code.jsonl" ] || python "$tools/collect_local_text.py" "$text" --leave-out "$folder/tasks"
    python -m megatron_ettin.evaluate.stdlib.overlap "$folder/tasks" "$text/prose.jsonl" "$text/code.jsonl"
    ETTIN_VOCABULARY=${ETTIN_VOCABULARY:-8192}
    set -- "$text" "$folder" --size tiny --tokens "${ETTIN_TOKENS:-1500K}" --evaluate losses,stdlib --local "$folder/tasks"
fi
case $1 in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage; exit 2; }
text=$1 folder=$2
shift 2

ettin study --data "$folder/corpus" --run "$folder" "$@" --dry-run >/dev/null # a bad flag is told before anything is made
mkdir -p "$folder"
tokenizer=${ETTIN_TOKENIZER:-$folder/tokenizer}
[ -e "$tokenizer" ] || ettin tokenizer train --input "$text" --vocabulary "${ETTIN_VOCABULARY:-50368}" --output "$tokenizer"
[ -e "$folder/corpus.json" ] || ettin prepare --input "$text" --tokenizer-model "$tokenizer" --output-prefix "$folder/corpus"
ettin study --data "$folder/corpus" --run "$folder" "$@"
