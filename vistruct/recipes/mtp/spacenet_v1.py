"""Segmentation of buildings in SpaceNet-v1 (Rio, 2 classes) from a backbone pretrained with MTP: UPerNet.

Run:      vistruct train mtp.spacenet_v1 --data data/SpaceNet1 --model rvsa_l --backbone mtp_l_encoder.pth
Needs:    8 accelerators. The images and footprints as published (3band, geojson),
          and `train.txt`, `val.txt` with their names, which are not published. Footprints need the extra `geo`
Expect:   published mIoU on val, without MTP -> with it: rvsa_b 79.56 -> 79.63, rvsa_l 79.69 -> 79.54,
          intern_xl 79.08 -> 79.16
Source:   MTP (arXiv:2403.13430), `*-upernet-384-*-spacenetv1` of its public code: 80,000 steps of 8 crops of 384,
          windows that share 128
Differs:  footprints are painted as they are read. The published script writes buildings as 255, which its training
          does not count at all until somebody turns them into 1. As `mtp.segmentation` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import segmentation
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import spacenet_folder

SET = segmentation.scenes("mtp.spacenet_v1", format="spacenet", split="train", size=384)
recipe = recipe_for(SET)
tiny = tiny_for(SET, spacenet_folder, size=64)
