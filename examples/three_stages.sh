#!/usr/bin/env bash
# One model through the three stages of the recipe, and every checkpoint as a Hugging Face revision:
#
#   bash examples/three_stages.sh SIZE OBJECTIVE DATA FOLDER [flags of ettin pretrain for every stage]
#   bash examples/three_stages.sh 17m mlm corpus/mixture.json runs/17m --layout.micro-batch-rows 8
#
# DATA is a mixture file or the prefix of a corpus (`ettin prepare`); the recipe's later stages want their own mixtures:
# set EXTENSION_DATA and DECAY_DATA. Weights and optimizer go from stage to stage. Started again, it goes on where it
# stopped. ETTIN_LAUNCH replaces torchrun, for example with `srun python` inside an allocation; ETTIN_RANKS (default: one
# a GPU, else 2) is the number of processes here.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
size=$1 objective=$2 data=$3 folder=$4
shift 4

gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
ranks=${ETTIN_RANKS:-$((gpus > 0 ? gpus : 2))}
read -r -a launch <<<"${ETTIN_LAUNCH:-torchrun --standalone --nproc-per-node $ranks}"

stage() { # stage NAME DATA FLAGS...
    local name=$1 text=$2
    shift 2
    "${launch[@]}" -m megatron_ettin pretrain "$size" "$objective" "$name" --data "$text" \
        --run-folder "$folder/$objective-$name" "$@"
    ettin convert --all "$folder/$objective-$name" "$folder/$objective-huggingface"
}

stage pretrain "$data" "$@"
stage extension "${EXTENSION_DATA:-$data}" --from "$folder/$objective-pretrain" "$@"
stage decay "${DECAY_DATA:-${EXTENSION_DATA:-$data}}" --from "$folder/$objective-extension" "$@"
ls "$folder/$objective-huggingface"
