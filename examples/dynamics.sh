#!/bin/bash
# A suite over all checkpoints of a training under Slurm, its tasks shared by the tasks of an array:
#
#   sbatch --array=1-16 examples/dynamics.sh runs/150m-mlm --suite losses,bias --output results/dynamics
#
# Everything after the script's name goes to `ettin evaluate --dynamics`. Each outcome is kept as it comes, and whatever
# is finished last joins all of them in OUTPUT/results.json, dynamics.md and plots. Two minutes ahead of the time limit
# Slurm sends SIGUSR1: the task asks for another slot and goes on there with what is left. A later array of any size,
# over a run that has gone on meanwhile, does no more than what is new.
#SBATCH --job-name=ettin-dynamics
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ettin-dynamics-%A_%a.log
set -euo pipefail

task=${SLURM_ARRAY_TASK_ID:?start this script with sbatch --array=1-N}
share=$(((task - SLURM_ARRAY_TASK_MIN) / ${SLURM_ARRAY_TASK_STEP:-1} + 1))
shares=$SLURM_ARRAY_TASK_COUNT
slots=${ETTIN_SLOTS:-20} # asked for by one task, whose single outcome may take longer than a slot

asked='' step=''
stop() {
  asked=$1
  if [[ -n $step ]]; then kill -TERM "$step" 2>/dev/null || true; fi
}
trap 'stop USR1' USR1 # ahead of the time limit
trap 'stop TERM' TERM # scancel

status=1
if [[ -z $asked ]]; then
  srun --kill-on-bad-exit=1 python -m megatron_ettin evaluate "$@" --dynamics --shard "$share/$shares" &
  step=$! status=0
  wait "$step" || status=$?
  while kill -0 "$step" 2>/dev/null; do # a signal ended the wait
    status=0
    wait "$step" || status=$?
  done
fi

if ((status == 0)); then
  echo "finished: share $share of $shares"
elif [[ $asked == USR1 ]] && ((${SLURM_RESTART_COUNT:-0} + 1 < slots)); then
  echo "stopped ahead of the time limit; asking for another slot"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
else
  echo "share $share of $shares ended with status $status; what it finished is kept" >&2
  exit "$status"
fi
