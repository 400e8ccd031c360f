# SPDX-License-Identifier: MIT OR Apache-2.0
"""Blowfish in CBC mode with the container of the reference's section 6, written from the cipher's description only.

The tables of the cipher are the digits of pi, which are computed here. Slow, and independent of what is tested.
"""


def _arctangent(inverse, one):
    term = total = one // inverse
    square, divisor, sign = inverse * inverse, 1, 1
    while term:
        term //= square
        divisor += 2
        sign = -sign
        total += sign * (term // divisor)
    return total


def _words_of_pi(count):
    """The first 32-bit words of pi's fraction."""
    bits = 32 * count + 64
    one = 1 << bits
    pi = 4 * (4 * _arctangent(5, one) - _arctangent(239, one))
    fraction = (pi & (one - 1)) >> 64
    return [(fraction >> (32 * (count - 1 - place))) & 0xFFFFFFFF for place in range(count)]


_PI = _words_of_pi(18 + 4 * 256)


class Blowfish:
    def __init__(self, key):
        self.subkeys = _PI[:18]
        self.boxes = [_PI[18 + 256 * box : 18 + 256 * (box + 1)] for box in range(4)]
        for place in range(18):
            word = 0
            for byte in range(4):
                word = word << 8 | key[(4 * place + byte) % len(key)]
            self.subkeys[place] ^= word
        left = right = 0
        for table in (self.subkeys, *self.boxes):
            for place in range(0, len(table), 2):
                left, right = self._rounds(left, right, self.subkeys)
                table[place : place + 2] = left, right

    def _rounds(self, left, right, subkeys):
        first, second, third, fourth = self.boxes
        for subkey in subkeys[:16]:
            left ^= subkey
            mixed = (first[left >> 24] + second[left >> 16 & 255]) & 0xFFFFFFFF
            right ^= ((mixed ^ third[left >> 8 & 255]) + fourth[left & 255]) & 0xFFFFFFFF
            left, right = right, left
        left, right = right, left
        return left ^ subkeys[17], right ^ subkeys[16]

    def encrypt(self, block):
        words = self._rounds(int.from_bytes(block[:4], "big"), int.from_bytes(block[4:], "big"), self.subkeys)
        return b"".join(word.to_bytes(4, "big") for word in words)

    def decrypt(self, block):
        turned = self.subkeys[::-1]
        words = self._rounds(int.from_bytes(block[:4], "big"), int.from_bytes(block[4:], "big"), turned)
        return b"".join(word.to_bytes(4, "big") for word in words)


def _xor(one, other):
    return bytes(a ^ b for a, b in zip(one, other))


def encrypt(plain, password, initial, padding):
    """The container of a text, with the initial vector and the padding given."""
    cipher, last, out = Blowfish(password), initial, [initial]
    padded = plain + padding
    for place in range(0, len(padded), 8):
        last = cipher.encrypt(_xor(padded[place : place + 8], last))
        out.append(last)
    return b"".join(out)


def decrypt(container, password):
    """The text of a container, and its flag byte."""
    cipher, out = Blowfish(password), []
    for place in range(8, len(container), 8):
        block = cipher.decrypt(container[place : place + 8])
        out.append(_xor(block, container[place - 8 : place]))
    padded = b"".join(out)
    flag = padded[-1]
    return padded[: len(padded) - (flag % 8 or 8)], flag
