#!/usr/bin/env bash
# The paired study on a text of yours: a pair through three stages, each made into the other, all four converted and
# compared on one held-out text:
#
#   bash examples/study.sh TEXT FOLDER [flags of ettin study]
#   bash examples/study.sh my_text.jsonl study-17m --size 17m --tokens 50M --ranks 8
#
# TEXT is a .jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt file, or a folder of them. A tokenizer is trained on it unless
# ETTIN_TOKENIZER names a tokenizer.json. Started again, it goes on where it stopped; status 1 when any part failed.
# Unlike quickstart.sh it expects an installed package.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
text=$1 folder=$2
shift 2

ettin study --data "$folder/corpus" --run "$folder" "$@" --dry-run >/dev/null # a bad flag is told before anything is made
mkdir -p "$folder"
tokenizer=${ETTIN_TOKENIZER:-$folder/tokenizer}
[ -e "$tokenizer" ] || ettin tokenizer train --input "$text" --vocabulary "${ETTIN_VOCABULARY:-50368}" --output "$tokenizer"
[ -e "$folder/corpus.json" ] || ettin prepare --input "$text" --tokenizer-model "$tokenizer" --output-prefix "$folder/corpus"
ettin study --data "$folder/corpus" --run "$folder" "$@"
