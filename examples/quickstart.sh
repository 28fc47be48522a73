#!/usr/bin/env bash
# From a fresh clone to a trained, converted and compared pair, on a CPU or a GPU, in one command:
#
#   bash examples/quickstart.sh                         text that is on every machine: Python's own library, and
#                                                       tasks from a part of it that is kept out of the training
#   bash examples/quickstart.sh --data PATH [--tokenizer FILE] [--size 17m] [--tokens N] [--work DIR]
#
#   --data PATH       your text instead: a .jsonl/.jsonl.gz/.jsonl.zst/.parquet/.txt file or a folder of them
#   --tokenizer FILE  a tokenizer.json instead of one trained on the text
#   --size SIZE       tiny (default), 17m ... 1b, or a TOML file with a shape
#   --tokens N        tokens of the first stage (default 600000); the later stages are shorter
#   --work DIR        where everything is written (default .quickstart in the checkout)
#   --vocabulary N    size of the trained tokenizer (default 8192)
#   --ranks N         processes that train together (default 2)
#
# What is finished is not done again: start the same command a second time and it goes on where it stopped.
set -euo pipefail
invoked_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data='' tokenizer='' size=tiny tokens=600000 work=.quickstart vocabulary=8192 ranks=2
examples=100 # of each task's, enough to see an order that is wide
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$invoked_from" "$1" ;; esac; }
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    --data | --tokenizer | --size | --tokens | --work | --vocabulary | --ranks)
        [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; } ;;
    *) echo "error: unknown option $1; bash examples/quickstart.sh --help lists them" >&2; exit 2 ;;
    esac
    case $1 in
    --data) data=$(absolute "$2") ;;
    --tokenizer) tokenizer=$(absolute "$2") ;;
    --size) case $2 in *.toml) size=$(absolute "$2") ;; *) size=$2 ;; esac ;;
    --tokens) tokens=$2 ;;
    --work) work=$(absolute "$2") ;;
    --vocabulary) vocabulary=$2 ;;
    --ranks) ranks=$2 ;;
    esac
    shift 2
done
for path in "$data" "$tokenizer"; do
    [ -z "$path" ] || [ -e "$path" ] || { echo "error: $path does not exist" >&2; exit 2; }
done
if ! mkdir -p "$work" 2>/dev/null || [ ! -w "$work" ]; then
    echo "error: cannot write in $work; choose another folder with --work" >&2
    exit 2
fi

# shellcheck source=tools/environment.sh
source tools/environment.sh
ettin_environment ''

study=(ettin study --size "$size" --data "$work/mixture.json" --run "$work/study" --tokens "$tokens" --ranks "$ranks"
    --check-layout)
if [ -z "$data" ]; then
    mkdir -p "$work/tasks"
    study+=(--evaluate stdlib --local "$work/tasks" --limit "$examples")
fi
"${study[@]}" --dry-run >/dev/null # a setting that cannot work is told before anything is made

step() { # step NAME COMMAND...: runs it once; a mark in the work folder holds the command that is done
    local name=$1 mark=$work/.done-$1
    shift
    if [ -e "$mark" ]; then
        [ "$(cat "$mark")" = "$*" ] || {
            echo "error: $work holds the $name step of another command ($(cat "$mark")); take another --work" >&2
            exit 2
        }
        ettin_say "$name: done before"
        return
    fi
    ettin_say "$name: $*"
    "$@"
    printf '%s' "$*" >"$mark"
}

if [ -z "$data" ]; then
    step tasks "$ETTIN_PYTHON" -m megatron_ettin.evaluate.stdlib.build "$work/tasks"
    step collect "$ETTIN_PYTHON" tools/collect_local_text.py "$work/text" --leave-out "$work/tasks"
    step overlap "$ETTIN_PYTHON" -m megatron_ettin.evaluate.stdlib.overlap "$work/tasks" "$work"/text/{prose,code}.jsonl
    sources=(prose code)
    inputs=("$work/text/prose.jsonl" "$work/text/code.jsonl")
else
    sources=(text)
    inputs=("$data")
fi
if [ -z "$tokenizer" ]; then
    tokenizer=$work/tokenizer
    step tokenizer ettin tokenizer train --input "${inputs[@]}" --vocabulary "$vocabulary" --output "$tokenizer"
fi
entries=()
for i in "${!sources[@]}"; do
    step "corpus-${sources[i]}" "$ETTIN_PYTHON" tools/preprocess_data.py --input "${inputs[i]}" \
        --output-prefix "$work/${sources[i]}" --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$tokenizer" \
        --append-eod --workers 2
    entries+=("{\"name\": \"${sources[i]}\", \"prefix\": \"${sources[i]}\", \"passes\": 1}")
done
(IFS=,; printf '{"sources": [%s]}\n' "${entries[*]}") >"$work/mixture.json"

"${study[@]}"
ettin_say "report: $work/study/report.html, and report.md and *.png beside it"
