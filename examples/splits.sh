#!/usr/bin/env bash
# Where should training switch from next tokens to masked ones? Models of one length whose first 0, 25, 50, 75 or 100 % of
# the tokens are next-token prediction, on the same rows in the same order: one table and one plot.
#
#   bash examples/splits.sh CORPUS FOLDER [flags of ettin study --plans]
#   bash examples/splits.sh my_corpus splits --sizes 17m 32m --seeds 1 2 3 --scale 0.01 --ranks 8
#
# CORPUS is the prefix of a corpus or a mixture file. Started again, it goes on where it stopped.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
corpus=$1 folder=$2
shift 2

ettin study --data "$corpus" --run "$folder" --plans pretrain:objective=mlm clm-then-mlm:split=0.25 \
    clm-then-mlm:split=0.5 clm-then-mlm:split=0.75 pretrain:objective=clm "$@"
