"""The rows that `lesionpipe ablation` trains: what each sets, and with which other row a table compares it."""

PAPER_SWITCHES = ("anchors.use", "network.levels", "network.mask_branch", "network.attention")


def _switches(*words: str, **further: str) -> dict[str, str]:
    """The four switches of the paper's table, and further parameters (`masks__method` for masks.method)."""
    return dict(zip(PAPER_SWITCHES, words, strict=True)) | {n.replace("__", "."): w for n, w in further.items()}


# Row -> parameters as words of YAML. What a row does not name is as in params.yaml.
ROWS: dict[str, dict[str, str]] = {
    "original": _switches("default", "P3-P7", "false", "false"),
    "anchor-optimisation": _switches("searched", "P3-P7", "false", "false"),
    "dense-supervision": _switches("searched", "P2-P6", "true", "false"),
    "attention-gate": _switches("searched", "P2-P6", "true", "true"),
    "p2-default-anchors": _switches("default", "P2-P6", "false", "false"),
    "p2": _switches("searched", "P2-P6", "false", "false"),
    "masks-uncalibrated": _switches("searched", "P2-P6", "true", "false", detect__calibrate="false"),
    "gates-pyramid": _switches("searched", "P2-P6", "true", "pyramid"),
    "gates-mask": _switches("searched", "P2-P6", "true", "mask"),
    "gates-uncalibrated": _switches("searched", "P2-P6", "true", "true", detect__calibrate="false"),
    "trimap-paper": _switches("searched", "P2-P6", "true", "true", masks__background_ellipse_factor="null"),
    "ellipses": _switches("searched", "P2-P6", "true", "true", masks__method="ellipse"),
}
Table = dict[str, str | None]  # row, in the order of the lines -> the row that it is compared with
# The paper's Table 1: each row with the one before.
PAPER: Table = {
    "original": None,
    "anchor-optimisation": "original",
    "dense-supervision": "anchor-optimisation",
    "attention-gate": "dense-supervision",
}
# What the paper moves at once, told apart; in the order in which they are run.
FINER: Table = {
    "original": None,
    "anchor-optimisation": "original",
    "p2": "anchor-optimisation",  # P2 alone
    "masks-uncalibrated": "p2",  # masks alone
    "dense-supervision": "masks-uncalibrated",  # calibration alone
    "gates-pyramid": "dense-supervision",
    "gates-mask": "dense-supervision",
    "attention-gate": "dense-supervision",
    "gates-uncalibrated": "attention-gate",
    "trimap-paper": "attention-gate",
    "ellipses": "attention-gate",
    "p2-default-anchors": "p2",
}
