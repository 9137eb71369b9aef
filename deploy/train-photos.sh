#!/usr/bin/env bash
# Makes the bundle `photos`: published networks as they are, a codec from a few hundred photographs.
# Needs `.[train]`, and the files that nothing can fetch by itself:
#
#   deploy/train-photos.sh PHOTOS NETWORKS [WORK]     WORK: runs/photos by default; the bundle is WORK/bundle
#   QUICK=1 deploy/train-photos.sh ...                the sizes of the shipped bundle: an hour and a half of one core
#
# PHOTOS has train/ and val/: CID22 and CLIC 2025 there, other files of CID22 and Kodak here. Charts and graphics among
# them (deploy/photos/not-photographs.txt) are left out. NETWORKS has weights.safetensors of deeplabv3plus-mnv2-ade20k
# and deeplabv3-mnv2-voc21, published TFLite models as `train.networks.deeplab` describes them. The classifier's weights
# come with a Python package.
#
# No labels: the networks are frozen, and the codec learns what their answers depend on. It begins as the best linear
# transform for that (`start=answers`), learns to predict its latents, and is then trained by the networks' answers. It
# learns frames from sequences that are made of the same photographs.
#
# Can be killed at any time and started again: each step goes on where it stopped.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,20p' "$0"; exit 2; fi
photos=$(realpath "$1") networks=$(realpath "$2") work=${3:-runs/photos}
here=$(dirname "$0")
mkdir -p "$work/photos"
work=$(realpath "$work")
# glibc would hand each step's memory back to the kernel and fetch it again: about a tenth of the time on a CPU.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456

step() { printf '\n=== %s\n' "$*"; "$@"; }

for file in "$photos"/train/*; do
    if ! grep -qxF "$(basename "$file")" "$here/photos/not-photographs.txt"; then ln -sfn "$file" "$work/photos/"; fi
done

import() { # import NAME FACTORY WEIGHTS
    if [ ! -d "$work/$1" ]; then
        step isthmus network import "$2" --weights "$3" --size 256x256 --fit letterbox --out "$work/$1"
    fi
}
import class train.networks.efficientnet:efficientnet_lite0 DEFAULT
import scene train.networks.deeplab:deeplabv3plus_ade20k "$networks/deeplabv3plus-mnv2-ade20k/weights.safetensors"
import objects train.networks.deeplab:deeplabv3_voc "$networks/deeplabv3-mnv2-voc21/weights.safetensors"

if [ -n "${QUICK:-}" ]; then
    views=10 start=600 answers=900 wide=8 rate=6e-5 objects=800
elif python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then # a quarter of an hour of an H200
    views=80 start=800 answers=9500 wide=32 rate=1e-4 objects=3000
else # a night of two cores
    views=24 start=1000 answers=8000 wide=8 rate=6e-5 objects=3000
fi
# A nat of a class weighs 30,000 bits at scale 1, one of a map's mean pixel 55,000. At low levels the class comes first.
parts=(--network "$work/class" --split blocks.4 --lambda 30000 --network "$work/scene" --split body.blocks.4
    --lambda 55000 --set preset=blocks --set 'scales=[0.1,0.3,0.6,1,2]'
    --set parts.0.tilt=0.5 --precision 32)
learns=(--data "images:$work/photos" --validation "images:$photos/val" --set views=$views --set flips=false
    --features "$work/features" --resume)
codec() { # codec NAME STEPS options
    local name=$1 steps=$2
    shift 2
    step isthmus codec train "${learns[@]}" "${parts[@]}" --out "$work/$name" --steps "$steps" "$@"
}
codec start $start --batch $((wide > 16 ? wide : 16)) --set start=answers --set trains=entropy --set learning_rate=2e-3
# At a higher rate the transform forgets what it began with, and does not find it again (docs/LOG.md).
codec answers $answers --batch $wide --set init="$work/start" --set crop=10 --set learning_rate=$rate \
    --set entropy_rate=10 --set distortion_first=0 --set rate_ramp=0 --set rate=rounded
step isthmus codec frames "$work/answers" --data "images:$work/photos" --out "$work/frames" --steps 4000 --batch 16 \
    --set sequences=1500 --set frames=6 --set holdout=60 --resume

if [ ! -d "$work/bundle" ]; then
    step isthmus bundle build "$work/frames/codec" --data "images:$work/photos" --images 100 --out "$work/bundle" \
        --name photos --half --eight-bit-tails --hold 0.15 --licence Apache-2.0 --licence "networks=Apache-2.0, see NOTICE" \
        --licence "photographs of CID22=CC BY-SA 4.0" --licence "photographs of CLIC 2025=Unsplash License"
    cp "$here/photos/NOTICE" "$work/bundle/NOTICE"
fi
# A task that the codec knows nothing of. Cut early, its network is still much like the segmentation's, whose features the
# bytes hold.
if [ ! -d "$work/bundle/tasks/objects" ]; then
    step isthmus task train "$work/bundle" --network "$work/objects" --split body.blocks.3 --name objects \
        --data "images:$work/photos" --validation "images:$photos/val" --set views=24 --set flips=false \
        --features "$work/features" --batch 16 --distortion distill-hint --set crop=0 --set start=regression \
        --set learning_rate=5e-4 --set width=0.75 --set half=true --set eight_bit_tail=true --steps $objects \
        --out "$work/objects-task" --resume
    step isthmus task add "$work/bundle" "$work/objects-task/task"
fi
step isthmus bundle calibrate "$work/bundle" --network "$work/class" --data "images:$work/photos" --count 100
step isthmus bundle evaluate "$work/bundle" --network "$work/class" --network "$work/scene" --network "$work/objects" \
    --data "images:$photos/val" --write
