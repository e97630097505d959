// The sum over all pixels of each channel of bfloat16 maps, in float32, for a CPU: what the router's average needs.
//
// torch converts a whole map to float32 before it sums; this reads it once. Channels lie side by side, so vectors of
// them are added up in registers. The threads share images, and each sum is of one thread, in one order.
//
//     x [N,P,C] images, pixels, channels    sums [N,C]

#include <algorithm>
#include <cstdint>

#include "bfloat16.h"

namespace {

constexpr int64_t BLOCK = 64;    // channels at once: four registers of AVX-512, eight of AVX2
constexpr int64_t PIXELS = 256;  // whose sum is added to the total: summed one by one, a large map loses digits

// COUNT neighbouring channels of one image, whose sums stay in registers.
template <int64_t COUNT> void add_up(int64_t P, int64_t C, const uint16_t *x, float *to) {
    std::fill(to, to + COUNT, 0.f);
    for (int64_t first = 0; first < P; first += PIXELS) {
        float sums[COUNT] = {};
        for (int64_t pixel = first; pixel < std::min(P, first + PIXELS); ++pixel, x += C)
            for (int64_t c = 0; c < COUNT; ++c) sums[c] += widened(x[c]);
        for (int64_t c = 0; c < COUNT; ++c) to[c] += sums[c];
    }
}

// All channels of one image from `c` on, in blocks of COUNT, then of half as many.
template <int64_t COUNT> void add_up_from(int64_t c, int64_t P, int64_t C, const uint16_t *x, float *to) {
    for (; c + COUNT <= C; c += COUNT) add_up<COUNT>(P, C, x + c, to + c);
    if constexpr (COUNT > 1) add_up_from<COUNT / 2>(c, P, C, x, to);
}

}  // namespace

// Returns 0, as an operator that finds the memory it needs.
extern "C" int dynconv_pixel_sum_bfloat16(int64_t N, int64_t P, int64_t C, const uint16_t *x, float *sums) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; ++n) add_up_from<BLOCK>(0, P, C, x + n * P * C, sums + n * C);
    return 0;
}

// It keeps no memory for the next calls.
extern "C" void dynconv_pixel_sum_release() {}
extern "C" int64_t dynconv_pixel_sum_workspace_bytes() { return 0; }
