// Dynamic depthwise convolution, O = sum_k a_k Conv_k(X) with one group per channel, for a CPU.
//
// Each channel has one filter, so there is no matrix to multiply: a pixel of the output is a sum over the kernel's taps,
// the same for all channels, which lie side by side and fill a vector. For each image the experts are mixed first,
// W = sum_k a_k W_k, one number per tap and channel, which costs next to nothing. The gradients:
//     dX      a sum over taps as well, of dY, each tap the other way round;
//     G       = sum over pixels of X dY, tap by tap: the gradient that an image's mixed kernel would have;
//     dW_k    += a_k G and da_k = <G, W_k> follow.
//
// Rows of the input are widened to float32 and padded as they are needed, and stay in the first-level cache.
//
// Any kernel, stride, padding and dilation, as many output as input channels. float32, and bf16 with sums in float32.
//
// The threads share rows (forward, dX) or images (dW), split statically, and what they sum separately is added in a
// fixed order: the results have the same bits for one number of threads.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C channels, K experts; R x S the output's size, I x J the kernel's
//     x [N,H,W,C]  y [N,R,S,C]  a [N,K]  w [K,C,I,J]
//     BLOCK channels that are computed together, two vectors; P = C rounded up to whole blocks
//     mixed kernels [N,I,J,P], experts as they are mixed [K,I,J,P]

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
constexpr int64_t BLOCK = 2 * VL;
constexpr int64_t TOGETHER = 4;  // pixels of a row whose sums are in registers: two vectors each
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

// One dimension of an input's gradient: for each position of the input the taps by which outputs reached it.
struct Axis {
    struct Tap {
        int64_t tap, from;
    };
    std::vector<Tap> taps;
    std::vector<int64_t> first;  // of each position, and the end of the last

    Axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
        for (int64_t to = 0; to < in; ++to) {
            first.push_back(int64_t(taps.size()));
            for (int64_t tap = 0; tap < kernel; ++tap) {
                const int64_t at = to + pad - tap * dilation;
                if (at >= 0 && at % stride == 0 && at / stride < out) taps.push_back({tap, at / stride});
            }
        }
        first.push_back(int64_t(taps.size()));
    }
};

// One dimension of a convolution whose source is read row by row: output o, tap t reads o * stride + t * dilation - pad.
struct Step {
    int64_t in, out, kernel, stride, pad, dilation;
    int64_t span() const { return dilation * (kernel - 1) + 1; }
    int64_t columns() const { return ((out + TOGETHER - 1) / TOGETHER * TOGETHER - 1) * stride + span(); }
};

// The step from the output's gradient to the input's, at stride 1.
Step turned(const Step &s) { return {s.out, s.in, s.kernel, 1, s.dilation * (s.kernel - 1) - s.pad, s.dilation}; }

struct Shape {
    int64_t N, H, W, C, K, I, J, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int64_t R() const { return (H + 2 * pad_h - dilation_h * (I - 1) - 1) / stride_h + 1; }
    int64_t S() const { return (W + 2 * pad_w - dilation_w * (J - 1) - 1) / stride_w + 1; }
    int64_t P() const { return (C + BLOCK - 1) / BLOCK * BLOCK; }
    int64_t taps() const { return I * J; }
    int64_t bank() const { return taps() * P(); }  // numbers of one expert
    Step down() const { return {H, R(), I, stride_h, pad_h, dilation_h}; }
    Step across() const { return {W, S(), J, stride_w, pad_w, dilation_w}; }
    Axis rows() const { return Axis(H, R(), I, stride_h, pad_h, dilation_h); }
    Axis columns() const { return Axis(W, S(), J, stride_w, pad_w, dilation_w); }
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

// The rows of a map as float32, BLOCK channels of them, with zeros at the sides. The rows used last are kept.
template <class Number> class Lines {
    const Number *map_;
    int64_t height_, width_, C_, count_, left_, columns_, kept_;
    float *data_;
    std::vector<int64_t> held_;

  public:
    // count: channels of the block that there are; left: zeros before the first column; columns: zeros included.
    Lines(const Number *map, int64_t height, int64_t width, int64_t C, int64_t count, int64_t left, int64_t columns,
          int64_t kept, float *data)
        : map_(map), height_(height), width_(width), C_(C), count_(count), left_(left), columns_(columns), kept_(kept),
          data_(data), held_(kept, -1) {}
    static int64_t size(int64_t columns, int64_t kept) { return columns * kept * BLOCK; }
    bool has(int64_t row) const { return row >= 0 && row < height_; }
    const float *operator[](int64_t row) {
        float *line = data_ + row % kept_ * columns_ * BLOCK;
        if (held_[row % kept_] == row) return line;
        held_[row % kept_] = row;
        const int64_t first = std::clamp<int64_t>(left_, 0, columns_);
        const int64_t end = std::clamp<int64_t>(left_ + width_, first, columns_);
        std::fill(line, line + first * BLOCK, 0.f);
        std::fill(line + end * BLOCK, line + columns_ * BLOCK, 0.f);
        const Number *from = map_ + (row * width_ + first - left_) * C_;
        float *to = line + first * BLOCK;
        if (count_ >= BLOCK)
            for (int64_t column = first; column < end; ++column, from += C_, to += BLOCK)
                for (int64_t v = 0; v < BLOCK; v += VL) *reinterpret_cast<Vec *>(to + v) = load(from + v, VL);
        else
            for (int64_t column = first; column < end; ++column, from += C_, to += BLOCK)
                for (int64_t v = 0; v < BLOCK; v += VL)
                    *reinterpret_cast<Vec *>(to + v) = load(from + v, std::max<int64_t>(0, count_ - v));
        return line;
    }
};

// mixed [N,I,J,P] = sum_k a_k experts.
void mix(const Shape &s, const float *experts, const float *a, float *mixed) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < s.N; ++n)
        for (int64_t i = 0; i < s.bank(); i += VL) {
            Vec sum{};
            for (int64_t k = 0; k < s.K; ++k)
                sum += a[n * s.K + k] * *reinterpret_cast<const Vec *>(experts + k * s.bank() + i);
            *reinterpret_cast<Vec *>(mixed + n * s.bank() + i) = sum;
        }
}

// y = the convolution of x with mixed kernels; with `turned` ones it is the input's gradient at stride 1.
template <class Number>
void convolve(const Shape &s, const Step &h, const Step &w, bool turned, const Number *x, const float *mixed,
              Number *y) {
    const int64_t blocks = (s.C + BLOCK - 1) / BLOCK, threads = omp_get_max_threads();
    if (!s.N) return;
    const int64_t parts = std::min<int64_t>(h.out, std::max<int64_t>(1, threads / (s.N * blocks)));
    const int64_t own = Lines<Number>::size(w.columns(), h.span());
    Loan workspace(pool, Workspace::size<float>(threads * own));
    float *lines = workspace.take<float>(threads * own);
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < s.N * blocks * parts; ++index) {
        const int64_t n = index / (blocks * parts), c = index / parts % blocks * BLOCK, part = index % parts;
        const int64_t count = s.C - c;
        Lines<Number> rows(x + n * h.in * w.in * s.C + c, h.in, w.in, s.C, count, w.pad, w.columns(), h.span(),
                           lines + omp_get_thread_num() * own);
        for (int64_t r = part * h.out / parts; r < (part + 1) * h.out / parts; ++r)
            for (int64_t column = 0; column < w.out; column += TOGETHER) {
                Vec sums[TOGETHER][2] = {};
                for (int64_t i = 0; i < h.kernel; ++i) {
                    const int64_t from = r * h.stride + i * h.dilation - h.pad;
                    if (!rows.has(from)) continue;
                    const float *line = rows[from] + column * w.stride * BLOCK;
                    const int64_t tap_row = (turned ? h.kernel - 1 - i : i) * w.kernel;
                    for (int64_t j = 0; j < w.kernel; ++j, line += w.dilation * BLOCK) {
                        const int64_t tap = tap_row + (turned ? w.kernel - 1 - j : j);
                        const Vec *weights = reinterpret_cast<const Vec *>(mixed + (n * s.taps() + tap) * s.P() + c);
                        const Vec first = weights[0], second = weights[1];
#pragma GCC unroll 8
                        for (int64_t t = 0; t < TOGETHER; ++t) {
                            const Vec *here = reinterpret_cast<const Vec *>(line + t * w.stride * BLOCK);
                            sums[t][0] += first * here[0];
                            sums[t][1] += second * here[1];
                        }
                    }
                }
                Number *to = y + ((n * h.out + r) * w.out + column) * s.C + c;
                const int64_t columns = std::min(TOGETHER, w.out - column);
                for (int64_t t = 0; t < columns; ++t, to += s.C)
                    for (int64_t v = 0; v < 2 && v * VL < count; ++v) store(to + v * VL, sums[t][v], count - v * VL);
            }
    }
}

// dx at a stride: each position of the input gathers from those of the output that it reached.
template <class Number>
void gather(const Shape &s, const Number *dy, const float *mixed, Number *dx) {
    const Axis rows = s.rows(), columns = s.columns();
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < s.N * s.H; ++index) {
        const int64_t n = index / s.H, row = index % s.H;
        for (int64_t c = 0; c < s.C; c += VL) {
            const int64_t count = s.C - c;
            for (int64_t column = 0; column < s.W; ++column) {
                Vec sum{};
                for (int64_t i = rows.first[row]; i < rows.first[row + 1]; ++i)
                    for (int64_t j = columns.first[column]; j < columns.first[column + 1]; ++j) {
                        const int64_t from = (n * s.R() + rows.taps[i].from) * s.S() + columns.taps[j].from;
                        const int64_t tap = (n * s.I + rows.taps[i].tap) * s.J + columns.taps[j].tap;
                        const Vec weights = *reinterpret_cast<const Vec *>(mixed + tap * s.P() + c);
                        sum += load(dy + from * s.C + c, count) * weights;
                    }
                store(dx + (index * s.W + column) * s.C + c, sum, count);
            }
        }
    }
}

// g [I,J,P]: for each tap and channel, the sum over the output's pixels of x dy, of one image. J taps of a row at once;
// J = 0 stands for any number of them, one by one.
template <int64_t J, class Number>
void gradient_of_mixed(const Shape &s, const Step &h, const Step &w, const Number *x, const Number *dy, float *lines,
                       float *g) {
    std::fill(g, g + s.bank(), 0.f);
    for (int64_t c = 0; c < s.C; c += BLOCK) {
        Lines<Number> rows(x + c, s.H, s.W, s.C, s.C - c, w.pad, w.columns(), h.span(), lines);
        Lines<Number> gradients(dy + c, h.out, w.out, s.C, s.C - c, 0, w.out, 1,
                                lines + Lines<Number>::size(w.columns(), h.span()));
        for (int64_t r = 0; r < h.out; ++r) {
            const float *d = gradients[r];
            for (int64_t i = 0; i < h.kernel; ++i) {
                const int64_t from = r * h.stride + i * h.dilation - h.pad;
                if (!rows.has(from)) continue;
                const float *line = rows[from];
                constexpr int64_t AT_ONCE = J ? J : 1;
                for (int64_t j = 0; j < w.kernel; j += AT_ONCE) {
                    Vec sums[AT_ONCE][2] = {};
                    for (int64_t column = 0; column < w.out; ++column) {
                        const Vec *here = reinterpret_cast<const Vec *>(d + column * BLOCK);
                        const float *reached = line + (column * w.stride + j * w.dilation) * BLOCK;
#pragma GCC unroll 8
                        for (int64_t t = 0; t < AT_ONCE; ++t, reached += w.dilation * BLOCK) {
                            sums[t][0] += here[0] * reinterpret_cast<const Vec *>(reached)[0];
                            sums[t][1] += here[1] * reinterpret_cast<const Vec *>(reached)[1];
                        }
                    }
                    for (int64_t t = 0; t < AT_ONCE; ++t) {
                        Vec *to = reinterpret_cast<Vec *>(g + (i * s.J + j + t) * s.P() + c);
                        to[0] += sums[t][0];
                        to[1] += sums[t][1];
                    }
                }
            }
        }
    }
}

template <class Number>
void gradient_of_experts(const Shape &s, const Step &h, const Step &w, const Number *x, const float *experts,
                         const float *a, const Number *dy, Number *dw, float *da) {
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(omp_get_max_threads(), s.N));
    const int64_t own_lines = Lines<Number>::size(w.columns(), h.span()) + Lines<Number>::size(w.out, 1);
    Loan workspace(pool, Workspace::size<float>(threads * s.K * s.bank()) + Workspace::size<float>(threads * s.bank()) +
                             Workspace::size<float>(threads * own_lines));
    float *sums = workspace.take<float>(threads * s.K * s.bank()), *all_g = workspace.take<float>(threads * s.bank());
    float *all_lines = workspace.take<float>(threads * own_lines);
    std::fill(sums, sums + threads * s.K * s.bank(), 0.f);
    const auto gradient = w.kernel == 3   ? gradient_of_mixed<3, Number>
                          : w.kernel == 5 ? gradient_of_mixed<5, Number>
                                          : gradient_of_mixed<0, Number>;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t thread = 0; thread < threads; ++thread) {
        float *g = all_g + thread * s.bank(), *own = sums + thread * s.K * s.bank();
        for (int64_t n = thread * s.N / threads; n < (thread + 1) * s.N / threads; ++n) {
            gradient(s, h, w, x + n * s.H * s.W * s.C, dy + n * h.out * w.out * s.C, all_lines + thread * own_lines, g);
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

// Calls f with the experts as they are mixed, and the mixed kernels.
template <class Number, class Fn> int with_kernels(const Shape &s, const Number *w, const float *a, bool mixes, Fn f) {
    return guarded([&] {
        const int64_t size = mixes ? s.N * s.bank() : 0;
        Loan workspace(pool, Workspace::size<float>(s.K * s.bank()) + Workspace::size<float>(size));
        float *experts = workspace.take<float>(s.K * s.bank()), *mixed = workspace.take<float>(size);
        arrange(s, w, experts);
        if (mixes) mix(s, experts, a, mixed);
        f(experts, mixed);
    });
}

template <class Number> int forward(const Shape &s, const Number *x, const Number *w, const float *a, Number *y) {
    return with_kernels(s, w, a, true, [&](const float *, const float *mixed) {
        convolve(s, s.down(), s.across(), false, x, mixed, y);
    });
}

template <class Number>
int backward(const Shape &s, const Number *x, const Number *w, const float *a, const Number *dy, Number *dx, Number *dw,
             float *da) {
    return with_kernels(s, w, a, dx, [&](const float *experts, const float *mixed) {
        if (dx && s.stride_h == 1 && s.stride_w == 1)
            convolve(s, turned(s.down()), turned(s.across()), true, dy, mixed, dx);
        else if (dx)
            gather(s, dy, mixed, dx);
        if (dw) gradient_of_experts(s, s.down(), s.across(), x, experts, a, dy, dw, da);
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
