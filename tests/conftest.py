"""What all tests share."""

LONGEST = "test_nbval"  # minutes: begun last, they would keep one process waiting for the other


def pytest_collectstart(collector):
    """nbval compares what the outputs say, not the pixels of figures: a vector image names its parts anew each time."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml", "image/webp", "application/papermill.record/image/png")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.path.name.startswith(LONGEST))
