"""Write tfreader/checkpoint_pb2.py (and its type stub) from proto/checkpoint.proto.

protoc's own Python output refuses any protobuf runtime older than itself. This module embeds the
serialized file descriptor instead, which every runtime from 4.25 on loads. Run it with `make
proto`; protoc comes from the development dependency grpcio-tools.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "proto" / "checkpoint.proto"

TEMPLATE = '''# Generated from proto/checkpoint.proto by proto/generate.py. Do not edit.
"""Protobuf messages of TensorFlow checkpoint files."""

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
{chunks}
)

builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "tfreader.checkpoint_pb2", globals())
'''


def generate(output: Path) -> None:
    """Write checkpoint_pb2.py and checkpoint_pb2.pyi into the folder `output`."""
    with tempfile.TemporaryDirectory() as temporary:
        descriptors = Path(temporary) / "descriptors"
        arguments = ["protoc", f"-I{SOURCE.parent}", f"--descriptor_set_out={descriptors}"]
        if protoc.main([*arguments, f"--pyi_out={output}", str(SOURCE)]) != 0:
            raise SystemExit("protoc failed")
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    file.name = "tfreader/checkpoint.proto"  # the pool is shared by the whole process
    serialized = file.SerializeToString(deterministic=True)
    chunks = [serialized[i : i + 20] for i in range(0, len(serialized), 20)]
    body = "\n".join(f"    {chunk!r}" for chunk in chunks)
    (output / "checkpoint_pb2.py").write_text(TEMPLATE.format(chunks=body))


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tfreader")
