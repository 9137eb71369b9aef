#!/usr/bin/env bash
# Road scenes: a segmentation network and a codec for its feature, from the images of CamVid.
#
#   deploy/examples/camvid.sh DATA [WORK]        WORK: runs/camvid by default. Needs `.[bench]`.
#
# DATA/camvid holds train and val, each with images/ and labels/, and classes.txt. Can be killed and started again.
set -euo pipefail
data=labels:$1/camvid work=${2:-runs/camvid}
mkdir -p "$work"

isthmus network train --task segmentation --data "$data#train" --validation "$data#val" --steps 1800 \
    --batch 8 --set size=352x480 --set "augment=[0.75,1.5]" --set label_stride=2 --out "$work/network" --resume
isthmus codec train --network "$work/network" --data "$data#train" --validation "$data#val" \
    --distortion distill-hint --lambda 20000 --set "scales=[0.05,0.2,0.7,2,6]" --steps 3000 --batch 8 \
    --out "$work/codec" --resume
if [ ! -d "$work/bundle" ]; then
    isthmus bundle build "$work/codec" --data "$data#val" --out "$work/bundle" --name camvid \
        --default-quality 75
fi
isthmus bench rate "$work/bundle" --network "$work/network" --data "$data#val" --out "$work/rate"
