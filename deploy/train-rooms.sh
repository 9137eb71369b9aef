#!/usr/bin/env bash
# Makes the bundle `rooms` from nothing: data, three networks, the joint codec, bundle, a task added later. Needs
# `.[train]`.
#
#   deploy/train-rooms.sh [WORK]                  WORK: runs/rooms by default; the bundle is WORK/bundle
#   COMPARE=1 deploy/train-rooms.sh [WORK]        also the codecs that `isthmus bench rooms WORK` compares with
#
# Can be killed at any time and started again: each step goes on where it stopped. Sizes for two CPU cores are those of
# the shipped bundle; with a GPU, which nobody has tried yet,
# there are more steps of larger batches. What is compared is trained alike, for fewer steps than the bundle.
set -euo pipefail
work=${1:-runs/rooms}
mkdir -p "$work"
data=$work/data
# glibc would hand each step's memory back to the kernel and fetch it again: about a tenth of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    classifier="--steps 6000 --batch 96" dense="--steps 8000 --batch 32"
    codec="--steps 20000 --batch 64" compared="--steps 10000 --batch 64" task="--steps 10000 --batch 64"
    widening="--steps 5000 --batch 64"
else
    classifier="--steps 3200 --batch 48" dense="--steps 5000 --batch 16 --label-stride 2"
    codec="--steps 9000 --batch 16" compared="--steps 2500 --batch 16" task="--steps 6000 --batch 16"
    widening="--steps 2000 --batch 16"
fi
layers=image,category,normals,semantic
scales=0.06,0.2,0.5,1,2
cls=(--network "$work/network" --lambda 10000 --distortion distill)
normals=(--network "$work/normals" --lambda 8000 --distortion distill-hint)
segmentation=(--network "$work/segmentation" --lambda 8000 --distortion distill-hint)

step() { printf '\n=== %s\n' "$*"; "$@"; }

step isthmus train rooms "$data" --count 21000 --layers $layers
step isthmus train rooms "$work/test" --first-seed 1000000000 --count 1000 --layers $layers
step isthmus train network --data "$data" --out "$work/network" $classifier --resume
step isthmus train network --task normals --data "$data" --out "$work/normals" $dense --resume
step isthmus train network --task segmentation --data "$data" --out "$work/segmentation" $dense --resume

multi() { # multi NAME options: one codec
    local name=$1
    shift
    step isthmus train multi --data "$data" --out "$work/$name" --features "$work/features" --crop 6 --resume "$@"
}
rate="--learning-rate 1.5e-3"
# Hyperprior 1: the shipped bundle is from before there was a 2.
multi narrow-codec $codec $rate --hyper 1 "${cls[@]}" "${normals[@]}" --scales $scales
# From 60 to 280 bytes were too few for one bundle: the same codec again, with its ends further apart.
multi bundle-codec $widening --hyper 1 "${cls[@]}" "${normals[@]}" --scales 0.02,0.1,0.4,1.3,5 --init "$work/narrow-codec" \
    --learning-rate 7e-4 --distortion-first 0 --rate-ramp 0
if [ ! -d "$work/bundle" ]; then
    step isthmus train build "$work/bundle-codec" --default-quality 90 --data "$data" --out "$work/bundle" --name rooms \
        --licence Apache-2.0
fi
if [ ! -d "$work/bundle/tasks/segmentation" ]; then
    step isthmus train task "$work/bundle" --network "$work/segmentation" --data "$data" --out "$work/task" $task \
        --distortion distill-hint --crop 6 --width 1.5 --features "$work/features" --resume
    step isthmus cloud add-task "$work/bundle" "$work/task/task"
fi
networks=(--network "$work/network" --network "$work/normals" --network "$work/segmentation")
step isthmus train evaluate "$work/bundle" "${networks[@]}" --data "$work/test" --write

if [ -n "${COMPARE:-}" ]; then
    multi codec $compared $rate "${cls[@]}" "${normals[@]}" --scales $scales
    multi only-classification $compared $rate "${cls[@]}" --scales $scales
    multi only-normals $compared $rate "${normals[@]}" --scales $scales
    multi only-segmentation $compared $rate "${segmentation[@]}" --scales $scales
    multi level-low $compared $rate --network "$work/network" --lambda 2000 --distortion distill \
        --network "$work/normals" --lambda 1600 --distortion distill-hint --scales 1
    multi level-high $compared $rate "${cls[@]}" "${normals[@]}" --scales 1
    multi prior-factorised $compared $rate "${cls[@]}" "${normals[@]}" --scales $scales --prior factorised
    multi prior-hyperprior $compared $rate "${cls[@]}" "${normals[@]}" --scales $scales --prior hyperprior
    multi with-segmentation $compared $rate "${cls[@]}" "${normals[@]}" "${segmentation[@]}" --scales $scales
    step isthmus bench rooms "$work"
fi
