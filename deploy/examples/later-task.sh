#!/usr/bin/env bash
# Rooms, with features that are made for tasks that come later. The normals' network learns to keep the picture and the
# things in it in its feature, first as it is, then under noise. The classifier has its first layers, segmentation its
# whole front: what a camera that is out there already runs and sends.
#
#   deploy/examples/later-task.sh [WORK]         WORK: runs/later by default. Needs `.[train]`.
#
# The codecs at the end are what `isthmus bench rooms WORK` compares. Its trainings took 4 to 31 minutes each on two CPU
# cores, most of them two at a time. Can be killed and started again.
set -euo pipefail
work=${1:-runs/later} recipe=$(dirname "$0")/later-task-classifier.toml
data=$work/data scales=0.06,0.2,0.5,1,2
mkdir -p "$work"
# As in deploy/train-rooms.sh.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

layers=image,category,normals,semantic
isthmus train rooms "$data" --count 21000 --layers $layers
isthmus train rooms "$work/test" --first-seed 1000000000 --count 1000 --layers $layers

network() { # network NAME options
    local name=$1
    shift
    isthmus train network --data "$data" --out "$work/$name" --feature-channels 16 --resume "$@"
}
network start --task normals --steps 4500 --batch 16 --label-stride 2 --appearance 0.5
network things --task normals --steps 3200 --batch 16 --label-stride 2 --init "$work/start" --learning-rate 1.5e-3 \
    --appearance 0.3 --category 0.3 --noise 0.4
network front --task normals --steps 4000 --batch 16 --label-stride 2 --init "$work/things" --learning-rate 1.5e-3 \
    --appearance 0.3 --category 0.3 --noise 0.3
network normals --task normals --steps 800 --batch 16 --label-stride 2 --init "$work/front" --freeze 8 \
    --learning-rate 1e-3 --noise 0.15
network network --recipe "$recipe" --steps 1000 --batch 32 --init "$work/front" --freeze 4 --noise 0.3
network segmentation --task segmentation --steps 3600 --batch 16 --label-stride 2 --init "$work/front" --freeze 8 \
    --noise 0.3

cls=(--network "$work/network" --lambda 10000 --distortion distill)
normals=(--network "$work/normals" --lambda 8000 --distortion distill-hint)
segmentation=(--network "$work/segmentation" --lambda 8000 --distortion distill-hint)
multi() { # multi NAME STEPS options: one codec
    local name=$1 steps=$2
    shift 2
    isthmus train multi --data "$data" --out "$work/$name" --features "$work/features" --crop 6 \
        --learning-rate 2e-3 --batch 16 --steps "$steps" --resume "$@"
}
multi bundle-codec 6000 "${cls[@]}" "${normals[@]}" --scales 0.04,0.2,0.5,1,3
if [ ! -d "$work/bundle" ]; then
    isthmus train build "$work/bundle-codec" --default-quality 85 --data "$data" --out "$work/bundle" --name rooms
fi
if [ ! -d "$work/bundle/tasks/segmentation" ]; then
    isthmus train task "$work/bundle" --network "$work/segmentation" --data "$data" --out "$work/task" --steps 3000 \
        --batch 16 --learning-rate 2e-3 --distortion distill-hint --crop 6 --width 1.5 --features "$work/features" --resume
    isthmus cloud add-task "$work/bundle" "$work/task/task"
fi

multi codec 1000 "${cls[@]}" "${normals[@]}" --scales $scales
multi only-classification 1000 "${cls[@]}" --scales $scales
multi only-normals 1000 "${normals[@]}" --scales $scales
multi only-segmentation 1000 "${segmentation[@]}" --scales $scales
multi with-segmentation 1000 "${cls[@]}" "${normals[@]}" "${segmentation[@]}" --scales $scales
multi level-low 1000 --network "$work/network" --lambda 2000 --distortion distill \
    --network "$work/normals" --lambda 1600 --distortion distill-hint --scales 1
multi level-middle 1000 --network "$work/network" --lambda 5000 --distortion distill \
    --network "$work/normals" --lambda 4000 --distortion distill-hint --scales 1
multi level-high 1000 "${cls[@]}" "${normals[@]}" --scales 1
multi prior-hyperprior 1000 "${cls[@]}" "${normals[@]}" --scales $scales --prior hyperprior
multi prior-factorised 1000 "${cls[@]}" "${normals[@]}" --scales $scales --prior factorised
isthmus bench rooms "$work" --device cpu
