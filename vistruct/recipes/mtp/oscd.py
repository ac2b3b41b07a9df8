"""What was built in OSCD (Sentinel-2, red, green and blue) from a backbone pretrained with MTP: differences and UNet.

Run:      vistruct train mtp.oscd --data data/OSCD --model rvsa_l --backbone mtp_l_encoder.pth --devices 8
Needs:    8 accelerators of 4 pairs each. OSCD as published, 13 bands and labels
Expect:   published F1 of what changed on test, without MTP -> with it: rvsa_b 50.28 -> 53.36, rvsa_l 54.04
          -> 55.92, intern_xl 51.61 -> 55.61, each the best of five looks at test
Source:   MTP (arXiv:2403.13430), `*_oscd_rgb` of its public code: 100 epochs of 26 steps; pieces of 96 pixels shown at
          224, because the published RVSA divides by zero on fewer than 7 patches
Differs:  there labels stay at 96 pixels beside images of 224, so that they are rotated and cropped apart from them and
          their logits shrunk; here pixels and labels are one thing. It measures test while training and keeps the best;
          here test is measured once, at the end. As `mtp.change` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import change
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import oscd_folder

SET = change.pairs("mtp.oscd", epochs=100, steps_an_epoch=26, size=224, tile=96, format="oscd")
recipe = recipe_for(SET)
tiny = tiny_for(SET, oscd_folder, size=64)
