"""What must be said of DVM: what the authors' notebook does, and what is decided here."""

from __future__ import annotations

from gaal_fast.published.prepared import Note

STRATA = Note(
    "official",
    "The notebook stratifies the second split (train and validation) by labels in the order of"
    " the table while the adverts are already shuffled, so only the test part is stratified by"
    " class.",
)
ORDER = Note(
    "official",
    "Rows stand in the order that the first join had in pandas before 2.2: grouped by model and"
    " year of registration, by first appearance. This order decides labels and split.",
)
PUBLISHED_IDS = Note(
    "choice",
    "The parts are the lists of adverts that MMCL published (--ids), in their order; an advert that"
    " no list names is left out.",
)
NOTES = (
    Note(
        "official",
        "The nine numeric columns of the advert are standardized over the whole joined table,"
        " before models with fewer than 100 rows are left out and before the split: test rows shape"
        " the scale.",
    ),
    Note(
        "official",
        "Wheelbase, height, width and length are standardized in each part with that part's own"
        " mean and standard deviation, the test part too.",
    ),
    Note(
        "official",
        "Wheelbase, height, width and length carry a random whole number from -50 to 50 per advert"
        " (random.seed(2022), over all adverts of the extra table), and still nearly tell the"
        " model.",
    ),
    Note(
        "official",
        "The codes of color, body type, gearbox and fuel are numbered over the whole joined table,"
        " in alphabetical order.",
    ),
    Note(
        "choice",
        "The notebook calls three raw values wrong and fixed (height of 29_30, wheelbase of 59_29"
        " and 43_9), but no code of it fixes them: they stay as downloaded.",
    ),
    Note(
        "deviation",
        "The trainer standardizes the numeric columns again with the training rows' mean and"
        " standard deviation and gives an input to each category that the training rows have, not"
        " to all 22, 13, 3 and 12: an affine change of the authors' 63 inputs, without those that"
        " are always zero.",
    ),
    Note(
        "deviation",
        "An advert that is not in Ad_table (extra).csv is left out of table and labels alike; the"
        " notebook would keep its label and so shift all labels after it.",
    ),
    Note("deviation", "The low-data splits of 10% and 1% are not made."),
)
