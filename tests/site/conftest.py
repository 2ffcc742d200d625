"""What the tests of the site share."""

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project, worked in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
