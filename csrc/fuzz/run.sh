#!/bin/sh
# Builds one fuzz target and runs it: csrc/fuzz/run.sh TARGET SECONDS [libFuzzer arguments]
set -eu
cd "$(dirname "$0")/../.."
target=$1 seconds=$2
shift 2
case $target in
  tokenizer) sources="unicode_tables unicode_nfc tokenizer_json tokenizer_file tokenizer_added bpe tokenizer word_encoder word_encoder_portable word_encoder_avx2 word_encoder_avx512" ;;
  json_lines) sources="json_record json_string utf8 stream_cutter" ;;
  text_cutter) sources="stream_cutter" ;;
  corpus_check) sources="corpus_check input_file crc32c" ;;
  *) echo "no fuzz target '$target'" >&2; exit 2 ;;
esac
folder=build/fuzz/$target
mkdir -p "$folder/corpus"
flags="-std=c++17 -O1 -g -Icsrc -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
objects=
for source in $sources fuzz/fuzz_$target; do
  object=$folder/$(basename "$source").o
  # shellcheck disable=SC2086
  if [ ! "$object" -nt "csrc/$source.cpp" ]; then clang++ $flags -c "csrc/$source.cpp" -o "$object"; fi
  objects="$objects $object"
done
# shellcheck disable=SC2086
clang++ -fsanitize=fuzzer,address,undefined $objects -o "$folder/fuzz"
for seed in csrc/fuzz/seeds/"$target"/*; do
  if [ -f "$seed" ]; then cp -n "$seed" "$folder/corpus/"; fi
done
exec "$folder/fuzz" -max_total_time="$seconds" -artifact_prefix="$folder/" "$@" "$folder/corpus"
