"""Seeing an episode: frames, pictures, recordings and the page that shows them."""
