"""What changed in WHU-CD (buildings of one town) from a backbone pretrained with MTP: differences and UNet.

Run:      vistruct train mtp.whu_cd --data data/WHU-CD --model rvsa_l --backbone mtp_l_encoder.pth --devices 8
Needs:    8 accelerators of 4 pairs each. WHU-CD in patches of 256 pixels: A, B,
          label and list/
Expect:   published F1 of what changed on test, without MTP -> with it: rvsa_b 93.77 -> 94.32, rvsa_l 94.07
          -> 94.75, intern_xl 95.33 -> 95.59
Source:   MTP (arXiv:2403.13430), `*-unet-256-*_whu` of its public code: 200 epochs of 167 steps
Differs:  as `mtp.change` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import change
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import whu_folder

SET = change.pairs("mtp.whu_cd", epochs=200, steps_an_epoch=167)
recipe = recipe_for(SET)
tiny = tiny_for(SET, whu_folder, size=32)
