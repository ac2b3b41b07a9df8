"""Scene classification on NWPU-RESISC45 (45 classes, a fifth for training) from a backbone pretrained with MTP.

Run:      vistruct train mtp.resisc45 --data data/NWPU-RESISC45 --model rvsa_l --backbone mtp_l_encoder.pth
Needs:    published: 8 accelerators, 3.1 to 12.4 GB as `mtp.eurosat`. The folders of the classes
          and `mtp/train_labels_28_mtp.txt`, `mtp/valid_labels_28_mtp.txt`, which are not published: any lists of a
          fifth and the rest will do, in lines like `airplane/airplane_001.jpg 0`
Expect:   published OA on val, without MTP -> with it: rvsa_b (no run without) -> not in the logs, rvsa_l
          95.46 -> 95.88, intern_xl 95.82 -> 96.27
Source:   MTP (arXiv:2403.13430), `resisc45` of its public code: 200 epochs of 99 steps
Differs:  there is no configuration of rvsa_b without MTP; `--model rvsa_b` with any start is here. As
          `mtp.fine_tuning`
"""

from __future__ import annotations

from vistruct.recipes.mtp import classification
from vistruct.recipes.mtp.fine_tuning import recipe_for, tiny_for
from vistruct.samples.made_classes import resisc45_folder

SET = classification.scenes("mtp.resisc45", epochs=200, steps_an_epoch=99)
recipe = recipe_for(SET)
tiny = tiny_for(SET, resisc45_folder, size=32)
