#!/usr/bin/env bash
# Makes the bundle `rooms` from nothing: data, three networks, the joint codec, bundle, a task added later. Needs
# `.[train]`.
#
#   deploy/train-rooms.sh [WORK]                  WORK: runs/rooms by default; the bundle is WORK/bundle
#   COMPARE=1 deploy/train-rooms.sh [WORK]        also the codecs that `isthmus bench rooms WORK` compares with
#
# Can be killed at any time and started again: each step goes on where it stopped. Sizes for two CPU cores are those of
# the shipped bundle; with a GPU there are more steps of larger batches.
set -euo pipefail
work=${1:-runs/rooms}
mkdir -p "$work"
data=$work/data

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    classifier="--steps 6000 --batch 96" dense="--steps 8000 --batch 32"
    codec="--steps 12000 --batch 128" task="--steps 8000 --batch 128"
else
    classifier="--steps 3200 --batch 48" dense="--steps 5000 --batch 16 --label-stride 2"
    codec="--steps 4000 --batch 32" task="--steps 4000 --batch 32"
fi
layers=image,category,normals,semantic
scales=0.02,0.08,0.3,1,4
cls=(--network "$work/network" --lambda 10000)
normals=(--network "$work/normals" --lambda 10000)

step() { printf '\n=== %s\n' "$*"; "$@"; }

step isthmus train rooms "$data" --count 21000 --layers $layers
step isthmus train rooms "$work/test" --first-seed 1000000000 --count 1000 --layers $layers
step isthmus train network --data "$data" --out "$work/network" $classifier --resume
step isthmus train network --task normals --data "$data" --out "$work/normals" $dense --resume
step isthmus train network --task segmentation --data "$data" --out "$work/segmentation" $dense --resume

multi() { # multi NAME options: one codec
    local name=$1
    shift
    step isthmus train multi --data "$data" --out "$work/$name" --features "$work/features" $codec --crop 6 \
        --resume "$@"
}
multi codec "${cls[@]}" "${normals[@]}" --scales $scales
if [ ! -d "$work/bundle" ]; then
    step isthmus train build "$work/codec" --data "$data" --out "$work/bundle" --name rooms
fi
if [ ! -d "$work/bundle/tasks/segmentation" ]; then
    step isthmus train task "$work/bundle" --network "$work/segmentation" --data "$data" --out "$work/task" $task \
        --width 1.5 --features "$work/features" --resume
    step isthmus cloud add-task "$work/bundle" "$work/task/task"
fi
networks=(--network "$work/network" --network "$work/normals" --network "$work/segmentation")
step isthmus train evaluate "$work/bundle" "${networks[@]}" --data "$work/test" --write

if [ -n "${COMPARE:-}" ]; then
    multi only-classification "${cls[@]}" --scales $scales
    multi only-normals "${normals[@]}" --scales $scales
    multi level-low --network "$work/network" --lambda 800 --network "$work/normals" --lambda 800 --scales 1
    multi level-high "${cls[@]}" "${normals[@]}" --scales 1
    multi prior-factorised "${cls[@]}" "${normals[@]}" --scales $scales --prior factorised
    multi prior-hyperprior "${cls[@]}" "${normals[@]}" --scales $scales --prior hyperprior
    multi with-segmentation "${cls[@]}" "${normals[@]}" --network "$work/segmentation" --lambda 10000 --scales $scales
    step isthmus bench rooms "$work"
fi
