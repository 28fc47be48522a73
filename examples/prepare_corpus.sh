#!/bin/bash
# Text to a corpus on many machines: a Slurm array that builds a shard of it in each task, and a job that checks and joins
# them.
#
#   bash examples/prepare_corpus.sh 64 corpus/web --input 'text/*.jsonl.zst' --tokenizer-model tokenizer --append-eod
#   ETTIN_SBATCH='--partition cpu --cpus-per-task 32 --time 8:00:00' bash examples/prepare_corpus.sh 64 corpus/web ...
#
# Run it where sbatch is; it submits and ends. Everything after the prefix goes to `ettin prepare`. Task i builds
# corpus/web-0000i-of-00064. Two minutes ahead of its time limit Slurm sends SIGUSR1: the task asks for another slot and
# goes on there where it stopped, as it does when its node failed. When all tasks are done, a job reads every byte of the
# shards and writes corpus/web.json, which names them: train on corpus/web. Nothing is copied. The same command submits
# again what is left, as `ettin corpus status corpus/web` shows it. ETTIN_SBATCH holds flags of sbatch.
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$0"; }

ettin=(python -m megatron_ettin)
role=submit
case ${1:-} in build | join) role=$1 && shift ;; esac
[ $# -ge 2 ] || { usage; exit 2; }
shards=$1 prefix=$2
shift 2

submit() { # submit NAME FLAGS... of sbatch, then -- and the words for the job
  local name=$1 flags=()
  shift
  while [[ $1 != -- ]]; do flags+=("$1") && shift; done
  read -r -a given <<<"${ETTIN_SBATCH:-}"
  sbatch --parsable --job-name "$name-$(basename "$prefix")" ${given[@]+"${given[@]}"} ${flags[@]+"${flags[@]}"} \
    "$0" "${@:2}" | cut -d ';' -f 1 # on some clusters: JOB;CLUSTER
}

if [[ $role == submit ]]; then
  left=$("${ettin[@]}" corpus status "$prefix" --shards "$shards" --left) || (($? == 1)) # 1: some are left
  waits=()
  if [[ -n $left ]]; then
    array=$(submit prepare --array "$left" -- build "$shards" "$prefix" "$@")
    echo "shards $left: job $array"
    waits=(--dependency "afterok:$array" --kill-on-invalid-dep yes)
  fi
  echo "check and join: job $(submit join ${waits[@]+"${waits[@]}"} -- join "$shards" "$prefix")"
  exit
fi

if [[ $role == join ]]; then
  "${ettin[@]}" corpus status "$prefix" --shards "$shards"
  if [[ -e $prefix.json ]]; then exit; fi # joined already
  srun --kill-on-bad-exit=1 "${ettin[@]}" corpus verify "$prefix"-*-of-*[0-9].json
  "${ettin[@]}" corpus join "$prefix"
  exit
fi

task=${SLURM_ARRAY_TASK_ID:?start this script with bash, it submits itself}
slots=${ETTIN_SLOTS:-20} # asked for by one task
asked='' step=''
stop() {
  asked=$1
  if [[ -n $step ]]; then kill -TERM "$step" 2>/dev/null || true; fi
}
trap 'stop USR1' USR1 # ahead of the time limit
trap 'stop TERM' TERM # scancel

# The number of shards is that of the first submission: SLURM_ARRAY_TASK_COUNT is less when some are submitted again.
srun --kill-on-bad-exit=1 "${ettin[@]}" prepare --output-prefix "$prefix" --shard "$task/$shards" "$@" &
step=$! status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait
  status=0
  wait "$step" || status=$?
done

if ((status == 0)); then
  echo "finished: shard $task of $shards"
elif [[ $asked == USR1 ]] && ((${SLURM_RESTART_COUNT:-0} + 1 < slots)); then
  echo "stopped ahead of the time limit; asking for another slot"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
else
  echo "shard $task of $shards ended with status $status; what it built is kept" >&2
  exit "$status"
fi
