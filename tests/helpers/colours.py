"""Colour profiles that tests share, made from numbers."""

import struct

import numpy as np

# Columns: XYZ of the primaries under D50 (Display P3 and sRGB, each adapted).
WIDE = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries=WIDE, gamma: float = 2.2) -> bytes:
    """An ICC profile (version 2, matrix and curves) of an RGB space."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    def curve(x: float) -> bytes:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(x * 256)) + bytes(2)

    text = b"text" + bytes(4) + b"test\0" + bytes(3)
    desc = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": desc, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    for name, xyz in zip(b"rgb", np.array(primaries), strict=True):
        letter = bytes([name])
        tags[letter + b"XYZ"] = b"XYZ " + bytes(4) + fixed(*xyz)
        tags[letter + b"TRC"] = curve(gamma)
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(
        ">I4sI4s4s4s", 128 + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + body
