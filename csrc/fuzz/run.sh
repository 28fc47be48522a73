#!/bin/sh
# Builds one fuzz target and runs it: csrc/fuzz/run.sh TARGET SECONDS [libFuzzer arguments]
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
case $target in
  tokenizer)
    sources=$(cd csrc && ls text/*.cpp tokenizer/*.cpp | sed "s/[.]cpp$//")
    longest=384
    ;;
  json_lines) sources="corpus/json_record text/json_string text/utf8 corpus/stream_cutter" longest=160 ;;
  text_cutter) sources="corpus/stream_cutter" longest=64 ;;
  corpus_check) sources="corpus/check corpus/input_file base/crc32c corpus/id_scan" longest=300 ;;
  indexed_corpus) sources="rows/indexed_corpus" longest=300 ;;
  block_encoder) sources="corpus/block_encoder corpus/block_batches corpus/json_record text/json_string text/utf8 base/crc32c corpus/input_file" longest=160 ;;
  *) echo "no fuzz target '$target'" >&2; exit 2 ;;
esac
folder=build/fuzz/$target
mkdir -p "$folder/corpus"
flags="-std=c++17 -O2 -g -Icsrc -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
objects=
for source in $sources fuzz/fuzz_$target; do
  object=$folder/$(basename "$source").o
  # shellcheck disable=SC2086
  if [ -z "$(find "$object" -newer "csrc/$source.cpp" 2>/dev/null)" ] || [ -n "$(find csrc -name '*.h' -newer "$object")" ]; then
    # Comparisons guide the search where formats are read; in the encoder they would take half of the time.
    case $source in text/unicode_tables|tokenizer/*) compare=-fno-sanitize-coverage=trace-cmp ;; *) compare= ;; esac
    clang++ $flags $compare -c "csrc/$source.cpp" -o "$object"
  fi
  objects="$objects $object"
done
# shellcheck disable=SC2086
clang++ -fsanitize=fuzzer,address,undefined $objects -o "$folder/fuzz"
for seed in csrc/fuzz/seeds/"$target"/*; do
  if [ -f "$seed" ]; then cp -n "$seed" "$folder/corpus/"; fi
done
# Short stacks and a small quarantine double the speed and lose no kind of error.
ASAN_OPTIONS=${ASAN_OPTIONS:-malloc_context_size=2:quarantine_size_mb=4}
export ASAN_OPTIONS
exec "$folder/fuzz" -max_total_time="$seconds" -max_len="$longest" -artifact_prefix="$folder/" "$@" "$folder/corpus"
