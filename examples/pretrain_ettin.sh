#!/bin/bash
# Pretraining under Slurm, one torchrun a node:
#
#   sbatch --nodes 4 examples/pretrain_ettin.sh 150m mlm pretrain --run runs/150m-mlm --data mixture.json
#
# Everything after the script's name goes to `ettin pretrain`. Ten minutes ahead of the time limit Slurm sends SIGUSR1:
# the ranks save after their step, and the job asks for another slot until the stage is finished. When a node fails,
# Slurm requeues the job and the run goes on from its newest whole checkpoint.
#SBATCH --job-name=ettin
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ettin-%j.log
set -euo pipefail

nodes=${SLURM_NNODES:-1}
processes_per_node=${ETTIN_PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
job=${SLURM_JOB_ID:?start this script with sbatch}
port=${ETTIN_PORT:-$((20000 + job % 20000))}
head_node=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?start this script with sbatch}" | head -n 1)

# The folder of the run is all that this script must know of the arguments. Under Python 3.11 torchrun takes --run for
# one of its own options, so it is passed on by its other name.
arguments=("$@")
run=
for i in "${!arguments[@]}"; do
  case ${arguments[i]} in
    --run | --run-folder) arguments[i]=--run-folder run=${arguments[i + 1]:-} ;;
    --run=* | --run-folder=*) run=${arguments[i]#*=} arguments[i]=--run-folder=$run ;;
  esac
done
: "${run:?give the run a folder with --run}"

newest_checkpoint() { cat "$run/checkpoints/LATEST" 2>/dev/null || echo none; }
finished() { grep -qs '"finished": true' "$run/checkpoints/$(newest_checkpoint)/state.json"; }

# What each node runs. SIGUSR1 would end torchrun: it ignores it, and its children, the ranks, are told instead.
# shellcheck disable=SC2016
on_each_node='
  trap "" USR1
  torchrun "$@" &
  launcher=$!
  trap "pkill -USR1 -P $launcher" USR1
  while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; status=$?; done
  exit "${status:-1}"
'

before=$(newest_checkpoint)
srun --kill-on-bad-exit=1 bash -c "$on_each_node" ettin \
  --nnodes "$nodes" --nproc-per-node "$processes_per_node" \
  --rdzv-backend c10d --rdzv-endpoint "$head_node:$port" --rdzv-id "$job" \
  -m megatron_ettin pretrain "${arguments[@]}" &
step=$!

signalled=
trap 'signalled=1; scancel --signal=USR1 "$job"' USR1 TERM
status=0
while kill -0 "$step" 2>/dev/null; do
  status=0
  wait "$step" || status=$?
done

if finished; then
  echo "finished: $run"
elif [[ -n $signalled && $(newest_checkpoint) != "$before" ]]; then
  echo "saved $(newest_checkpoint); asking for another slot"
  scontrol requeue "$job"
else
  echo "ended with status $status before the stage was finished; asking for no other slot" >&2
  exit $((status ? status : 1))
fi
