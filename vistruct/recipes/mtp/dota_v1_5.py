"""Oriented detection on DOTA-v1.5 (16 classes) from a backbone pretrained with MTP: Oriented R-CNN, several scales.

Run:      vistruct train mtp.dota_v1_5 --data data/DOTA-v1.5 --model rvsa_l --backbone mtp_l_encoder.pth --devices 4
          vistruct predict runs/mtp.dota_v1_5 data/DOTA/test/images --format dota --scale 0.5 --scale 1 --scale 1.5
Needs:    as `mtp.dota_v1`. The images of DOTA-v1.0 with the annotations of v1.5: train and val with images and
          labelTxt-v1.5
Expect:   no published number of these settings
Source:   `mtp.dota_v1` (MTP has no configuration for v1.5). DOTA-v1.5 (DOAI 2019): the same images, with a 16th class,
          container-crane, and objects below 10 pixels annotated too
Differs:  an epoch counts as long as one of DOTA-v1.0. As `mtp.dota_v1`
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from vistruct.data.formats.boxes.published import DOTA_1_5
from vistruct.recipes.mtp import dota_v1
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_scenes import dota_folder

SET = replace(dota_v1.SET, name="mtp.dota_v1_5", data=partial(dota_v1.data, classes=DOTA_1_5))
recipe = recipe_for(SET)
tiny = tiny_for(SET, partial(dota_folder, ("plane", "container-crane"), labels="labelTxt-v1.5"), size=96)
