#!/bin/sh
# Builds one fuzz target and runs it: csrc/fuzz/run.sh TARGET SECONDS [libFuzzer arguments]
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
case $target in
  tokenizer)
    sources="unicode_tables unicode_nfc utf8 json_string tokenizer_json tokenizer_file tokenizer_added bpe narrow_merges tokenizer"
    sources="$sources word_encoder word_encoder_portable word_encoder_avx2 word_encoder_avx512"
    longest=384
    ;;
  json_lines) sources="json_record json_string utf8 stream_cutter" longest=160 ;;
  text_cutter) sources="stream_cutter" longest=64 ;;
  corpus_check) sources="corpus_check input_file crc32c id_scan" longest=300 ;;
  indexed_corpus) sources="indexed_corpus" longest=300 ;;
  block_encoder) sources="block_encoder block_batches json_record json_string utf8 crc32c input_file" longest=160 ;;
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
    case $source in bpe|unicode_*|word_encoder*|tokenizer) compare=-fno-sanitize-coverage=trace-cmp ;; *) compare= ;; esac
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
