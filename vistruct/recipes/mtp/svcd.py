"""What changed in SVCD (also called CDD) from a backbone pretrained with MTP: differences and UNet.

Run:      vistruct train mtp.svcd --data data/SVCD --model rvsa_l --backbone mtp_l_encoder.pth --devices 8
Needs:    8 accelerators of 4 pairs each. SVCD's patches of 256 pixels: train, val
          and test with A, B, OUT
Expect:   published F1 of what changed on test, without MTP -> with it: rvsa_b 97.80 -> 97.87, rvsa_l 97.78
          -> 97.98, intern_xl 98.37 -> 98.33
Source:   MTP (arXiv:2403.13430), `*-unet-256-*_cdd` of its public code: 200 epochs of 313 steps. The labels are JPEG:
          changed from 128 on
Differs:  as `mtp.change` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import change
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import svcd_folder

SET = change.pairs("mtp.svcd", epochs=200, steps_an_epoch=313)
recipe = recipe_for(SET)
tiny = tiny_for(SET, svcd_folder, size=32)
