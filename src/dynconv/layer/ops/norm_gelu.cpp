// What follows the convolution of a block while it trains: max pooling, batch normalisation and GELU, for a CPU.
//
// One after another, these read and write a map again and again, and torch's pooling keeps eight bytes for each number
// that it passes on. Here the pooled map is written once, with one byte for each number, its sums are taken on
// the way, and what the backward pass needs of GELU is computed again from it:
//
//     pool      p = max over K x K of x, which of them;  sums of p                    one pass over x
//     apply     y = GELU(scale p + shift)                                             one pass over p
//     gradient  dz = dy GELU'(scale p + shift);  sums of dz and of dz p               one pass over p and dy
//               dx = scale (dz - mean dz - (p - mean) / variance mean(dz (p - mean)))  one pass over p and dz
//
// Channels lie side by side, so all loops over them become vectors. Images are cut into chunks of a fixed number, whose
// sums are added up in their order: so the result does not depend on the number of threads.
//
//     x, dx [N,H,W,C]    p, which, y, dy, dz [N,H/K,W/K,C]    all per-channel arrays float32 [C]
//
// Numbers are float or bfloat16 (as uint16_t); sums and all arithmetic are in float, those over chunks in double.

#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "bfloat16.h"

namespace {

constexpr int64_t CHUNK = 4;    // images whose sums are taken together
constexpr int64_t BLOCK = 32;   // channels at once, whose sums stay in registers
constexpr int64_t PIXELS = 64;  // whose sums are added to the chunk's: summed one by one, many numbers lose digits

// e^v for v <= 0: 2^n e^r with |r| <= ln 2 / 2, by the series of e^r. Below -87 it is that of -87, about 1e-38.
inline float exponential(float v) {
    v = v < -87.f ? -87.f : v;
    const float n = std::floor(v * 1.44269504f + 0.5f);
    const float r = (v - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    const float series =
        1.f + r * (1.f + r * (0.5f + r * (1.f / 6 + r * (1.f / 24 + r * (1.f / 120 + r * (1.f / 720))))));
    const int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

// The normal distribution's Phi(z) and, in `density`, phi(z). By Abramowitz and Stegun 7.1.26, whose error is below
// 1.5e-7; for negative z without the subtraction from 1, so small values keep their digits.
inline float normal(float z, float &density) {
    const float magnitude = std::fabs(z) * 0.70710678f;
    const float bell = exponential(-magnitude * magnitude);
    const float t = 1.f / (1.f + 0.3275911f * magnitude);
    const float tail = 0.5f * bell * t *
                       (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    density = 0.39894228f * bell;
    return z < 0 ? tail : 1.f - tail;
}

struct Shape {
    int64_t N, H, W, C, K;
    int64_t pixels() const { return (H / K) * (W / K); }  // of a pooled image
    int64_t chunks() const { return (N + CHUNK - 1) / CHUNK; }
};

// Calls work(chunk, first image, image after the last) for all chunks, each in one thread.
template <class Work> void for_chunks(const Shape &s, const Work &work) {
#pragma omp parallel for schedule(static)
    for (int64_t chunk = 0; chunk < s.chunks(); ++chunk)
        work(chunk, chunk * CHUNK, std::min(s.N, (chunk + 1) * CHUNK));
}

// The maxima of one pooled row, and, unless it is null, which of the K x K each is, counted row by row. As torch's: the first of equal ones,
// and not-a-number where there is one.
template <class Number> void pool_row(const Shape &s, const Number *x, Number *p, uint8_t *which) {
    for (int64_t column = 0; column < s.W / s.K; ++column) {
        const Number *corner = x + column * s.K * s.C;
        Number *to = p + column * s.C;
        uint8_t *place = which ? which + column * s.C : nullptr;
        std::copy(corner, corner + s.C, to);
        if (which) std::fill(place, place + s.C, uint8_t(0));
        for (int64_t k = 1; k < s.K * s.K; ++k) {
            const Number *from = corner + ((k / s.K) * s.W + k % s.K) * s.C;
            const auto better = [](float value, float best) { return (value > best) | (value != value); };
            if (which) {
#pragma omp simd
                for (int64_t c = 0; c < s.C; ++c)
                    place[c] = better(widened(from[c]), widened(to[c])) ? uint8_t(k) : place[c];
            }
#pragma omp simd
            for (int64_t c = 0; c < s.C; ++c) to[c] = better(widened(from[c]), widened(to[c])) ? from[c] : to[c];
        }
    }
}

// Adds the sums over `count` pixels of two functions of each number, told by value(pixel, channel, first, second).
template <int64_t WIDTH, class Value>
void add_up(int64_t count, int64_t c, double *first, double *second, const Value &value) {
    for (int64_t start = 0; start < count; start += PIXELS) {
        float a[WIDTH] = {}, b[WIDTH] = {};
        for (int64_t pixel = start; pixel < std::min(count, start + PIXELS); ++pixel)
#pragma omp simd
            for (int64_t i = 0; i < WIDTH; ++i) {
                float one, other;
                value(pixel, c + i, one, other);
                a[i] += one, b[i] += other;
            }
        for (int64_t i = 0; i < WIDTH; ++i) first[c + i] += a[i], second[c + i] += b[i];
    }
}

template <class Value> void add_up(int64_t count, int64_t C, double *first, double *second, const Value &value) {
    int64_t c = 0;
    for (; c + BLOCK <= C; c += BLOCK) add_up<BLOCK>(count, c, first, second, value);
    for (; c + 8 <= C; c += 8) add_up<8>(count, c, first, second, value);
    for (; c < C; ++c) add_up<1>(count, c, first, second, value);
}

// The sums over all chunks of what each has written, [chunks][2][C].
std::vector<double> total(const Shape &s, const std::vector<double> &sums) {
    std::vector<double> found(2 * s.C, 0.0);
    for (int64_t chunk = 0; chunk < s.chunks(); ++chunk)
        for (int64_t c = 0; c < 2 * s.C; ++c) found[c] += sums[chunk * 2 * s.C + c];
    return found;
}

// `which` may be null, and `mean` and `variance`, which nobody needs after training.
template <class Number>
void pool(const Shape &s, const Number *x, Number *p, uint8_t *which, float *mean, float *variance) {
    std::vector<double> sums(s.chunks() * 2 * s.C, 0.0);
    const int64_t row = s.W / s.K * s.C;
    // Squares of the distance from some number of the channel, so that little cancels.
    std::vector<float> origin(s.C);
    for (int64_t c = 0; c < s.C; ++c) origin[c] = widened(x[c]);
    for_chunks(s, [&](int64_t chunk, int64_t begin, int64_t end) {
        double *first = sums.data() + chunk * 2 * s.C;
        for (int64_t n = begin; n < end; ++n) {
            const Number *from = x + n * s.H * s.W * s.C;
            if (s.K > 1) {
                for (int64_t y = 0; y < s.H / s.K; ++y) {
                    const int64_t at = (n * (s.H / s.K) + y) * row;
                    pool_row(s, x + (n * s.H + y * s.K) * s.W * s.C, p + at, which ? which + at : nullptr);
                }
                from = p + n * s.pixels() * s.C;
            }
            if (!mean) continue;
            const float *o = origin.data();
            add_up(s.pixels(), s.C, first, first + s.C, [=](int64_t pixel, int64_t c, float &one, float &other) {
                one = widened(from[pixel * s.C + c]) - o[c];
                other = one * one;
            });
        }
    });
    if (!mean) return;
    const std::vector<double> found = total(s, sums);
    const double count = double(s.N) * s.pixels();
    for (int64_t c = 0; c < s.C; ++c) {
        const double distance = found[c] / count;
        mean[c] = float(origin[c] + distance);
        variance[c] = float(std::max(0.0, found[s.C + c] / count - distance * distance));
    }
}

template <class Number>
void apply(const Shape &s, const Number *p, const float *scale, const float *shift, Number *y) {
    for_chunks(s, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t pixel = begin * s.pixels(); pixel < end * s.pixels(); ++pixel) {
            const Number *from = p + pixel * s.C;
            Number *to = y + pixel * s.C;
#pragma omp simd
            for (int64_t c = 0; c < s.C; ++c) {
                const float z = widened(from[c]) * scale[c] + shift[c];
                float density;
                to[c] = narrowed<Number>(z * normal(z, density));
            }
        }
    });
}

// Zeros what pooling has dropped of an image: the last rows and columns, fewer than K.
template <class Number> void clear_border(const Shape &s, Number *image) {
    const int64_t rows = s.H / s.K * s.K, columns = s.W / s.K * s.K;
    for (int64_t y = 0; y < s.H; ++y) {
        const int64_t from = y < rows ? columns : 0;
        std::fill(image + (y * s.W + from) * s.C, image + (y + 1) * s.W * s.C, Number(0));
    }
}

// dx may be null. dz is as large as p; without pooling it may be dx.
template <class Number>
void gradient(const Shape &s, const Number *p, const uint8_t *which, const Number *dy, const float *scale,
              const float *shift, const float *mean, const float *variance_eps, Number *dz, Number *dx, float *dshift) {
    std::vector<double> sums(s.chunks() * 2 * s.C, 0.0);
    const int64_t C = s.C;
    for_chunks(s, [&](int64_t chunk, int64_t begin, int64_t end) {
        double *first = sums.data() + chunk * 2 * C;
        for (int64_t n = begin; n < end; ++n) {
            const int64_t at = n * s.pixels() * C;
            add_up(s.pixels(), C, first, first + C, [=](int64_t pixel, int64_t c, float &one, float &other) {
                const int64_t i = at + pixel * C + c;
                const float value = widened(p[i]), z = value * scale[c] + shift[c];
                float density;
                const float inside = normal(z, density);
                one = widened(dy[i]) * (inside + z * density);
                other = one * (value - mean[c]);
                dz[i] = narrowed<Number>(one);
            });
        }
    });
    const std::vector<double> found = total(s, sums);
    const double count = double(s.N) * s.pixels();
    std::vector<float> constant(C), slope(C);
    for (int64_t c = 0; c < C; ++c) {
        dshift[c] = float(found[c]);
        slope[c] = float(found[C + c] / count / variance_eps[c]);
        constant[c] = float(found[c] / count) - slope[c] * mean[c];
    }
    if (!dx) return;
    for_chunks(s, [&](int64_t, int64_t begin, int64_t end) {
        const float *a = constant.data(), *b = slope.data();
        for (int64_t n = begin; n < end; ++n) {
            clear_border(s, dx + n * s.H * s.W * C);
            for (int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
                const int64_t at = (n * s.pixels() + pixel) * C;
                Number *corner = dx + ((n * s.H + pixel / (s.W / s.K) * s.K) * s.W + pixel % (s.W / s.K) * s.K) * C;
                if (s.K == 1) {
#pragma omp simd
                    for (int64_t c = 0; c < C; ++c)
                        corner[c] = narrowed<Number>(scale[c] * (widened(dz[at + c]) - a[c] - b[c] * widened(p[at + c])));
                    continue;
                }
                for (int64_t k = 0; k < s.K * s.K; ++k) {
                    Number *to = corner + ((k / s.K) * s.W + k % s.K) * C;
#pragma omp simd
                    for (int64_t c = 0; c < C; ++c) {
                        const float g = scale[c] * (widened(dz[at + c]) - a[c] - b[c] * widened(p[at + c]));
                        to[c] = which[at + c] == k ? narrowed<Number>(g) : Number(0);
                    }
                }
            }
        }
    });
}

// 0, or 1 where there is not enough memory.
template <class Work> int guarded(const Work &work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

}  // namespace

#define EXPORT(NAME, NUMBER)                                                                                           \
    extern "C" int dynconv_norm_gelu_pool_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t K,                \
                                                 const NUMBER *x, NUMBER *p, uint8_t *which, float *mean,             \
                                                 float *variance) {                                                    \
        return guarded([&] { pool(Shape{N, H, W, C, K}, x, p, which, mean, variance); });                              \
    }                                                                                                                  \
    extern "C" int dynconv_norm_gelu_apply_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t K,               \
                                                  const NUMBER *p, const float *scale, const float *shift,             \
                                                  NUMBER *y) {                                                         \
        return guarded([&] { apply(Shape{N, H, W, C, K}, p, scale, shift, y); });                                      \
    }                                                                                                                  \
    extern "C" int dynconv_norm_gelu_gradient_##NAME(                                                                  \
        int64_t N, int64_t H, int64_t W, int64_t C, int64_t K, const NUMBER *p, const uint8_t *which,                  \
        const NUMBER *dy, const float *scale, const float *shift, const float *mean, const float *variance_eps,       \
        NUMBER *dz, NUMBER *dx, float *dshift) {                                                                       \
        return guarded([&] {                                                                                           \
            gradient(Shape{N, H, W, C, K}, p, which, dy, scale, shift, mean, variance_eps, dz, dx, dshift);           \
        });                                                                                                            \
    }

EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)

// It keeps no memory for the next calls.
extern "C" void dynconv_norm_gelu_release() {}
extern "C" int64_t dynconv_norm_gelu_workspace_bytes() { return 0; }
