// bfloat16 numbers, held as uint16_t, and float: so that a kernel is written once for both.

#pragma once

#include <cstdint>
#include <cstring>

inline float widened(float value) { return value; }
inline float widened(uint16_t bfloat16) {
    const uint32_t bits = uint32_t(bfloat16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class Number> Number narrowed(float value);
template <> inline float narrowed<float>(float value) { return value; }
// To the nearest, of two the even one; not-a-number stays one.
template <> inline uint16_t narrowed<uint16_t>(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return uint16_t(value != value ? 0x7fc0 : rounded);
}
