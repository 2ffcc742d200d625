"""What all tests share."""


def pytest_collectstart(collector):
    """nbval compares what the outputs say, not the pixels of figures: a vector image names its parts anew each time."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("image/svg+xml", "application/papermill.record/image/png")
