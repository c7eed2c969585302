"""From a user's DATA to batches: `layouts` finds what it is, `pictures` decodes, `loader` orders and slices."""
