"""Properties of each method for `test_contract.py`: one row per method, with its differences from DEFAULTS."""

DEFAULTS = {
    "args": {},  # constructor arguments for a cheap test
    "nets": ("cnn", "vit"),  # networks it supports; tests that need one use the first
    "sizes": ((12, 20), (15, 9)),  # image sizes, not square, that it must support
    "mixes": True,  # False: images and targets are not changed
    "mask": True,  # returns a mask (with the arguments above)
    "identity": None,  # arguments that force lam = 1; None if there are none
    "geometric": False,  # moves or resizes the partner, so that pixels change their position (no P4)
    "convex": True,  # a constant image stays constant (P3)
    "keeps_drawn_lam": False,  # the label's lam is the drawn one, not the mask's mean (no P5)
    "shared_lam": True,  # without per_image, one lam for the whole batch
    "rolls": True,  # there are no draws per row: rolling the batch rolls the result (P8)
    "plain_loss": True,  # at lam = 1, forward is the plain loss of the clean batch and nothing else
    "integers": True,  # mixes uint8 images
    "meta": True,  # a whole step runs on the meta device, which has no autocast and no generators
    "loss_call": -1,  # index of the call of the loss for the mixed batch within a step
    "gradient": "network",  # the parameters that a step trains: "network", or also "method"
    "relabels": True,  # rows whose pixels change also change their targets
    "small": (8, 8),  # image size for tests with many images
    "golden": "",  # source of the golden values
}

LEARNED = {  # a mask generator, its encoder and their losses
    "keeps_drawn_lam": True,
    "plain_loss": False,
    "integers": False,
    "gradient": "method",
    "meta": False,
    "identity": {"alpha": 0.0},
    "loss_call": 0,
}

ROWS = {
    "adautomix": {"golden": "Westlake-AI/openmixup, AdaptiveMask, co_mixup and forward_k", **LEARNED},
    "alignmix": {
        "golden": "shashankvkt/AlignMixup_CVPR22, mixup_aligned",
        "mask": False,
        "identity": {"alpha": 0.0},
        "args": {"aligned_prob": 1.0},
    },
    "attentivemix": {
        "golden": "Westlake-AI/openmixup, augments/attentivemix.py attentivemix",
        "args": {"teacher": "test_resnet", "teacher_pretrained": False, "teacher_size": 64, "top_k": None},
        "identity": {"alpha": 0.0},
    },
    "augmix": {
        "mask": False,
        "relabels": False,
        "geometric": True,
        "rolls": False,  # each row draws its operations
        "integers": False,  # uses levels 0 to 255, not the image's range
        "identity": {"alpha": 0.0},
        "golden": "google-research/augmix, augment_and_mix.py augment_and_mix",
    },
    "automix": {"golden": "Westlake-AI/openmixup, PixelMixBlock, AutoMixup.pixel_mixup, CosineScheduleHook", **LEARNED},
    "choice": {
        "golden": "timm 1.0.31, timm.data.mixup Mixup",
        "mask": False,
        "args": {"methods": [{"name": "mixup"}, {"name": "cutmix"}]},
    },
    "cmixup": {
        "golden": "huaxiuyao/C-Mixup, src/algorithm.py get_mixup_sample_rate",
        "mask": False,
        "identity": {"alpha": 0.0},
        "rolls": False,
    },
    "comixup": {
        "args": {"beta": 0.05, "part": 4},  # with a larger beta, random images give outputs of one whole image
        "shared_lam": False,
        "rolls": False,  # initial labels are drawn per cell
        "golden": "snu-mllab/Co-Mixup, match.py get_onehot_matrix, mix_input and resolve_label",
    },
    "cutmix": {"golden": "clovaai/CutMix-PyTorch, train.py rand_bbox", "identity": {"alpha": 0.0}},
    "decoupledmix": {
        "golden": "Westlake-AI/openmixup, ClsMixupHead.loss",
        "mask": False,
        "identity": {"base": {"name": "mixup", "alpha": 0.0}},
    },
    "erm": {"golden": "nothing to compute", "mixes": False, "mask": False},
    "fmix": {"golden": "ecs-vlc/FMix, fmix.py binarise_mask", "identity": {"alpha": 0.0}, "meta": False},
    "gmix": {"golden": "naver-ai/hmix-gmix, mixup.py Mixup", "identity": {"alpha": 0.0}},
    "gridmix": {"golden": "IlyaDobrynin/GridMixup, gridmix_pytorch.py GridMixupLoss", "identity": {"alpha": 0.0}},
    "guidedmixup": {
        "golden": "3neutronstar/GuidedMixup, FGVC/Implementor/guidedmixup.py GuidedMixupLearner",
        "args": {"prob": 1.0},
        "shared_lam": False,
        "rolls": False,
    },  # the order of the first pair is drawn
    "hmix": {"golden": "naver-ai/hmix-gmix, mixup.py Mixup", "identity": {"alpha": 0.0}},
    "kmixup": {
        "args": {"k": 4},
        "mask": False,
        "identity": {"alpha": 0.0},
        "rolls": False,  # groups are drawn by a permutation
        "golden": "AnmingGu/kmixup-cifar10, train.py mixup_data",
    },
    "manifoldmix": {
        "golden": "vikasverma1077/manifold_mixup, supervised/utils.py mixup_process",
        "mask": False,
        "identity": {"alpha": 0.0},
    },
    "mergemix": {
        "nets": ("vit",),
        "sizes": ((12, 20), (20, 8)),
        "identity": {"alpha": 0.0},
        "golden": "Westlake-AI/openmixup, models/utils/merge.py and MergeMix.process_attention_map",
    },
    "mixpro": {
        "golden": "fistyee/MixPro, MaskMix and main.py train_one_epoch",
        "nets": ("vit",),
        "identity": {"alpha": 0.0},
        "rolls": False,  # each row draws its cells
    },
    "mixup": {
        "golden": "facebookresearch/mixup-cifar10, train.py mixup_data",
        "mask": False,
        "identity": {"alpha": 0.0},
    },
    "mixupe": {
        "mask": False,
        "identity": {"alpha": 0.0},
        "golden": "oneHuster/MixupE, mixup.py training_method, mixupe_version 3",
    },
    "noisymix": {
        "mask": False,
        "convex": False,
        "rolls": False,  # noise is drawn per row
        "meta": False,
        "integers": False,
        "identity": {"alpha": 0.0, "add_noise": 0.0, "mult_noise": 0.0},
        "golden": "erichson/NoisyMix, src/noisy_mixup.py do_noisy_mixup",
    },
    "patchup": {
        "golden": "chandar-lab/PatchUp, modules/patchup.py PatchUp",
        "plain_loss": False,  # the paper's terms sum to twice the loss
        "meta": False,
        "identity": {"alpha": 0.0, "cutmix_alpha": 0.0},
    },
    "puzzlemix": {
        "golden": "snu-mllab/PuzzleMix, mixup.py mixup_graph, and main.py's noise",
        "args": {"grids": (2, 4)},
        "identity": {"alpha": 0.0},
        "geometric": True,  # transport
        "shared_lam": False,
        "integers": False,
        "sizes": ((16, 32), (36, 20)),
    },
    "recursivemix": {"golden": "implus/RecursiveMix-pytorch, utils.py recursive_mix", "mixes": False, "mask": False},
    "regmixup": {
        "golden": "FrancescoPinto/RegMixup, regmixup_criterion",
        "mask": False,
        "identity": {"base": {"name": "mixup", "alpha": 0.0}},
    },
    "remix": {
        "mask": False,
        "keeps_drawn_lam": True,
        "shared_lam": False,  # some rows get lam 0 or 1
        "identity": {"base": {"name": "mixup", "alpha": 0.0}},
        "golden": "the paper's equation, pair by pair; the authors have no public code",
    },
    "resizemix": {"golden": "JayQine/ResizeMix, run_apis/trainer.py Trainer", "geometric": True},
    "saliencymix": {
        "golden": "afm-shahab-uddin/SaliencyMix, SaliencyMix_CIFAR/saliencymix.py saliency_bbox",
        "identity": {"alpha": 0.0},
        "rolls": False,
    },
    "samix": {"golden": "Westlake-AI/openmixup, PixelMixBlock", **LEARNED},
    "smmix": {
        "golden": "ChenMnZ/SMMix, SMMix and engine.py",
        "nets": ("vit",),
        "geometric": True,  # moves a window
        "rolls": False,  # partners are the flipped batch
        "gradient": "method",
        "loss_call": 0,
        "sizes": ((12, 20), (20, 8)),
    },
    "smoothmix": {
        "golden": "Westlake-AI/openmixup, augments/smoothmix.py smoothmix",
    },
    "snapmix": {
        "golden": "Shaoli-Huang/SnapMix, utils/mixmethod.py snapmix",
        "nets": ("cnn",),
        "identity": {"alpha": 0.0},
        "geometric": True,
        "keeps_drawn_lam": True,  # weights are shares of the semantic map, not of pixels
        "shared_lam": False,
    },
    "sumix": {
        "golden": "JinXins/SUMix, ClsUncertainMixupHead.IN_loss",
        "gradient": "method",
        "plain_loss": False,  # the uncertainty loss is added
        "identity": {"base": {"name": "cutmix", "alpha": 0.0}},
        "loss_call": 0,
    },
    "supermix": {
        "args": {"teacher": None, "iterations": 2, "only_success": False},
        "keeps_drawn_lam": True,
        "golden": "alldbi/SuperMix, supermix.py mix_batch",
    },
    "tokenmix": {
        "golden": "Sense-X/TokenMix, generate_mask and Mixup",
        "nets": ("vit",),
        "sizes": ((12, 20), (20, 8)),
        "keeps_drawn_lam": True,  # weights are shares of attention
        "shared_lam": False,
        "identity": {"ratio": 0.0},
    },
    "tlalign": {
        "golden": "Euphoria16/TL-Align, TL_AlignMix and Block",
        "nets": ("vit",),
        "identity": {"alpha": 0.0},
        "small": (16, 16),  # sides of boxes are even numbers of patches
    },
    "transmix": {
        "golden": "Beckschen/TransMix, Mixup_transmix",
        "nets": ("vit",),
        "identity": {"base": {"name": "cutmix", "alpha": 0.0}},
    },
}


def row(name: str) -> dict:
    """The row of method `name`, with defaults."""
    if name not in ROWS:
        raise LookupError(f"There is no row for {name!r}: add one to tests/methods/rows.py.")
    unknown = ROWS[name].keys() - DEFAULTS.keys()
    if unknown:
        raise LookupError(f"Row {name!r} has unknown entries {sorted(unknown)}. Known: {sorted(DEFAULTS)}.")
    return DEFAULTS | ROWS[name]
