// Dynamic depthwise convolution, O = sum_k a_k Conv_k(X) with one group per channel, for a CPU.
//
// Each channel has one filter, so there is no matrix to multiply: a pixel of the output is a sum over the kernel's taps,
// the same for all channels, which lie side by side and fill a vector. For each image the experts are mixed first,
// W = sum_k a_k W_k, one number per tap and channel, which costs next to nothing. The gradients:
//     dX      a sum over taps as well, of dY, each tap the other way round;
//     G       = sum over pixels of X dY, tap by tap: the gradient that an image's mixed kernel would have;
//     dW_k    += a_k G and da_k = <G, W_k> follow.
//
// Any kernel, stride, padding and dilation, as many output as input channels. float32, and bf16 with sums in float32.
//
// The threads share rows (forward, dX) or images (dW), split statically, and what they sum separately is added in a
// fixed order: the results have the same bits for one number of threads.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C channels, K experts; R x S the output's size, I x J the kernel's
//     x [N,H,W,C]  y [N,R,S,C]  a [N,K]  w [K,C,I,J]
//     P = C rounded up to whole vectors; mixed kernels [N,I,J,P], experts as they are mixed [K,I,J,P]

#include "workspace.h"

#include <algorithm>
#include <cstring>
#include <omp.h>
#include <vector>

namespace {

#define INLINE inline __attribute__((always_inline))
#ifdef __AVX512F__
constexpr int64_t VL = 16;
#else
constexpr int64_t VL = 8;
#endif
typedef float Vec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * VL), aligned(2), may_alias));

struct bf16 {
    uint16_t bits;
};

// Up to VL numbers of an array; beyond `count` zeros.
INLINE Vec load(const float *p, int64_t count) {
    if (count >= VL) return *reinterpret_cast<const Vec *>(p);
    Vec v{};
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
}
INLINE Vec load(const bf16 *p, int64_t count) {
    Halves halves{};
    if (count >= VL)
        halves = *reinterpret_cast<const Halves *>(p);
    else
        for (int64_t i = 0; i < count; ++i) halves[i] = p[i].bits;
    const Bits all = __builtin_convertvector(halves, Bits) << 16;
    Vec v;
    std::memcpy(&v, &all, sizeof v);
    return v;
}
INLINE void store(float *p, Vec v, int64_t count) {
    if (count >= VL)
        *reinterpret_cast<Vec *>(p) = v;
    else
        for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}
INLINE void store(bf16 *p, Vec v, int64_t count) {
    Bits all;
    std::memcpy(&all, &v, sizeof all);
    const Bits rounded = (all + 0x7fff + (all >> 16 & 1)) >> 16;  // ties to even
    const Halves halves = __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0, Halves);
    if (count >= VL)
        *reinterpret_cast<Halves *>(p) = halves;
    else
        for (int64_t i = 0; i < count; ++i) p[i].bits = halves[i];
}
INLINE float number(float value) { return value; }
INLINE float number(bf16 value) { return load(&value, 1)[0]; }
INLINE void assign(float &to, float value) { to = value; }
INLINE void assign(bf16 &to, float value) { store(&to, Vec{} + value, 1); }

// One dimension of a sum over taps: for each position of the target the taps that reach a position of the source.
struct Axis {
    struct Tap {
        int64_t tap, from;
    };
    std::vector<Tap> taps;
    std::vector<int64_t> first;  // of each position, and the end of the last

    int64_t size() const { return int64_t(first.size()) - 1; }

    // From an input to its output, or, turned, from the output's gradient to the input's.
    Axis(bool turned, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
        for (int64_t to = 0; to < (turned ? in : out); ++to) {
            first.push_back(int64_t(taps.size()));
            for (int64_t tap = 0; tap < kernel; ++tap) {
                const int64_t at = turned ? to + pad - tap * dilation : to * stride + tap * dilation - pad;
                if (turned && at % stride) continue;
                const int64_t from = turned ? at / stride : at;
                if (at >= 0 && from < (turned ? out : in)) taps.push_back({tap, from});
            }
        }
        first.push_back(int64_t(taps.size()));
    }
};

struct Shape {
    int64_t N, H, W, C, K, I, J, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int64_t R() const { return (H + 2 * pad_h - dilation_h * (I - 1) - 1) / stride_h + 1; }
    int64_t S() const { return (W + 2 * pad_w - dilation_w * (J - 1) - 1) / stride_w + 1; }
    int64_t P() const { return (C + VL - 1) / VL * VL; }
    int64_t taps() const { return I * J; }
    int64_t bank() const { return taps() * P(); }  // numbers of one expert
    Axis rows(bool turned) const { return Axis(turned, H, R(), I, stride_h, pad_h, dilation_h); }
    Axis columns(bool turned) const { return Axis(turned, W, S(), J, stride_w, pad_w, dilation_w); }
};

Pool pool;

// w [K,C,I,J] -> experts [K,I,J,P], zeros beyond C.
template <class Number> void arrange(const Shape &s, const Number *w, float *experts) {
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t tap = 0; tap < s.taps(); ++tap) {
            float *to = experts + k * s.bank() + tap * s.P();
            for (int64_t c = 0; c < s.C; ++c) to[c] = number(w[(k * s.C + c) * s.taps() + tap]);
            std::fill(to + s.C, to + s.P(), 0.f);
        }
}

// y = sum over taps of x: the convolution, or, turned, the input's gradient from the output's.
template <class Number>
void sum_over_taps(const Shape &s, bool turned, const Number *x, const float *experts, const float *a, Number *y) {
    const Axis rows = s.rows(turned), columns = s.columns(turned);
    const int64_t from_rows = turned ? s.R() : s.H, from_columns = turned ? s.S() : s.W;
    Loan workspace(pool, Workspace::size<float>(s.N * s.bank()));
    float *mixed = workspace.take<float>(s.N * s.bank());
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.N; ++n)
        for (int64_t i = 0; i < s.bank(); i += VL) {
            Vec sum{};
            for (int64_t k = 0; k < s.K; ++k)
                sum += a[n * s.K + k] * *reinterpret_cast<const Vec *>(experts + k * s.bank() + i);
            *reinterpret_cast<Vec *>(mixed + n * s.bank() + i) = sum;
        }
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < s.N * rows.size(); ++index) {
        const int64_t n = index / rows.size(), row = index % rows.size();
        const float *kernel = mixed + n * s.bank();
        for (int64_t c = 0; c < s.C; c += VL) {
            const int64_t count = s.C - c;
            for (int64_t column = 0; column < columns.size(); ++column) {
                Vec sum{};
                for (int64_t i = rows.first[row]; i < rows.first[row + 1]; ++i) {
                    const Number *line = x + (n * from_rows + rows.taps[i].from) * from_columns * s.C + c;
                    const float *weights = kernel + rows.taps[i].tap * s.J * s.P() + c;
                    for (int64_t j = columns.first[column]; j < columns.first[column + 1]; ++j)
                        sum += load(line + columns.taps[j].from * s.C, count) *
                               *reinterpret_cast<const Vec *>(weights + columns.taps[j].tap * s.P());
                }
                store(y + (index * columns.size() + column) * s.C + c, sum, count);
            }
        }
    }
}

// g [I,J,P]: for each tap and channel, the sum over the output's pixels of x dy, of one image.
template <class Number>
void gradient_of_mixed(const Shape &s, const Axis &rows, const Number *x, const Number *dy, float *g) {
    std::fill(g, g + s.bank(), 0.f);
    for (int64_t c = 0; c < s.C; c += VL) {
        const int64_t count = s.C - c;
        for (int64_t row = 0; row < rows.size(); ++row)
            for (int64_t i = rows.first[row]; i < rows.first[row + 1]; ++i) {
                const Number *line = x + rows.taps[i].from * s.W * s.C + c;
                const Number *gradients = dy + row * s.S() * s.C + c;
                float *sums = g + rows.taps[i].tap * s.J * s.P() + c;
                for (int64_t j = 0; j < s.J; ++j) {
                    // The columns of the output whose tap j meets the input.
                    const int64_t shift = j * s.dilation_w - s.pad_w;
                    const int64_t first = shift >= 0 ? 0 : (-shift + s.stride_w - 1) / s.stride_w;
                    const int64_t last = s.W - 1 - shift < 0 ? -1 : std::min(s.S() - 1, (s.W - 1 - shift) / s.stride_w);
                    Vec sum{}, other{};
                    int64_t column = first;
                    for (; column < last; column += 2) {  // two sums: one would wait for itself
                        const Number *here = line + (column * s.stride_w + shift) * s.C;
                        sum += load(here, count) * load(gradients + column * s.C, count);
                        other += load(here + s.stride_w * s.C, count) * load(gradients + (column + 1) * s.C, count);
                    }
                    if (column == last)
                        sum += load(line + (column * s.stride_w + shift) * s.C, count) *
                               load(gradients + column * s.C, count);
                    *reinterpret_cast<Vec *>(sums + j * s.P()) += sum + other;
                }
            }
    }
}

template <class Number>
void gradient_of_experts(const Shape &s, const Number *x, const float *experts, const float *a, const Number *dy,
                         Number *dw, float *da) {
    const Axis rows = s.rows(false);
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), s.N));
    Loan workspace(pool, Workspace::size<float>(threads * s.K * s.bank()) + Workspace::size<float>(threads * s.bank()));
    float *sums = workspace.take<float>(threads * s.K * s.bank()), *all_g = workspace.take<float>(threads * s.bank());
    std::fill(sums, sums + threads * s.K * s.bank(), 0.f);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t thread = 0; thread < threads; ++thread) {
        float *g = all_g + thread * s.bank(), *own = sums + thread * s.K * s.bank();
        for (int64_t n = thread * s.N / threads; n < (thread + 1) * s.N / threads; ++n) {
            gradient_of_mixed(s, rows, x + n * s.H * s.W * s.C, dy + n * s.R() * s.S() * s.C, g);
            for (int64_t k = 0; k < s.K; ++k) {
                const float weight = a[n * s.K + k];
                Vec dots{};
                for (int64_t i = 0; i < s.bank(); i += VL) {
                    const Vec here = *reinterpret_cast<const Vec *>(g + i);
                    *reinterpret_cast<Vec *>(own + k * s.bank() + i) += weight * here;
                    dots += here * *reinterpret_cast<const Vec *>(experts + k * s.bank() + i);
                }
                float sum = 0;
                for (int64_t lane = 0; lane < VL; ++lane) sum += dots[lane];
                da[n * s.K + k] = sum;
            }
        }
    }
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t tap = 0; tap < s.taps(); ++tap)
            for (int64_t c = 0; c < s.C; ++c) {
                float sum = 0;
                for (int64_t thread = 0; thread < threads; ++thread)
                    sum += sums[(thread * s.K + k) * s.bank() + tap * s.P() + c];
                assign(dw[(k * s.C + c) * s.taps() + tap], sum);
            }
}

template <class Fn> int guarded(Fn f) {
    try {
        f();
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

template <class Number> int forward(const Shape &s, const Number *x, const Number *w, const float *a, Number *y) {
    return guarded([&] {
        Loan workspace(pool, Workspace::size<float>(s.K * s.bank()));
        float *experts = workspace.take<float>(s.K * s.bank());
        arrange(s, w, experts);
        sum_over_taps(s, false, x, experts, a, y);
    });
}

template <class Number>
int backward(const Shape &s, const Number *x, const Number *w, const float *a, const Number *dy, Number *dx, Number *dw,
             float *da) {
    return guarded([&] {
        Loan workspace(pool, Workspace::size<float>(s.K * s.bank()));
        float *experts = workspace.take<float>(s.K * s.bank());
        arrange(s, w, experts);
        if (dx) sum_over_taps(s, true, dy, experts, a, dx);
        if (dw) gradient_of_experts(s, x, experts, a, dy, dw, da);
    });
}

}  // namespace

// The interface to Python: `Number` is float or bf16; arrays as described at the top. Each returns 0, or 1 where there
// is not enough memory.
#define SHAPE                                                                                                          \
    int64_t N, int64_t H, int64_t W, int64_t C, int64_t K, int64_t I, int64_t J, int64_t stride_h, int64_t stride_w,   \
        int64_t pad_h, int64_t pad_w, int64_t dilation_h, int64_t dilation_w
#define OPERATORS(NAME, Number)                                                                                        \
    extern "C" int dynconv_depthwise_forward_##NAME(SHAPE, const Number *x, const Number *w, const float *a,           \
                                                    Number *y) {                                                       \
        const Shape s{N, H, W, C, K, I, J, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};                  \
        return forward(s, x, w, a, y);                                                                                 \
    }                                                                                                                  \
    extern "C" int dynconv_depthwise_backward_##NAME(SHAPE, const Number *x, const Number *w, const float *a,          \
                                                     const Number *dy, Number *dx, Number *dw, float *da) {            \
        const Shape s{N, H, W, C, K, I, J, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w};                  \
        return backward(s, x, w, a, dy, dx, dw, da);                                                                   \
    }
OPERATORS(float32, float)
OPERATORS(bfloat16, bf16)

// Frees what is kept for the next calls.
extern "C" void dynconv_depthwise_release() { pool.release(); }

// The memory kept for the next calls and used by calls in progress.
extern "C" int64_t dynconv_depthwise_workspace_bytes() { return pool.bytes(); }
