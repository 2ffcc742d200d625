"""COCO 2014: photographs with outlines and boxes of objects of 80 classes."""

import json

from xai_repro.data.photographs import Record, existing, hard_labels, split_of
from xai_repro.data.readers.files import needed, reading
from xai_repro.data.readers.pictures import picture


class Coco:
    """The annotated photographs of `val2014` (splits "test" and "val") or `train2014` in the order of their numbers.

    Labels are the categories in the order of their ids, which have gaps: 1 is 0, 90 is 79. The pixels of a class are those of all its objects, crowds included. Images
    without any annotation are left out: they have no label, so that nothing of them could be explained.
    """

    multi_label = True

    def __init__(self, root, split):
        part = "train2014" if split_of("coco2014", split, ["test", "val", "train"]) == "train" else "val2014"
        needed("pycocotools.mask", "coco2014")  # said at once, rather than for each photograph
        self.folder = existing(existing(root, "coco2014") / part, "coco2014")
        self.file = existing(root / "annotations" / f"instances_{part}.json", "coco2014")
        with reading(self.file, "a COCO annotation"):
            tree = json.loads(self.file.read_bytes())
            categories = sorted(tree["categories"], key=lambda one: one["id"])
            self.classes = tuple(one["name"] for one in categories)
            self.label = {one["id"]: label for label, one in enumerate(categories)}
            self.objects = {}
            for one in tree["annotations"]:
                self.objects.setdefault(one["image_id"], []).append(one)
            self.images = sorted((one for one in tree["images"] if one["id"] in self.objects), key=lambda one: one["id"])
            if not self.images:
                raise ValueError("it annotates no image")

    def __len__(self):
        return len(self.images)

    def record(self, number):
        image = self.images[number]
        objects = self.objects[image["id"]]
        with reading(self.file, "a COCO annotation"):
            path, width, height = self.folder / image["file_name"], image["width"], image["height"]
            rows = [(self.label[one["category_id"]], x, y, x + w, y + h) for one in objects for x, y, w, h in [one["bbox"]]]
        labels = tuple(sorted({row[0] for row in rows}))

        def content():
            return path.read_bytes() + json.dumps(objects, sort_keys=True).encode()

        def regions():
            with reading(self.file, "a COCO annotation"):
                return {label: _pixels([one for one in objects if self.label[one["category_id"]] == label], height, width) for label in labels}

        return Record(lambda: picture(path), content, labels, path.stem, rows, regions, hard_labels(rows, labels, width, height))


def _pixels(objects, height, width):
    """Whether a pixel belongs to any of these objects: bool [H,W]."""
    coding = needed("pycocotools.mask", "coco2014")
    codes = []
    for one in objects:
        area = one["segmentation"]
        if isinstance(area, list):
            codes += coding.frPyObjects(area, height, width)  # polygons
        elif isinstance(area["counts"], list):
            codes += coding.frPyObjects([area], height, width)  # lengths of runs, as crowds have them
        else:
            codes.append(area)
    return coding.decode(coding.merge(codes)).astype(bool)
