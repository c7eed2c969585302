"""The files of a run folder, and what each is."""

LAST, BEST, STATE, RECIPE = "model.safetensors", "best.safetensors", "state.pt", "recipe.toml"
METRICS = "metrics.jsonl"

MEANINGS = {
    LAST: (
        "the last weights, after `finetune` those of the lowest validation error; with mean, preprocessing, class "
        "names and origin"
    ),
    BEST: "those of the epoch with the lowest validation error",
    STATE: "all that `--resume` needs; plain data, which `torch.load(weights_only=True)` reads",
    RECIPE: "every key of the recipe with its value",
    METRICS: "what was measured, below",
}
NAMES = tuple(MEANINGS)  # a folder with any of them holds a run
