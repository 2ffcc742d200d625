"""Fetch TorchRay's four networks (VGG-16 and ResNet-50, fitted to VOC and to COCO), verify them, and put them where the library looks.

python data_scripts/fetch_torchray.py            what is missing
python data_scripts/fetch_torchray.py --check    say what is there, verify it, and fetch nothing
"""

import typer

from xai_repro.data.fetching import Check, script


def main(check: Check = False):
    """Fetch TorchRay's networks, verify them, and convert them to .safetensors."""
    script("torchray", check=check)


if __name__ == "__main__":
    typer.run(main)
