#!/usr/bin/env bash
# A network from elsewhere: torchvision's SqueezeNet 1.1 on ImageNet images, cut at three layers. Its codecs
# learn by distillation, so no label is needed; labels of the validation images are read to measure top-1.
#
#   deploy/examples/squeezenet.sh DATA [WORK]        WORK: runs/squeezenet by default. Needs `.[bench]`.
#
# DATA holds the network's weights (name another file in WEIGHTS; DEFAULT downloads torchvision's), pictures to learn
# from in imagenet1k-sample/labels.csv#train and bsds500/train, and to measure on in imagenet1k-sample/labels.csv#val.
# For others change the three lines below. Can be killed and started again.
set -euo pipefail
data=$1 work=${2:-runs/squeezenet}
weights=${WEIGHTS:-$data/squeezenet1_1-imagenet1k/squeezenet1_1_fp16.safetensors}
learn="csv:$data/imagenet1k-sample/labels.csv#train,images:$data/bsds500/train"
check="csv:$data/imagenet1k-sample/labels.csv#val"
mkdir -p "$work"

if [ ! -d "$work/network" ]; then
    isthmus network import torchvision:squeezenet1_1 --weights "$weights" --size 256x256 --out "$work/network"
fi
while read -r name layer steps; do
    isthmus codec train --network "$work/network" --split "$layer" --data "$learn" --validation "$check" \
        --distortion distill-hint --lambda 10000 --set "scales=[0.03,0.15,0.7,3,12]" --steps "$steps" --batch 16 \
        --set stride=2 --set width=2 --set distortion_first=0.02 --set rate_ramp=0.1 --out "$work/$name" --resume
    if [ ! -d "$work/$name-bundle" ]; then
        isthmus bundle build "$work/$name" --data "$check" --out "$work/$name-bundle" --name "squeezenet-$name"
    fi
    isthmus bundle evaluate "$work/$name-bundle" --network "$work/network" --data "$check"
    isthmus bench rate "$work/$name-bundle" --network "$work/network" --data "$check" --out "$work/$name-rate" --agreement
done <<'LAYERS'
early features.6.squeeze_activation 700
middle features.9.squeeze_activation 2000
late features.12.squeeze_activation 2000
LAYERS
