"""From notebooks to the website."""
