"""Segmentation of LoveDA (7 classes) from a backbone pretrained with MTP: UPerNet.

Run:      vistruct train mtp.loveda --data data/LoveDA --model rvsa_l --backbone mtp_l_encoder.pth --devices 8
          vistruct predict runs/mtp.loveda data/LoveDA/Test --format loveda                (the files to submit)
Needs:    8 accelerators. LoveDA as published: Train, Val and Test
Expect:   published mIoU on test, from the server, with MTP: rvsa_b 52.39, rvsa_l 54.17, intern_xl 54.17
Source:   MTP (arXiv:2403.13430), `*-upernet-512-*-loveda` of its public code: 80,000 steps of 8 crops of 512, windows
          that share 128
Differs:  the public configurations name a validation without saying on what, and so do not start; `--split train`
          leaves val to be measured. Submissions need no second script. As `mtp.segmentation` and `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import segmentation
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_maps import loveda_folder

SET = segmentation.scenes("mtp.loveda", format="loveda", split="train+val", size=512)
recipe = recipe_for(SET)
tiny = tiny_for(SET, loveda_folder, size=64)
