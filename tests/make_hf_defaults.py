"""Make mapping/families/hf_defaults.json.xz: what is meant by keys that a config.json lacks.

Run by hand, without TensorFlow, first with transformers 4.57.6 and then with the newest:

    python tests/make_hf_defaults.py

Of each model type, those of parts too: the keys that its config class or its models know, with
their defaults; those that transformers works out from others have none. Types and keys that a
transformers no longer has stay as they were; a default that changed is none.
"""

import ast
import inspect
import json
import lzma
import re
from pathlib import Path
from typing import Any

PACKED = Path(__file__).resolve().parents[1] / "mapping" / "families" / "hf_defaults.json.xz"
# Of the class of all configs, what decides what is computed.
COMMON = ("add_cross_attention", "is_decoder", "tie_word_embeddings")

# Keys that no config class has, but that models read.
READ = re.compile(
    r"""getattr\(\s*(?:self\.)?config,\s*"(\w+)",\s*(None|True|False|[\d.e-]+|"\w*")\s*\)"""
)


def of_class(kind: Any) -> dict[str, Any]:
    """The keys of a config class, and their defaults where they follow no other key."""
    from transformers import PretrainedConfig

    base = PretrainedConfig().to_dict().keys() - {*COMMON}
    config = kind()
    told = {
        name: each.default
        for parent in reversed(kind.__mro__)
        if "__init__" in vars(parent)
        for name, each in inspect.signature(parent.__init__).parameters.items()
    }
    found = {}
    for key, value in config.to_dict().items():
        if key in base and key not in told:
            continue
        is_told = key in COMMON or (key in told and told[key] == value)
        found[key] = [value] if is_told and not isinstance(value, dict) else []
    file = Path(inspect.getfile(kind))
    for code in file.parent.glob(file.name.replace("configuration_", "modeling_")):
        read = dict(READ.findall(code.read_text()))  # the last of several is that of the model
        found = {key: [ast.literal_eval(value)] for key, value in read.items()} | found
    return {"keys": found, "names": dict(kind.attribute_map)}


def parts(kind: Any) -> list[Any]:
    """A config class, and those of its parts."""
    inner = getattr(kind, "sub_configs", {}).values()
    return [kind, *(each for part in inner if hasattr(part, "sub_configs") for each in parts(part))]


def main() -> None:
    from transformers import CONFIG_MAPPING

    from tfreader.mapping.families import families
    from tfreader.mapping.families._hf_templates import classes, templates_for

    packed = json.loads(lzma.decompress(PACKED.read_bytes())) if PACKED.exists() else {}
    types = {one.model_type for name in classes() for one in templates_for(name)} | {*families()}
    known = [CONFIG_MAPPING[name] for name in sorted(types & {*CONFIG_MAPPING})]
    for kind in (each for one in known for each in parts(one) if each.model_type):
        try:
            made = of_class(kind)
        except ValueError as error:  # of composite ones, which have no defaults
            print(kind.__name__, error)
            continue
        old = packed.get(kind.model_type, {"keys": {}, "names": {}})
        for key, was in old["keys"].items():
            now = made["keys"].setdefault(key, was)
            if now and was and now != was:
                print(kind.model_type, key, was, now)
                made["keys"][key] = []
            else:
                made["keys"][key] = now or was
        made["names"] = old["names"] | made["names"]
        packed[kind.model_type] = made
    text = json.dumps(packed, sort_keys=True, separators=(",", ":"))
    PACKED.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(len(packed), "types,", PACKED.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
