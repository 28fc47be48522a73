#!/bin/bash
# Pretraining under Slurm, one torchrun a node:
#
#   sbatch --nodes 4 examples/pretrain_ettin.sh 150m mlm pretrain --run runs/150m-mlm --data mixture.json
#
# Everything after the script's name goes to `ettin pretrain`, or behind `adapt` to `ettin adapt`. Ten minutes ahead of
# the time limit Slurm sends SIGUSR1: the ranks save after their step, and the job asks for another slot until it is
# finished. When a node fails the job asks for another slot too, and the run goes on from its newest whole checkpoint.
# scancel saves and asks for none.
#
# All stages of a model as one job, which is requeued through all of them (docs/plans.md):
#
#   sbatch --nodes 4 examples/pretrain_ettin.sh 150m --plan ettin-paper --run runs/150m --data pool.json decay=decay.json
#
# Going on from a published model (docs/adapt.md), to its export:
#
#   sbatch examples/pretrain_ettin.sh adapt jhu-clsp/ettin-encoder-150m --data my_text --tokens 2B --run runs/mine
#
# The stages of a model as jobs that wait for one another: examples/slurm_stages.sh. Several models as one array: sbatch
# --array=0-3 a script that picks its arguments by SLURM_ARRAY_TASK_ID and runs this one; each task is requeued by itself.
#SBATCH --job-name=ettin
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ettin-%j.log
set -euo pipefail

job=${SLURM_JOB_ID:?start this script with sbatch}
# Slurm takes the number of an array's last task for the whole array: a task is named by both of its numbers.
name=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
name=${name:-$job}

asked='' step=''
stop_ranks() {
  asked=$1
  if [[ -n $step ]]; then scancel --signal=USR1 "$name"; fi
}
trap 'stop_ranks USR1' USR1 # ahead of the time limit
trap 'stop_ranks TERM' TERM # scancel

nodes=${SLURM_NNODES:-1}
processes_per_node=${ETTIN_PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
port=${ETTIN_PORT:-$((20000 + job % 20000))}
head_node=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?start this script with sbatch}" | head -n 1)

# The folder of the run is all that this script must know of the arguments. Under Python 3.11 torchrun takes --run for
# one of its own options, so it is passed on by its other name.
verb=pretrain
if [[ ${1:-} == adapt ]]; then verb=adapt && shift; fi
arguments=("$@")
run=
for i in "${!arguments[@]}"; do
  case ${arguments[i]} in
    --run | --run-folder) arguments[i]=--run-folder run=${arguments[i + 1]:-} ;;
    --run=* | --run-folder=*) run=${arguments[i]#*=} arguments[i]=--run-folder=$run ;;
  esac
done
: "${run:?give the run a folder with --run}"

# How the ranks end (`ettin pretrain`): finished; saved, or stopped before their first step; killed by SIGUSR1 in their
# first moments, before they could listen.
finished=0 stopped=75 unheard=$((128 + 10))
slots_without_progress=3

# Of a run, or of the furthest stage of a plan, whose folders are numbered.
newest_checkpoint() {
  find "$run"/checkpoints "$run"/[0-9]*-*/checkpoints -maxdepth 1 -name 'step-*' 2>/dev/null | sort -V | tail -n 1 || true
}
node_failed() {
  scontrol show nodes "$SLURM_JOB_NODELIST" 2>/dev/null | grep -Eq 'State=\S*(DOWN|FAIL|NOT_RESPONDING|NO_RESPOND)'
}
ask_again() {
  echo "$1; asking for another slot"
  scontrol requeue "$name"
}

before=$(newest_checkpoint)
status=$stopped
if [[ -z $asked ]]; then
  # One launcher a node. It hands SIGUSR1 on to its ranks and ends with their exit status.
  # All cores of the node, unbound: each rank has loaders, compilers and threads of its own, and srun gives one core.
  cores=${SLURM_CPUS_ON_NODE:-}
  srun --kill-on-bad-exit=1 --cpu-bind=none ${cores:+--cpus-per-task="$cores"} python -m megatron_ettin.study.launch \
    --nnodes "$nodes" --nproc-per-node "$processes_per_node" \
    --rdzv-backend c10d --rdzv-endpoint "$head_node:$port" --rdzv-id "$job" \
    -m megatron_ettin "$verb" "${arguments[@]}" &
  step=$! status=0
  wait "$step" || status=$?
  while kill -0 "$step" 2>/dev/null; do # a signal ended the wait
    status=0
    wait "$step" || status=$?
  done
fi

if ((status == finished)); then
  echo "finished: $run"
elif [[ $asked == TERM ]]; then
  echo "stopped by scancel; the newest checkpoint is $(newest_checkpoint)"
  exit "$status"
elif [[ $asked == USR1 ]] && ((status == stopped || status == unheard)); then
  if [[ $(newest_checkpoint) == "$before" ]] && ((${SLURM_RESTART_COUNT:-0} >= slots_without_progress)); then
    echo "this slot saved nothing, as the ones before; asking for no other slot" >&2
    exit 1
  fi
  ask_again "stopped ahead of the time limit; the newest checkpoint is $(newest_checkpoint)"
elif node_failed; then
  ask_again "a node failed (status $status)"
else
  echo "ended with status $status before it was finished; asking for no other slot" >&2
  exit "$status"
fi
