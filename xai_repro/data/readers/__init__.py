"""Readers of real data sets: each knows how one of them lies on the disk.

A reader is made from a folder and a split; it has `classes` (names in the order of the labels), `multi_label`, a length and `record(i)`, a
`xai_repro.data.photographs.Record`. A folder that lacks something is refused by the name of the file.
"""

from xai_repro.data.readers.arrays import Cifar100, Stl10
from xai_repro.data.readers.coco import Coco
from xai_repro.data.readers.cub import Cub
from xai_repro.data.readers.folders import CatsDogs, UcMerced
from xai_repro.data.readers.free import Free
from xai_repro.data.readers.imagenet import Samples, Validation
from xai_repro.data.readers.segmented import ImagenetSeg
from xai_repro.data.readers.voc import Voc

READERS = {
    "imagenet": Validation, "imagenet-samples": Samples, "voc2007": Voc, "coco2014": Coco, "cub": Cub, "ucmerced": UcMerced, "stl10": Stl10, "cifar100": Cifar100,
    "catsdogs": CatsDogs, "imagenet-seg": ImagenetSeg, "free-photographs": Free,
}  # fmt: skip
