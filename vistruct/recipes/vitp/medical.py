"""ViTP pretraining on medical images: the published mix and settings.

Run:      vistruct recipes vitp.medical --mix mix.json           (what to put where)
          vistruct train vitp.medical --data mix.json --start InternVL2_5-1B --devices 8
Needs:    published: 23 hours on 8 x A40 48 GB. The conversations (20 data sets, 1,048,143
          an epoch) are not published with the code
Expect:   published downstream: AMOS2022 90.60, BraTS2021 72.11, COVID-QU-Ex 91.55 (mDice)
Source:   Li et al., ViTP, arXiv:2509.17562, and `ft_data_medical.json` of its public code
Differs:  as `vitp.pretrain`. `repeat_time` below 1 draws lines; the published code takes the first ones of the file:
          `--fraction-of first-lines` does so too. It contains the validation part of GMAI-MMBench: do not report on
          that. No published configuration exists for the medical downstream tasks.
"""

from __future__ import annotations

import functools

from vistruct.recipes.vitp import published
from vistruct.recipes.vitp.mixes import MEDICAL as MIX

recipe = published.recipe_for("vitp.medical")
tiny = functools.partial(published.tiny, "vitp.medical", MIX)
