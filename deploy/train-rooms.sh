#!/usr/bin/env bash
# Makes the bundle `rooms` from nothing: data, three networks, the joint codec, bundle, a task added later. Needs
# `.[train]`.
#
#   deploy/train-rooms.sh [WORK]                  WORK: runs/rooms by default; the bundle is WORK/bundle
#   COMPARE=1 deploy/train-rooms.sh [WORK]        also the codecs that `isthmus bench rooms WORK` compares with
#
# Can be killed at any time and started again: each step goes on where it stopped. Sizes for two CPU cores are those of
# the shipped bundle; with a GPU, which nobody has tried yet, there are more steps of larger batches. What is compared
# is trained alike, for fewer steps than the bundle.
set -euo pipefail
work=${1:-runs/rooms}
mkdir -p "$work"
data=$work/data
# glibc would hand each step's memory back to the kernel and fetch it again: half of the time of a step on a CPU.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    normals_size="--steps 8000 --batch 32" classifier="--steps 3000 --batch 64" segmentation_size="--steps 6000 --batch 32"
    codec="--steps 20000 --batch 64" compared="--steps 10000 --batch 64" task="--steps 10000 --batch 64"
else
    normals_size="--steps 4500 --batch 16 --label-stride 2" classifier="--steps 900 --batch 32"
    segmentation_size="--steps 2500 --batch 16 --label-stride 2"
    codec="--steps 6000 --batch 16" compared="--steps 1500 --batch 16" task="--steps 6000 --batch 16"
fi
layers=image,category,normals,semantic
scales=0.02,0.1,0.4,1.3,5
cls=(--network "$work/network" --lambda 10000 --distortion distill)
normals=(--network "$work/normals" --lambda 8000 --distortion distill-hint)
segmentation=(--network "$work/segmentation" --lambda 8000 --distortion distill-hint)

step() { printf '\n=== %s\n' "$*"; "$@"; }

step isthmus train rooms "$data" --count 21000 --layers $layers
step isthmus train rooms "$work/test" --first-seed 1000000000 --count 1000 --layers $layers

# The normals' network first, its feature made to hold the picture too; the classifier starts from its front and goes on
# with it; the segmentation's, which comes later, takes that front as it is.
network() { # network NAME options
    local name=$1
    shift
    step isthmus train network --data "$data" --out "$work/$name" --feature-channels 16 --resume "$@"
}
network normals --task normals $normals_size --appearance 0.5
network network --recipe deploy/rooms-classifier.toml $classifier --init "$work/normals" --appearance 0.5
network segmentation --task segmentation $segmentation_size --init "$work/normals" --freeze 8

multi() { # multi NAME options: one codec
    local name=$1
    shift
    step isthmus train multi --data "$data" --out "$work/$name" --features "$work/features" --crop 6 \
        --learning-rate 2e-3 --balance 0.3 --resume "$@"
}
multi bundle-codec $codec "${cls[@]}" "${normals[@]}" --scales $scales
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
    scales=0.06,0.2,0.5,1,2
    compared() { local name=$1; shift; multi "$name" $compared "$@"; }
    compared codec "${cls[@]}" "${normals[@]}" --scales $scales
    compared only-classification "${cls[@]}" --scales $scales
    compared only-normals "${normals[@]}" --scales $scales
    compared only-segmentation "${segmentation[@]}" --scales $scales
    compared with-segmentation "${cls[@]}" "${normals[@]}" "${segmentation[@]}" --scales $scales
    compared level-low --network "$work/network" --lambda 2000 --distortion distill \
        --network "$work/normals" --lambda 1600 --distortion distill-hint --scales 1
    compared level-high "${cls[@]}" "${normals[@]}" --scales 1
    compared prior-factorised "${cls[@]}" "${normals[@]}" --scales $scales --prior factorised
    compared prior-hyperprior "${cls[@]}" "${normals[@]}" --scales $scales --prior hyperprior
    step isthmus bench rooms "$work"
fi
