#!/bin/sh
# Builds one fuzz target and runs it: csrc/fuzz/run.sh TARGET SECONDS [libFuzzer arguments]
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
case $target in
  tokenizer) rooms="base text splits tokenizer" longest=384 ;;
  json_lines) rooms="base text corpus" longest=160 ;;
  text_cutter) rooms="base text corpus" longest=64 ;;
  corpus_check) rooms="base text corpus" longest=300 ;;
  indexed_corpus) rooms="base rows" longest=300 ;;
  block_encoder) rooms="base text corpus" longest=160 ;;
  *) echo "no fuzz target '$target'" >&2; exit 2 ;;
esac
folder=build/fuzz/$target
mkdir -p "$folder/corpus" build/fuzz/objects
flags="-std=c++17 -O2 -g -Icsrc -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -pthread"
objects=
# shellcheck disable=SC2086
for source in $(cd csrc && find $rooms -name '*.cpp') fuzz/fuzz_$target.cpp; do
  object=build/fuzz/objects/$(echo "$source" | tr / -).o
  if [ -z "$(find "$object" -newer "csrc/$source" 2>/dev/null)" ] || [ -n "$(find csrc -name '*.h' -newer "$object")" ]; then
    # Comparisons guide the search where formats are read; in the encoder they would take half of the time.
    case $source in text/unicode_tables.cpp|splits/*|tokenizer/*) compare=-fno-sanitize-coverage=trace-cmp ;; *) compare= ;; esac
    clang++ $flags $compare -c "csrc/$source" -o "$object"
  fi
  objects="$objects $object"
done
# shellcheck disable=SC2086
clang++ -fsanitize=fuzzer,address,undefined -pthread $objects -o "$folder/fuzz"
for seed in csrc/fuzz/seeds/"$target"/*; do
  if [ -f "$seed" ]; then cp -n "$seed" "$folder/corpus/"; fi
done
# Short stacks and a small quarantine double the speed and lose no kind of error.
ASAN_OPTIONS=${ASAN_OPTIONS:-malloc_context_size=2:quarantine_size_mb=4}
export ASAN_OPTIONS
exec "$folder/fuzz" -max_total_time="$seconds" -max_len="$longest" -artifact_prefix="$folder/" "$@" "$folder/corpus"
