"""The files of a run folder."""

LAST, BEST, STATE, RECIPE, METRICS = (
    "model.safetensors",
    "best.safetensors",
    "state.pt",
    "recipe.toml",
    "metrics.jsonl",
)


NAMES = (LAST, BEST, STATE, RECIPE, METRICS)  # a folder with any of them holds a run
