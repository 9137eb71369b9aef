#!/usr/bin/env bash
# Makes the bundle `rooms` from nothing: data, network, codec, bundle, figures. Needs `.[train]`.
#
#   deploy/train-rooms.sh [WORK]     WORK: runs/rooms by default
#
# Can be killed at any time and started again: each step goes on where it stopped. The bundle is WORK/bundle.
set -euo pipefail
work=${1:-runs/rooms}
mkdir -p "$work"

isthmus train rooms "$work/data" --count 21000
isthmus train rooms "$work/test" --first-seed 1000000000 --count 1000
isthmus train network --data "$work/data" --out "$work/network" --resume
isthmus train single --data "$work/data" --network "$work/network" --out "$work/codec" --resume
rm -rf "$work/bundle"
isthmus train build "$work/codec" --data "$work/data" --out "$work/bundle" --name rooms
isthmus train evaluate "$work/bundle" --network "$work/network" --data "$work/test" --write
