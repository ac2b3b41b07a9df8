"""What changed in LEVIR-CD (buildings) from a backbone pretrained with MTP: differences and UNet.

Run:      vistruct train mtp.levir_cd --data data/LEVIR-CD --model rvsa_l --backbone mtp_l_encoder.pth
Needs:    8 accelerators of 4 pairs each. LEVIR-CD as published, or cut to 256
          pixels
Expect:   published F1 of what changed on test, without MTP -> with it: rvsa_b 92.21 -> 92.22, rvsa_l 92.52
          -> 92.67, intern_xl 92.46 -> 92.54
Source:   MTP (arXiv:2403.13430), `*-unet-256-*_levir` of its public code: 150 epochs of 223 steps
Differs:  pieces of 256 are cut while training from the images of 1,024; the public code needs them cut beforehand. As
          `mtp.change` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import change
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import levir_folder

SET = change.pairs("mtp.levir_cd", epochs=150, steps_an_epoch=223)
recipe = recipe_for(SET)
tiny = tiny_for(SET, levir_folder, size=32)
