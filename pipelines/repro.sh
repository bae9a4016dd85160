#!/usr/bin/env bash
# `dvc repro` for an idle machine: DVC runs one stage at a time, so two of its processes share the cores, and each takes
# a dataset, or a variant of a dataset, from its first stage to its last. Says which of how many stages runs.
#   usage: [JOBS=2] pipelines/repro.sh
set -euo pipefail
cores=$(getconf _NPROCESSORS_ONLN)
jobs=${JOBS:-2}
# Threads that spin while they wait would take the cores from the neighbour.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))} OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
STAGES=$(dvc stage list --name-only)
export STAGES

side_by_side() { # for each item of the stage $1, such as devanagari-dcgan of `train`, all its stages in order
  sed -n "s/^$1@//p" <<< "$STAGES" | xargs -P "$jobs" -I ITEM bash -c 'dvc --wait-for-lock repro --single-item $(grep "@ITEM$" <<< "$STAGES")'
}

run() {
  side_by_side judge # the dataset alone: fetch, prepare, validate, judge, baseline
  side_by_side train
  side_by_side distil # after its teacher
  dvc repro
}

total=$(wc -l <<< "$STAGES") number=0 seen=' '
run | while IFS= read -r line; do
  case $line in "Running stage '"* | "Stage '"*)
    name=${line#*\'} && name=${name%%\'*}
    [[ $seen != *" $name "* ]] || continue # the last command looks at all of them again
    number=$((number + 1)) seen+="$name "
    printf '==> Stage %s of %s, after %s s: ' "$number" "$total" "$SECONDS"
    ;;
  esac
  printf '%s\n' "$line"
done
