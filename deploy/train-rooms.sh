#!/usr/bin/env bash
# Makes the bundle `rooms`: data, three networks, the joint codec, bundle, a task added later. Needs `.[train]`.
#
#   deploy/train-rooms.sh [WORK]                  WORK: runs/rooms by default; the bundle is WORK/bundle
#   START=BUNDLE deploy/train-rooms.sh [WORK]     goes on from an existing bundle: its networks, its codec with the
#                                                 entropy model, and its added task
#   COMPARE=1 deploy/train-rooms.sh [WORK]        also the codecs that `isthmus bench rooms WORK` compares with
#
# The normals' network learns to keep the image and the things in it in its feature, first as it is, then under noise.
# The classifier and segmentation have its front: the camera computes one feature, and sends it once for all tasks.
# The codec is trained without context first. Then its latents stay: the entropy model learns them with context, and v
# learns to answer the class. Then all of it is trained together, and frames learn from sequences. (`trains=synthesis`
# was tried and did not help: docs/LOG.md. How far features are stretched was chosen on rooms held out.)
#
# Can be killed at any time and started again: each step goes on where it stopped. Sizes for two CPU cores are those of
# the shipped bundle, which was made with START from the one before it; with a GPU, which nobody has tried yet, there
# are more steps of larger batches. What is compared is trained alike, for fewer steps than the bundle; the priors also
# for as many as the bundle's codec before it went on.
set -euo pipefail
work=${1:-runs/rooms}
mkdir -p "$work"
data=$work/data
# glibc would hand each step's memory back to the kernel and fetch it again: about a tenth of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    times=2 wide=64 dense="--batch 32" codec="--batch 64"
else
    times=1 wide=32 dense="--batch 16 --set label_stride=2" codec="--batch 16"
fi
steps() { echo "--steps $(($1 * times))"; }
layers=image,category,normals,semantic
scales="scales=[0.06,0.2,0.5,1,2]"
wider="scales=[0.04,0.2,0.5,1,3]"
cls=(--network "$work/network" --lambda 12000 --distortion distill)
normals=(--network "$work/normals" --lambda 14000 --distortion feature)
segmentation=(--network "$work/segmentation" --lambda 14000 --distortion feature)

step() { printf '\n=== %s\n' "$*"; "$@"; }

count=21000
sequences=500
if [ -n "${START:-}" ]; then count=5000 sequences=260; fi # enough for what is left to learn
step isthmus rooms render "$data" --count $count --layers $layers
step isthmus rooms render "$work/test" --first-seed 1000000000 --count 1000 --layers $layers
step isthmus rooms render "$work/sequences" --first-seed 100000 --count $sequences --frames 8 --motion mixed \
    --layers image,category

if [ -n "${START:-}" ]; then
    if [ ! -d "$work/recovered" ]; then step isthmus network recover "$START" --out "$work/recovered"; fi
    for name in classification:network normals:normals segmentation:segmentation; do
        ln -sfn "recovered/${name%%:*}" "$work/${name##*:}"
    done
    if [ ! -d "$work/entropy" ]; then step isthmus codec recover "$START" --out "$work/entropy"; fi
    earlier=$START/tasks/segmentation
else
    network() { # network NAME options
        local name=$1
        shift
        step isthmus network train --data "$data" --out "$work/$name" --set network.feature_channels=16 --resume "$@"
    }
    network picture --task normals $(steps 4500) $dense --set appearance=0.5
    network things --task normals $(steps 3200) $dense --init "$work/picture" --set learning_rate=1.5e-3 \
        --set appearance=0.3 --set category=0.3 --set noise=0.4
    network front --task normals $(steps 4000) $dense --init "$work/things" --set learning_rate=1.5e-3 \
        --set appearance=0.3 --set category=0.3 --set noise=0.3
    network normals --task normals $(steps 800) $dense --init "$work/front" --set freeze=8 --set learning_rate=1e-3 \
        --set noise=0.15
    network network --recipe "$(dirname "$0")/classifier.toml" $(steps 1000) --batch $wide --init "$work/front" \
        --set freeze=8 --set noise=0.3
    network segmentation --task segmentation $(steps 3600) $dense --init "$work/front" --set freeze=8 --set noise=0.3
fi

codec() { # codec NAME options: one codec
    local name=$1
    shift
    step isthmus codec train --data "$data" --out "$work/$name" --features "$work/features" --set crop=6 $codec --resume "$@"
}
first() { # first NAME options: what the bundle's codec begins with, or one to compare with it
    local name=$1
    shift
    codec "$name" $(steps 6000) --set learning_rate=2e-3 --network "$work/network" --lambda 4000 --distortion distill \
        "${normals[@]}" --set "$wider" "$@"
}
if [ -z "${START:-}" ]; then
    first first --context none
    codec bundle-codec $(steps 8000) --set learning_rate=1e-3 --set init="$work/first" --set distortion_first=0 \
        --set rate_ramp=0 "${cls[@]}" "${normals[@]}" --set "$wider" --context none
fi
entropy() { # entropy NAME INIT options: the entropy model alone
    local name=$1 init=$2
    shift 2
    step isthmus codec train --data "$data" --out "$work/$name" --features "$work/features" --set init="$work/$init" \
        --set trains=entropy "${cls[@]}" "${normals[@]}" --base classification --set "extractor=[96,160]" \
        --set "$wider" --batch 32 --resume "$@"
}
if [ -z "${START:-}" ]; then
    entropy entropy-first bundle-codec $(steps 1400) --set learning_rate=2e-3
    entropy entropy-second entropy-first $(steps 1700) --set learning_rate=1.5e-3 --set base_lambda=1000 --set balance=0.2
    entropy entropy entropy-second $(steps 2400) --set learning_rate=2e-3 --set base_lambda=700 --set balance=0.2 \
        --set "context_hidden=[96,96]"
fi
together() { # together NAME INIT options: all of the codec, with its context
    local name=$1 init=$2
    shift 2
    codec "$name" --set init="$work/$init" "${cls[@]}" "${normals[@]}" --set "$wider" --base classification \
        --set base_lambda=700 --set "extractor=[96,160]" --set "context_hidden=[96,96]" --set rate=rounded \
        --set entropy_rate=1.5 --set distortion_first=0 --set rate_ramp=0 "$@"
}
together together-first entropy $(steps 3300) --set learning_rate=8e-4
together together together-first $(steps 2600) --set learning_rate=6e-4 --set seed=1
if [ -n "${START:-}" ]; then frames="$(steps 500) --set learning_rate=1e-3"; else frames=$(steps 1200); fi
step isthmus codec frames "$work/together" --data "$work/sequences" --out "$work/frames" $frames --resume
if [ ! -d "$work/bundle" ]; then
    step isthmus bundle build "$work/frames/codec" --default-quality 96 --data "$data" --out "$work/bundle" --name rooms \
        --licence Apache-2.0 --stretch normals=1.06
fi
later() { # later NAME options: a run for the task that comes later
    local name=$1
    shift
    step isthmus task train "$work/bundle" --network "$work/segmentation" --data "$data" --out "$work/$name" $codec \
        --distortion task-hint --set crop=6 --set width=2 --features "$work/features" --resume "$@"
}
if [ ! -d "$work/bundle/tasks/segmentation" ]; then
    if [ -n "${START:-}" ]; then
        later task-longer $(steps 900) --set learning_rate=6e-4 --set init="$earlier" --set stretch=1.03
    else
        later task $(steps 2600) --set learning_rate=2e-3
        later task-longer $(steps 5000) --set learning_rate=1e-3 --set init="$work/task/task" --set stretch=1.03
    fi
    step isthmus task add "$work/bundle" "$work/task-longer/task"
fi
networks=(--network "$work/network" --network "$work/normals" --network "$work/segmentation")
step isthmus bundle evaluate "$work/bundle" "${networks[@]}" --data "$work/test" --write

if [ -n "${COMPARE:-}" ]; then
    compared() { # compared NAME options
        local name=$1
        shift
        codec "$name" $(steps 1000) --set learning_rate=2e-3 --context none "$@"
    }
    compared codec "${cls[@]}" "${normals[@]}" --set "$scales"
    compared only-classification "${cls[@]}" --set "$scales"
    compared only-normals "${normals[@]}" --set "$scales"
    compared only-segmentation "${segmentation[@]}" --set "$scales"
    compared with-segmentation "${cls[@]}" "${normals[@]}" "${segmentation[@]}" --set "$scales"
    level() { # level NAME lambda of the class, of the normals
        compared "$1" --network "$work/network" --lambda "$2" --distortion distill \
            --network "$work/normals" --lambda "$3" --distortion feature --set "scales=[1]"
    }
    level level-low 2400 2800
    level level-middle 6000 7000
    level level-high 12000 14000
    compared prior-factorised "${cls[@]}" "${normals[@]}" --set "$scales" --set prior=factorised
    compared prior-hyperprior "${cls[@]}" "${normals[@]}" --set "$scales" --set prior=hyperprior
    first first-factorised --set prior=factorised
    first first-hyperprior --set prior=hyperprior
    for seed in 0 1 2; do # on the latents of the bundle's codec, which no prior here has seen before
        for prior in codebook factorised hyperprior; do
            step isthmus codec train --data "$data" --out "$work/context-$prior-$seed" --features "$work/features" \
                "${cls[@]}" "${normals[@]}" --set init="$work/together" --set trains=entropy --set anew=true \
                --set "$wider" --set prior=$prior --set seed=$seed $(steps 1500) --batch 32 --set learning_rate=2e-3 --resume
        done
    done
    step isthmus bench rooms "$work" --count 1000
fi
