#!/usr/bin/env bash
# Turn a finished encoder into a decoder, or a finished decoder into an encoder, and convert the result:
#
#   bash examples/cross_objective.sh SIZE START DATA FOLDER [flags of ettin pretrain]
#   bash examples/cross_objective.sh 17m runs/17m/clm-decay corpus/mixture.json runs/17m
#   bash examples/cross_objective.sh 150m hub/ettin-decoder-150m corpus/mixture.json runs/150m
#
# START is the run of a last stage, or a Hugging Face folder of an Ettin or ModernBERT model (safetensors). A decoder
# becomes an encoder by masked next-token prediction (mntp), an encoder becomes a decoder by next-token prediction (clm).
# Weights are taken over, the optimizer starts fresh. Started again, it goes on where it stopped.
# ETTIN_LAUNCH replaces torchrun, ETTIN_RANKS (default: one a GPU, else 2) is the number of processes here.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
size=$1 start=$2 data=$3 folder=$4
shift 4

# A run's config.json names its objective, a Hugging Face folder its model_type.
if grep -qsE '"objective": "clm"|"model_type": "modernbert-decoder"' "$start/config.json"; then
    objective=mntp name=encoder-from-decoder
elif grep -qsE '"objective": "(mlm|mntp)"|"model_type": "modernbert"' "$start/config.json"; then
    objective=clm name=decoder-from-encoder
else
    echo "error: $start is neither a run nor a Hugging Face folder of a ModernBERT or Ettin model" >&2
    exit 2
fi
if grep -qs '"model_type"' "$start/config.json"; then from=(--init-from "$start"); else from=(--from "$start"); fi

gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
ranks=${ETTIN_RANKS:-$((gpus > 0 ? gpus : 2))}
read -r -a launch <<<"${ETTIN_LAUNCH:-torchrun --standalone --nproc-per-node $ranks}"

"${launch[@]}" -m megatron_ettin pretrain "$size" "$objective" cross --data "$data" \
    --run-folder "$folder/$name" "${from[@]}" "$@"
ettin convert "$folder/$name" "$folder/$name-huggingface"
