"""What to say of two functions that are both called gelu, up to 5e-4 apart: see STORY."""

from __future__ import annotations

STORY = "docs/families.md#two-gelus"


def exact(key: str, as_in: str, tanh_of: str) -> str:
    """Of `gelu` by default. `as_in` has the exact function, `tanh_of` the other."""
    return (
        f"{key} = gelu, the exact one, as in {as_in}: nothing to do. For the outputs of {tanh_of}, "
        f"which compute the tanh form, add --set {key}=gelu_new ({STORY})"
    )


def asked(key: str) -> str:
    """Of `gelu` that was set, or is in a config of Hugging Face's, where the original has not."""
    return (
        f"{key} = gelu, the exact one, as the config says: nothing to do for a model that was "
        "trained so. The original computes the tanh form: for its outputs add "
        f"--set {key}=gelu_new ({STORY})"
    )


def tanh(key: str, off: str) -> str:
    """Of `gelu_new`, where Hugging Face's copies have gelu, by which they are `off`."""
    return (
        f"{key} = gelu_new, the tanh form, as the original computes it: nothing to do. Hugging "
        f"Face's copies say gelu ({off} off; {STORY})"
    )
