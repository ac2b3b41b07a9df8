"""Scene classification on EuroSAT (10 classes, RGB) from a backbone pretrained with MTP.

Run:      vistruct train mtp.eurosat --data data/EuroSAT --model rvsa_l --backbone mtp_l_encoder.pth
Needs:    published: 8 accelerators of 3.1 (rvsa_b), 9.5 (rvsa_l) or 12.4 GB (intern_xl). The
          folder of EuroSAT and the lists of its 16,200 / 5,400 / 5,400 images: `eurosat-train.txt`, ... beside it
Expect:   published OA on val, without MTP -> with it: rvsa_b 98.54 -> 98.76, rvsa_l 98.56 -> 98.78,
          intern_xl 99.30 -> 99.24
Source:   MTP (arXiv:2403.13430), `eurosat` of its public code: 100 epochs of 253 steps
Differs:  as `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import classification
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_classes import eurosat_folder

SET = classification.scenes("mtp.eurosat", epochs=100, steps_an_epoch=253)
recipe = recipe_for(SET)
tiny = tiny_for(SET, eurosat_folder, size=32)
