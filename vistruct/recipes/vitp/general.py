"""ViTP pretraining on general-purpose conversations (the control of the other two): the published mix and settings.

Run:      vistruct recipes vitp.general --mix mix.json           (what to put where)
          vistruct train vitp.general --data mix.json --start InternVL2_5-1B --devices 8
Needs:    published: 23 hours on 8 x A40 48 GB. The conversations (8 data sets, 1,023,375
          an epoch) are not published with the code
Expect:   published only as the comparison in the paper's ablation
Source:   Li et al., ViTP, arXiv:2509.17562, and `ft_data_general.json` of its public code
Differs:  as `vitp.pretrain`. `repeat_time` below 1 draws lines; the published code takes the first ones of the file:
          `--fraction-of first-lines` does so too. Without the other mixes this is InternVL2.5-1B trained
          a little longer.
"""

from __future__ import annotations

import functools

from vistruct.recipes.vitp import published
from vistruct.recipes.vitp.mixes import GENERAL as MIX

recipe = published.recipe_for("vitp.general")
tiny = functools.partial(published.tiny, "vitp.general", MIX)
