#!/bin/bash
# The three stages of the recipe as three Slurm jobs, each of which waits for the end of the one before:
#
#   bash examples/slurm_stages.sh SIZE OBJECTIVE DATA FOLDER [flags of ettin pretrain for every stage]
#   ETTIN_SBATCH='--nodes 4 --time 24:00:00' bash examples/slurm_stages.sh 150m mlm mixture.json runs/150m
#
# Run it where sbatch is; it submits and ends. A job that comes to its time limit saves and asks for another slot
# (pretrain_ettin.sh); Slurm counts it as ended only when its stage is finished, and only then starts the next. When a
# stage fails, those behind it are taken out of the queue. The same command submits again what is left: stages that are
# finished say so at once. EXTENSION_DATA and DECAY_DATA name the mixtures of the later stages, ETTIN_SBATCH holds flags
# of sbatch.
#
# An array (sbatch --array=0-2%1) would not do: while a task waits for another slot, the next one starts.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
size=$1 objective=$2 data=$3 folder=$4
shift 4

script=$(dirname "$0")/pretrain_ettin.sh
read -r -a flags <<<"${ETTIN_SBATCH:-}"
before=

submit() { # submit STAGE DATA FLAGS...
  local stage=$1 text=$2
  shift 2
  local waits=()
  if [[ -n $before ]]; then waits=(--dependency "afterok:$before" --kill-on-invalid-dep yes); fi
  before=$(sbatch --parsable --job-name "$objective-$stage" ${flags[@]+"${flags[@]}"} ${waits[@]+"${waits[@]}"} \
    "$script" "$size" "$objective" "$stage" --data "$text" --run "$folder/$objective-$stage" "$@")
  before=${before%%;*} # on some clusters: JOB;CLUSTER
  echo "$objective-$stage: job $before"
}

submit pretrain "$data" "$@"
submit extension "${EXTENSION_DATA:-$data}" --from "$folder/$objective-pretrain" "$@"
submit decay "${DECAY_DATA:-${EXTENSION_DATA:-$data}}" --from "$folder/$objective-extension" "$@"
