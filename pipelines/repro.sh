#!/usr/bin/env bash
# `dvc repro` on several cores: DVC runs one stage at a time, so several of its processes run stages that do not need
# each other. Says which of how many stages runs.
#   usage: [JOBS=2] pipelines/repro.sh
set -euo pipefail
jobs=${JOBS:-2}
cores=$(getconf _NPROCESSORS_ONLN)
# Threads that spin while they wait would take the cores from the neighbour.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > jobs ? cores / jobs : 1))} OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
# MLflow's runs of one call have this in common.
export LEKHANI_PIPELINE=${LEKHANI_PIPELINE:-repro-$(date -u +%Y%m%dT%H%M%SZ)-$$}
stages=$(dvc stage list --name-only)

each() { # for each item of the stage $1, such as devanagari-dcgan of `train`, a line with its stages $2
  sed -n "s/^$1@//p" <<< "$stages" | while read -r item; do grep -E "^($2)@$item$" <<< "$stages" | paste -sd ' ' -; done
}

side_by_side() { # the stages of a line one after another, the lines side by side
  xargs -r -P "$jobs" -L 1 dvc --wait-for-lock repro --single-item
}

run() {
  each judge 'fetch|prepare|validate|judge' | side_by_side
  { each train 'train|export' && each judge baseline; } | side_by_side
  { each distil 'distil|export-student' && each train 'usefulness|evaluate'; } | side_by_side
  each distil '(usefulness|evaluate)-student' | side_by_side
  dvc repro # what is left, and a last look at all of them
}

total=$(wc -l <<< "$stages") number=0 seen=' '
run | while IFS= read -r line; do
  case $line in "Running stage '"* | "Stage '"*)
    name=${line#*\'} && name=${name%%\'*}
    [[ $seen != *" $name "* ]] || continue # said before
    number=$((number + 1)) seen+="$name "
    printf '==> Stage %s of %s, after %s s: ' "$number" "$total" "$SECONDS"
    ;;
  esac
  printf '%s\n' "$line"
done
