"""ViTP pretraining on remote sensing: the published mix and settings.

Run:      vistruct recipes vitp.remote_sensing --mix mix.json           (what to put where)
          vistruct train vitp.remote_sensing --data mix.json --start InternVL2_5-1B --devices 8
Needs:    published: 23 hours on 8 x A40 48 GB. The conversations (36 data sets, 1,088,702
          an epoch) are not published with the code
Expect:   published downstream: DIOR 79.80, DIOR-R 75.08, DOTA-v2 60.23, RSAR 72.31 (AP50); iSAID 71.14 mIoU;
          LEVIR-CD 92.67 F1
Source:   Li et al., ViTP, arXiv:2509.17562, and `ft_data_rs.json` of its public code
Differs:  as `vitp.pretrain`. `repeat_time` below 1 draws lines; the published code takes the first ones of the file:
          `--fraction-of first-lines` does so too. The images of DIOR-RSVG, SAMRS, DOTA and LEVIR-CC overlap the
          downstream sets: a mix without them is the cleaner experiment.
"""

from __future__ import annotations

import functools

from vistruct.recipes.vitp import published
from vistruct.recipes.vitp.mixes import REMOTE_SENSING as MIX

recipe = published.recipe_for("vitp.remote_sensing")
tiny = functools.partial(published.tiny, "vitp.remote_sensing", MIX)
