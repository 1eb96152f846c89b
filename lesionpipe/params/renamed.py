"""Parameters and values that had another name, so that an old `params.yaml` is answered with the new one."""

RENAMED = {  # old full name -> what to write instead
    "dataset.watch": "remove it; changes in an extracted folder are read with `dvc repro -f download`",
    "dataset.listing": "remove it; a table of archives with other addresses is now download.archives",
    "preprocess.size": "is now preprocess.image_size",
    "masks.margin": "is now masks.crop_margin",
    "masks.reach": "is now masks.background_ellipse_factor",
    "anchors.score": "is now anchors.objective (iou or focal); the former objective is anchors.placement",
    "train.batch": "is now train.batch_size",
    "train.drop_after": "is now train.lr_patience",
    "train.drop_factor": "is now train.lr_factor",
    "train.stop_after": "is now train.early_stopping_patience",
    "train.clip_norm": "is now train.gradient_clip_norm",
    "train.mask_weight": "is now train.mask_loss_weight",
    "detect.batch": "is now detect.batch_size",
    "detect.score_floor": "is now detect.score_threshold",
    "detect.candidates_per_level": "is now detect.topk_candidates",
    "detect.per_image": "is now detect.detections_per_image",
    "detect.mask_margin_px": "is now detect.recist_margin_px",
}
RENAMED_VALUES = {  # (full name, old value) -> what to write instead
    ("anchors.objective", old): "is now anchors.placement; anchors.objective is iou or focal (the former anchors.score)"
    for old in ("grid", "concentric")
}
