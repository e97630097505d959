// Dynamic convolution, O = sum_k a_k Conv_k(X), mixed tile by tile where the tile is used, for a CPU.
//
// For each image the experts are mixed, W = sum_k a_k W_k, 32 output channels at a time, into a panel that stays in the
// cache and is convolved there. Mixing costs K multiply-adds a weight; the convolution costs one a weight and output
// pixel, H W of them. No kernel mixed for an image is ever written to memory. The gradients go the same way:
//     dX      the convolution of dY with the mixed kernel turned round, input and output channels exchanged;
//     G       = X' dY of one image, the gradient that its mixed kernel would have, is made a register tile at a time;
//     dW_k    += a_k G and da_k = <G, W_k> follow for a few images at once, while G, dW_k and W_k are in the first-level
//             cache.
//
// 3x3 and 1x1 kernels, stride 1 and 2, any number of channels and groups. float32, and bf16 with sums in float32. With
// AVX512-BF16 bf16 is multiplied in pairs by vdpbf16ps: sum += w[0] x[0] + w[1] x[1] in each of 16 lanes. Without it,
// bf16 is widened to float32 where it is packed. With AMX, convolutions of one group and stride 1 in bf16 are multiplied
// by the matrix unit, 16 pixels, 16 output and 32 input channels at once.
//
// Each group of channels is a convolution of its own. Where groups are too narrow to fill a panel, a bundle of them
// shares it, each group in lanes of its own. In the panel of one group, all lanes multiply the same number of x, which
// is broadcast. In that of a bundle, each lane multiplies a number of its own group, which a permutation of a vector of
// x brings there. So nothing is multiplied by the zeros that one dense kernel for the bundle would have, and no group
// reads another's numbers.
//
// The threads share images (forward, dX) or tiles of the kernel (dW), split statically, and what they sum separately is
// added in a fixed order: the results have the same bits for one number of threads.
//
// One file, though a long one: the compiler has to inline all of it into the loops over register tiles.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C input channels, O output channels, K experts; R x S the output's size
//     x [N,H,W,C]  y [N,R,S,O]  a [N,K]  w [K,O,depth,taps]; taps = 9 or 1 positions of the kernel
//     depth = C / groups input channels and outs = O / groups output channels of a group
//     D channels (or pixels, in G) that one instruction multiplies at once and sums: 2 for pairs, else 1
//     PANEL output channels of a register tile; BLOCK input channels that are packed together, `span` of each group
//     packed map [bundles][blocks][row][phase][column][BLOCK], the last index [span / D][groups of the bundle][D];
//     phase = column of the input modulo the stride, zeros at the sides
//     packed kernel, a panel: [blocks][tap][span / D][PANEL][D]

#include "workspace.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define WITH_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#define INLINE inline __attribute__((always_inline))  // keeps register tiles in registers
#ifdef __AVX512F__
typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t PIXELS = 14;  // of a register tile: with two vectors each they fill 28 of the 32 registers
constexpr int64_t BUNDLED_PIXELS = 12;  // the same where two more registers hold permutations
constexpr int64_t TOGETHER = 8;  // images whose gradients are collected at once: two registers each
constexpr int64_t MIXED = 4;  // images whose kernels are mixed at once: four registers each
#else
typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t PIXELS = 6, BUNDLED_PIXELS = 5, TOGETHER = 4;  // 12 of 16 registers, 10, and 8
constexpr int64_t MIXED = 1;
#endif
constexpr int64_t VL = sizeof(Vec) / sizeof(float), PANEL = 2 * VL, BLOCK = 32;
typedef int32_t Places __attribute__((vector_size(sizeof(Vec)), aligned(4), may_alias));  // which lane each lane takes

// bfloat16: the upper half of a float32.
struct bf16 {
    uint16_t bits;
    bf16() = default;
    bf16(float value) {
        uint32_t all;
        std::memcpy(&all, &value, 4);
        bits = value != value ? 0x7fc0 : uint16_t((all + 0x7fff + (all >> 16 & 1)) >> 16);  // ties to even
    }
    operator float() const {
        const uint32_t all = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &all, 4);
        return value;
    }
};

// ------------------------------------------------------------------------------------- how numbers are multiplied

struct Singles {
    using Element = float;
    using Operand = Vec;
    static constexpr int64_t D = 1;
    static INLINE Vec load(const float *p) { return *reinterpret_cast<const Vec *>(p); }
    static INLINE Vec spread(const float *p) { return Vec{} + *p; }
    static INLINE Vec spread(const float *p, Places from) {
#if defined(__AVX512F__)
        return Vec(_mm512_permutexvar_ps(__m512i(from), __m512(load(p))));
#elif defined(__AVX2__)
        return Vec(_mm256_permutevar8x32_ps(__m256(load(p)), __m256i(from)));
#else
        Vec lanes;
        for (int64_t i = 0; i < VL; ++i) lanes[i] = p[from[i]];
        return lanes;
#endif
    }
    static INLINE Vec dot(Vec sum, Vec w, Vec x) { return sum + w * x; }
};

#ifdef __AVX512BF16__
struct Pairs {
    using Element = bf16;
    using Operand = __m512i;
    static constexpr int64_t D = 2;
    static INLINE __m512i load(const bf16 *p) { return _mm512_loadu_si512(p); }
    static INLINE __m512i spread(const bf16 *p) {
        // Volatile: the compiler would collect the loads of a whole register tile, and run out of registers.
        __m512i pair;
        asm volatile("vpbroadcastd %1, %0" : "=v"(pair) : "m"(*reinterpret_cast<const int32_t(*)>(p)));
        return pair;
    }
    static INLINE __m512i spread(const bf16 *p, Places from) {
        __m512i pairs;
        asm volatile("vpermd %1, %2, %0" : "=v"(pairs) : "m"(*reinterpret_cast<const Vec *>(p)), "v"(__m512i(from)));
        return pairs;
    }
    static INLINE Vec dot(Vec sum, __m512i w, __m512i x) {
        asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
        return sum;
    }
};
template <class Number> using Arithmetic = std::conditional_t<std::is_same_v<Number, bf16>, Pairs, Singles>;
#else
template <class Number> using Arithmetic = Singles;
#endif

int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// to[0..count) = sum, rounded where `to` is bf16; count is PANEL but at the last channels.
template <class Number> INLINE void store(Number *to, const Vec (&sum)[2], int64_t count) {
#ifdef __AVX512BF16__
    if constexpr (std::is_same_v<Number, bf16>) {
        const __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(__m512(sum[1]), __m512(sum[0]));
        if (count >= PANEL)
            _mm512_storeu_si512(to, rounded);
        else
            _mm512_mask_storeu_epi16(to, (1u << count) - 1, rounded);
        return;
    }
#endif
    if (std::is_same_v<Number, float> && count >= PANEL) {
        reinterpret_cast<Vec *>(to)[0] = sum[0];
        reinterpret_cast<Vec *>(to)[1] = sum[1];
        return;
    }
    float numbers[PANEL];
    std::memcpy(numbers, sum, sizeof numbers);
    for (int64_t i = 0; i < std::min(count, PANEL); ++i) to[i] = numbers[i];
}

// ---------------------------------------------------------------------------------------------------------- shapes

struct Shape {
    int64_t N, H, W, C, O, groups, K, side, stride, pad, R, S, taps;
    Shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t groups, int64_t K, int64_t side,
          int64_t stride, int64_t pad)
        : N(N), H(H), W(W), C(C), O(O), groups(groups), K(K), side(side), stride(stride), pad(pad),
          R((H + 2 * pad - side) / stride + 1), S((W + 2 * pad - side) / stride + 1), taps(side * side) {}
};

// How the channels of a convolution fall into panels: a group's outs into panels of its own, or those of a bundle of
// groups into one. All bundles have `bundle` groups but the last one, which may have fewer.
struct Panels {
    int64_t groups, depth, outs, bundle;
    Panels(int64_t groups, int64_t depth, int64_t outs) : groups(groups), depth(depth), outs(outs) {
        const int64_t most = std::clamp<int64_t>(PANEL / std::max<int64_t>(1, outs), 1, VL);
        bundle = divide_up(groups, divide_up(groups, most));
    }
    int64_t bundles() const { return divide_up(groups, bundle); }
    int64_t of_bundle() const { return divide_up(bundle * outs, PANEL); }
    int64_t count() const { return bundles() * of_bundle(); }
    int64_t present(int64_t b) const { return std::min(bundle, groups - b * bundle); }  // groups of bundle b
    int64_t first_out(int64_t panel) const {
        return panel / of_bundle() * bundle * outs + panel % of_bundle() * PANEL;
    }
    int64_t lanes(int64_t panel) const {  // that are used
        const int64_t b = panel / of_bundle();
        return std::min(PANEL, (b * bundle + present(b)) * outs - first_out(panel));
    }
};

Panels panels_of_output(const Shape &s) { return {s.groups, s.C / s.groups, s.O / s.groups}; }
Panels panels_of_input(const Shape &s) { return {s.groups, s.O / s.groups, s.C / s.groups}; }

// A packed map. `left` columns of zeros come before the first one; each phase has `columns`.
struct Layout {
    int64_t height, width, left, phases, columns, D;
    Panels panels;
    int64_t span() const { return BLOCK / (panels.bundle * D) * D; }
    int64_t channels() const { return panels.groups * panels.depth; }
    int64_t row() const { return phases * columns * BLOCK; }
    int64_t block() const { return height * row(); }
    int64_t bundle() const { return divide_up(panels.depth, span()) * block(); }
    // With room at the end: a vector of a bundle's last pixel is read as a whole.
    int64_t size() const { return panels.bundles() * bundle() + BLOCK; }
    int64_t offset(int64_t column) const { return (column % phases * columns + column / phases) * BLOCK; }
};

// One position of the kernel: the input row and column relative to the output's, the place in that row, its number in the
// kernel.
struct Tap {
    int64_t row, column, place, number;
};

// A convolution from a packed map to every `spacing`-th row and column of a map [.., columns, channels], from
// (first_row, first_column) on.
struct Pass {
    std::vector<Tap> taps;
    int64_t step;  // input rows (columns) from one output row (column) to the next
    int64_t first_row, first_column, spacing, rows, columns;
};

Layout layout_of_input(const Shape &s, int64_t D) {
    return {s.H, s.W, s.pad, s.stride, divide_up((s.S - 1) * s.stride + s.side, s.stride), D, panels_of_output(s)};
}

Pass forward_pass(const Shape &s, const Layout &in) {
    Pass pass{{}, s.stride, 0, 0, 1, s.R, s.S};
    for (int64_t i = 0; i < s.side; ++i)
        for (int64_t j = 0; j < s.side; ++j) pass.taps.push_back({i - s.pad, j - s.pad, in.offset(j), i * s.side + j});
    return pass;
}

// dX[h, w] = sum of dY[(h + pad - i) / stride, (w + pad - j) / stride] W[i, j] over the i, j that divide: for each phase
// of h and w a convolution of its own.
Layout layout_of_gradient(const Shape &s, int64_t D) {
    const int64_t left = divide_up(s.side - 1 - s.pad, s.stride);
    const int64_t right = (s.W - 1 + s.pad) / s.stride - (s.S - 1);
    return {s.R, s.S, left, 1, left + s.S + std::max<int64_t>(0, right), D, panels_of_input(s)};
}

std::vector<Pass> passes_to_input(const Shape &s, const Layout &in) {
    std::vector<Pass> passes;
    for (int64_t h = 0; h < std::min(s.stride, s.H); ++h)
        for (int64_t w = 0; w < std::min(s.stride, s.W); ++w) {
            Pass pass{{}, 1, h, w, s.stride, divide_up(s.H - h, s.stride), divide_up(s.W - w, s.stride)};
            for (int64_t i = (h + s.pad) % s.stride; i < s.side; i += s.stride)
                for (int64_t j = (w + s.pad) % s.stride; j < s.side; j += s.stride) {
                    const int64_t row = (h + s.pad - i) / s.stride, column = (w + s.pad - j) / s.stride;
                    pass.taps.push_back({row, column, in.offset(in.left + column), i * s.side + j});
                }
            passes.push_back(pass);
        }
    return passes;
}

// --------------------------------------------------------------------------------------------------------- packing

// In which order the channels of a bundle are packed: to[i] = pixels[pixel][channel], of one pixel or two neighbours.
class Order {
    // Of the order's numbers: a block, or D of BUNDLED_PIXELS input channels of each of up to VL groups.
    static constexpr int64_t MOST = 2 * BUNDLED_PIXELS * VL;
    int64_t count_ = 0, channels_;
    int32_t channel_[MOST], pixel_[MOST];
    // For permutations of bf16: the place in two vectors of 32 numbers. And for all: a bit for each that is no zero.
    uint16_t place_[MOST];
    uint32_t used_[MOST / 16 + 1] = {};

  public:
    // channels: how many a bundle has, from the pixels' first on.
    explicit Order(int64_t channels) : channels_(channels) {}
    void add(int64_t channel, int64_t pixel = 0) {
        used_[count_ / 16] |= 1u << count_ % 16;
        channel_[count_] = int32_t(channel);
        pixel_[count_] = int32_t(pixel);
        place_[count_++] = uint16_t(channel + pixel * 32);
    }
    void add_zero() {
        channel_[count_] = -1;
        place_[count_++] = 0;
    }
    // A pixel that is null has zeros.
    template <size_t D, class Number, class Element>
    INLINE void pack(const Number *const (&pixels)[D], Element *to) const {
#ifdef __AVX512BF16__
        if constexpr (std::is_same_v<Element, bf16>) {
            if (channels_ <= 32) {
                const __mmask32 there = channels_ == 32 ? ~0u : (1u << channels_) - 1;
                __m512i from[2] = {};
                for (size_t d = 0; d < D; ++d)
                    if (pixels[d]) from[d] = _mm512_maskz_loadu_epi16(there, pixels[d]);
                for (int64_t i = 0; i < count_; i += 32) {
                    const __mmask32 used = used_[i / 16] | used_[i / 16 + 1] << 16;
                    const __mmask32 inside = count_ - i >= 32 ? ~0u : (1u << (count_ - i)) - 1;
                    const __m512i places = _mm512_loadu_si512(place_ + i);
                    _mm512_mask_storeu_epi16(to + i, inside,
                                             _mm512_maskz_permutex2var_epi16(used, from[0], places, from[1]));
                }
                return;
            }
        }
#endif
#ifdef __AVX512F__
        if constexpr (D == 1 && std::is_same_v<Number, float> && std::is_same_v<Element, float>) {
            if (channels_ <= 32) {
                __m512 from[2] = {};
                for (int v = 0; v < 2 && pixels[0]; ++v) {
                    const int64_t rest = std::clamp<int64_t>(channels_ - v * 16, 0, 16);
                    from[v] = _mm512_maskz_loadu_ps(__mmask16((1u << rest) - 1), pixels[0] + v * 16);
                }
                for (int64_t i = 0; i < count_; i += 16) {
                    const __mmask16 inside = count_ - i >= 16 ? 0xffff : __mmask16((1u << (count_ - i)) - 1);
                    const __m512i places = _mm512_loadu_si512(channel_ + i);
                    _mm512_mask_storeu_ps(
                        to + i, inside,
                        _mm512_maskz_permutex2var_ps(__mmask16(used_[i / 16]), from[0], places, from[1]));
                }
                return;
            }
        }
#endif
        for (int64_t i = 0; i < count_; ++i)
            to[i] = channel_[i] < 0 || !pixels[pixel_[i]] ? Element(0.f) : Element(pixels[pixel_[i]][channel_[i]]);
    }
};

// Of the block of bundle `b` that begins with channel c of each group.
Order order_of_block(const Layout &l, int64_t b, int64_t c) {
    const Panels &panels = l.panels;
    const int64_t count = std::min(l.span(), panels.depth - c);
    Order order(panels.present(b) * panels.depth);
    for (int64_t i = 0; i < count; i += l.D)
        for (int64_t group = 0; group < panels.bundle; ++group)
            for (int64_t d = 0; d < l.D; ++d)
                if (group < panels.present(b) && i + d < count)
                    order.add(group * panels.depth + c + i + d);
                else
                    order.add_zero();
    return order;
}

// Calls pack(pixel, to) with every pixel of a map, null where it is a zero at the sides, and its place in a block.
template <class Element, class Number, class Fn>
void pack_block(const Layout &l, const Number *x, Element *out, Fn pack) {
    for (int64_t row = 0; row < l.height; ++row)
        for (int64_t phase = 0; phase < l.phases; ++phase)
            for (int64_t column = 0; column < l.columns; ++column) {
                const int64_t from = column * l.phases + phase - l.left;
                const bool inside = from >= 0 && from < l.width;
                pack(inside ? x + (row * l.width + from) * l.channels() : nullptr,
                     out + row * l.row() + (phase * l.columns + column) * BLOCK);
            }
}

template <class Element, class Number> void pack_map(const Layout &l, const Number *x, Element *out) {
    const Panels &panels = l.panels;
    for (int64_t b = 0; b < panels.bundles(); ++b, x += panels.bundle * panels.depth)
        for (int64_t c = 0; c < panels.depth; c += l.span(), out += l.block()) {
            if (panels.bundle > 1) {
                const Order order = order_of_block(l, b, c);
                pack_block(l, x, out, [&](const Number *pixel, Element *to) { order.pack<1>({pixel}, to); });
                continue;
            }
            const int64_t count = std::min(BLOCK, panels.depth - c);
            pack_block(l, x + c, out, [&](const Number *pixel, Element *to) {
                int64_t i = 0;
                if (pixel && count == BLOCK)
                    for (; i < BLOCK; ++i) to[i] = Element(pixel[i]);
                else if (pixel)
                    for (; i < count; ++i) to[i] = Element(pixel[i]);
                for (; i < BLOCK; ++i) to[i] = Element(0.f);
            });
        }
}

// The experts as the convolution reads them; zeros fill up their depth to a multiple of `unit`, itself one of D.
struct Bank {
    int64_t K, taps, unit;
    Panels panels;
    int64_t filled(int64_t depth) const { return divide_up(depth, unit) * unit; }
    int64_t panel() const { return filled(panels.depth) * taps * PANEL; }
    int64_t size() const { return panels.count() * K * panel(); }
};

// TURNED: input and output channels are exchanged, for the input's gradient.
template <class T, bool TURNED, class Number>
void pack_experts(const Shape &s, const Bank &bank, int64_t span, const Number *w, typename T::Element *out) {
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    const Panels &panels = bank.panels;
    const int64_t to_depth = TURNED ? panels.outs * s.taps : s.taps;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t p = 0; p < panels.count(); ++p)
        for (int64_t k = 0; k < s.K; ++k) {
            const int64_t lanes = panels.lanes(p);
            const Number *from[PANEL];
            for (int64_t lane = 0; lane < lanes; ++lane) {
                const int64_t out_channel = panels.first_out(p) + lane;
                const int64_t group = out_channel / panels.outs, number = out_channel % panels.outs;
                from[lane] = w + k * s.O * (s.C / s.groups) * s.taps + group * panels.outs * panels.depth * s.taps +
                             number * (TURNED ? 1 : panels.depth) * s.taps;
            }
            Element *to = out + (p * s.K + k) * bank.panel();
            if (lanes < PANEL || panels.depth % bank.unit) std::fill(to, to + bank.panel(), Element(0.f));
            for (int64_t b = 0; b < panels.depth; b += span) {
                const int64_t depth = std::min(span, panels.depth - b), steps = bank.filled(depth) / D;
                const auto copy = [&](int64_t z, int64_t lane) {
                    for (int64_t tap = 0; tap < s.taps; ++tap)
                        to[((tap * steps + z / D) * PANEL + lane) * D + z % D] =
                            Element(from[lane][(b + z) * to_depth + tap]);
                };
                if constexpr (TURNED)  // the index that steps over neighbours in memory runs last
                    for (int64_t z = 0; z < depth; ++z)
                        for (int64_t lane = 0; lane < lanes; ++lane) copy(z, lane);
                else
                    for (int64_t lane = 0; lane < lanes; ++lane)
                        for (int64_t z = 0; z < depth; ++z) copy(z, lane);
                to += s.taps * steps * D * PANEL;
            }
        }
}

// out_n = sum_k a_nk experts_k for IMAGES kernels of `count` numbers each, in multiples of D * PANEL.
template <int IMAGES> INLINE void mix(const float *experts, int64_t K, const float *a, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += PANEL) {
        Vec sum[IMAGES][2] = {};
        for (int64_t k = 0; k < K; ++k) {
            const float *from = experts + k * count + i;
            const Vec weights[2] = {Singles::load(from), Singles::load(from + VL)};
#pragma GCC unroll 4
            for (int n = 0; n < IMAGES; ++n)
                for (int v = 0; v < 2; ++v) sum[n][v] += a[n * K + k] * weights[v];
        }
        for (int n = 0; n < IMAGES; ++n) store(out + n * count + i, sum[n], PANEL);
    }
}

#ifdef __AVX512BF16__
template <int IMAGES> INLINE void mix(const bf16 *experts, int64_t K, const float *a, int64_t count, bf16 *out) {
    // A pair is a 32-bit number: shifted left it is its first half as float32, masked its second.
    constexpr int64_t UNROLL = IMAGES == 1 ? 4 : 2;
    const __m512i second = _mm512_set1_epi32(int32_t(0xffff0000));
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; ++i) order[i] = uint16_t(i / 2 + i % 2 * 16);
    const __m512i interleave = _mm512_load_si512(order);
    static_assert(2 * PANEL % 32 == 0);
    const auto step = [&](int64_t i, auto unroll) __attribute__((always_inline)) {
        constexpr int64_t U = decltype(unroll)::value;
        __m512 low[IMAGES][U] = {}, high[IMAGES][U] = {};
        for (int64_t k = 0; k < K; ++k) {
            const bf16 *from = experts + k * count + i;
#pragma GCC unroll 4
            for (int64_t u = 0; u < U; ++u) {
                const __m512i pairs = _mm512_loadu_si512(from + u * 32);
                const __m512 first_half = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
                const __m512 second_half = _mm512_castsi512_ps(_mm512_and_si512(pairs, second));
#pragma GCC unroll 4
                for (int n = 0; n < IMAGES; ++n) {
                    const __m512 scale = _mm512_set1_ps(a[n * K + k]);
                    low[n][u] = _mm512_fmadd_ps(first_half, scale, low[n][u]);
                    high[n][u] = _mm512_fmadd_ps(second_half, scale, high[n][u]);
                }
            }
        }
#pragma GCC unroll 4
        for (int n = 0; n < IMAGES; ++n)
#pragma GCC unroll 4
            for (int64_t u = 0; u < U; ++u) {
                const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high[n][u], low[n][u]);
                _mm512_storeu_si512(out + n * count + i + u * 32, _mm512_permutexvar_epi16(interleave, halves));
            }
    };
    int64_t i = 0;
    for (; i + UNROLL * 32 <= count; i += UNROLL * 32) step(i, std::integral_constant<int64_t, UNROLL>{});
    for (; i < count; i += 32) step(i, std::integral_constant<int64_t, 1>{});
}
#endif

// The kernels of `images` images, at most MIXED.
template <class Element>
void mix_kernels(const Element *experts, int64_t K, const float *a, int64_t count, int64_t images, Element *out) {
    int64_t n = 0;
    for (; n + MIXED <= images; n += MIXED) mix<MIXED>(experts, K, a + n * K, count, out + n * count);
    for (; n < images; ++n) mix<1>(experts, K, a + n * K, count, out + n * count);
}

// ----------------------------------------------------------------------------------------------------- convolution

// For each lane of a bundle's panel the group that it belongs to; of no group, any.
struct Lanes {
    alignas(64) int32_t group[PANEL];
    explicit Lanes(const Panels &panels) {
        for (int64_t lane = 0; lane < PANEL; ++lane)
            group[lane] = int32_t(std::min(lane / std::max<int64_t>(1, panels.outs), panels.bundle - 1));
    }
    Places half(int64_t v) const { return *reinterpret_cast<const Places *>(group + v * VL); }
};

// sum[p] += w x_p for P pixels (or channels, in G) that are `stride` apart, of one group or of a bundle. `from0` and
// `from1` say where each lane's number is in the vector at x_p; a single group needs none.
template <class T, bool BUNDLED, int FIRST, int END, int P>
INLINE void multiply(Vec (&sum)[P][2], const typename T::Element *x, int64_t stride, const typename T::Element *w,
                     Places from0, Places from1) {
    const auto w0 = T::load(w), w1 = T::load(w + T::D * VL);
#pragma GCC unroll 14
    for (int p = FIRST; p < END; ++p) {
        if constexpr (BUNDLED) {
            sum[p][0] = T::dot(sum[p][0], w0, T::spread(x + p * stride, from0));
            sum[p][1] = T::dot(sum[p][1], w1, T::spread(x + p * stride, from1));
        } else {
            const auto number = T::spread(x + p * stride);
            sum[p][0] = T::dot(sum[p][0], w0, number);
            sum[p][1] = T::dot(sum[p][1], w1, number);
        }
    }
}

// P neighbouring output pixels of one row, PANEL channels: y[p * y_pixel + 0..outs). x stands at the first pixel's
// input, to which the taps' places are relative; w is a mixed panel. A tap leaves out the first pixel if it would read
// the zeros left of the map there (its column is below `left`), or the last one (from `right` on). Zeros are right too.
template <class T, bool BUNDLED, int P, class Number>
void convolve_tile(const Layout &in, const Lanes &lanes, const typename T::Element *x, const Tap *taps, int64_t n_taps,
                   int64_t left, int64_t right, const typename T::Element *w, int64_t all_taps, Number *y,
                   int64_t y_pixel, int64_t outs) {
    constexpr int64_t D = T::D;
    const int64_t depth = in.panels.depth, block = in.block();
    const int64_t span = BUNDLED ? in.span() : BLOCK, step = BUNDLED ? in.panels.bundle * D : D;
    const Places from0 = lanes.half(0), from1 = lanes.half(1);
    Vec sum[P][2] = {};
    for (int64_t c = 0; c < depth; c += span) {
        const int64_t steps = divide_up(std::min(span, depth - c), D);
        for (const Tap *tap = taps; tap < taps + n_taps; ++tap) {
            const auto add = [&](auto first, auto end) __attribute__((always_inline)) {
                const auto *from = x + tap->place;
                const auto *kernel = w + tap->number * steps * D * PANEL;
#pragma GCC unroll 2
                for (int64_t q = 0; q < steps; ++q, from += step, kernel += D * PANEL)
                    multiply<T, BUNDLED, decltype(first)::value, decltype(end)::value>(sum, from, BLOCK, kernel, from0,
                                                                                       from1);
            };
            constexpr std::integral_constant<int, 0> first{};
            constexpr std::integral_constant<int, P> end{};
            if constexpr (BUNDLED || P > PIXELS - 3)  // three loops would leave too few registers
                add(first, end);
            else if (tap->column < left)
                add(std::integral_constant<int, 1>{}, end);
            else if (tap->column >= right)
                add(first, std::integral_constant<int, P - 1>{});
            else
                add(first, end);
        }
        x += block;
        w += all_taps * span * PANEL;
    }
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) store(y + p * y_pixel, sum[p], outs);
}

// Calls f(first, P) for `count` in parts of nearly equal size of at most MOST, P a compile-time constant.
template <int64_t MOST, class Fn> INLINE void in_tiles(int64_t count, Fn f) {
    const int64_t parts = divide_up(count, MOST);
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = count * part / parts, size = count * (part + 1) / parts - first;
        switch (size) {
#define CASE(P) \
    case P: if constexpr (P <= MOST) f(first, std::integral_constant<int, P>{}); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
            CASE(14) CASE(15) CASE(16)
#undef CASE
        }
    }
}

// One image, one panel: the rows of `pass`. x is that image's packed map, from the panel's bundle on; y is its map,
// `width` pixels wide with `channels`, from the panel's first channel on.
template <class T, bool BUNDLED, class Number>
void convolve(const Pass &pass, const Layout &in, const Lanes &lanes, const typename T::Element *x,
              const typename T::Element *w, int64_t all_taps, Number *y, int64_t width, int64_t channels,
              int64_t outs) {
    for (int64_t r = 0; r < pass.rows; ++r) {
        Tap inside[9];  // the taps that do not fall above or below the map, from the first row on
        int64_t n = 0;
        for (Tap tap : pass.taps) {
            const int64_t row = r * pass.step + tap.row;
            if (row < 0 || row >= in.height) continue;
            tap.place += row * in.row();
            inside[n++] = tap;
        }
        Number *line = y + ((pass.first_row + r * pass.spacing) * width + pass.first_column) * channels;
        const int64_t pixel = pass.spacing * channels;
        in_tiles<BUNDLED ? BUNDLED_PIXELS : PIXELS>(pass.columns, [&](int64_t first, auto pixels) {
            constexpr int P = decltype(pixels)::value;
            convolve_tile<T, BUNDLED, P>(in, lanes, x + first * BLOCK, inside, n, -first * pass.step,
                                         in.width - (first + P - 1) * pass.step, w, all_taps, line + first * pixel,
                                         pixel, outs);
        });
    }
}

constexpr int64_t KERNEL_BYTES = 640 << 10;  // of the kernels that are mixed at once: they stay in the second-level cache

// Of how many images the kernels, of `size` bytes each, are mixed at once.
int64_t images_mixed(int64_t size) { return KERNEL_BYTES / size >= MIXED ? MIXED : 1; }

// Divides N images among the threads, each with its own workspace: pack(image, map) once an image, then
// convolve(panel, first image, images, maps, kernels) for each panel, `chunk` images after one another while its experts
// are in the cache, `mixed` of them at once. With too few images to share, the threads share the panels of each.
template <class Element, class Pack, class Convolve>
void share_images(int64_t N, int64_t panels, int64_t chunk, int64_t mixed, Element *maps, int64_t map_size,
                  Element *kernels, int64_t kernel_size, Pack pack, Convolve convolve) {
    if (N >= omp_get_max_threads()) {
#pragma omp parallel
        {
            const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
            auto *my_maps = maps + me * chunk * map_size;
            auto *my_kernels = kernels + me * mixed * kernel_size;
            const int64_t end = N * (me + 1) / team;
            for (int64_t first = N * me / team; first < end; first += chunk) {
                const int64_t n = std::min(chunk, end - first);
                for (int64_t i = 0; i < n; ++i) pack(first + i, my_maps + i * map_size);
                for (int64_t p = 0; p < panels; ++p)
                    for (int64_t i = 0; i < n; i += mixed)
                        convolve(p, first + i, std::min(mixed, n - i), my_maps + i * map_size, my_kernels);
            }
        }
    } else {
        for (int64_t i = 0; i < N; ++i) {
            pack(i, maps);
#pragma omp parallel for schedule(static)
            for (int64_t p = 0; p < panels; ++p) convolve(p, i, 1, maps, kernels + omp_get_thread_num() * kernel_size);
        }
    }
}

constexpr int64_t MAP_BYTES = 2 << 20;  // of a thread's packed maps: the experts are read once for so many images

// How many packed maps of `size` bytes are held at once.
int64_t images_of_chunk(int64_t size) { return std::clamp<int64_t>(MAP_BYTES / size, 1, 32); }

Pool pool;

// y = the convolution of x; TURNED: x stands for dY, y for dX.
template <bool TURNED, class Number>
void convolution(const Shape &s, const Number *x, const Number *w, const float *a, Number *y) {
    using T = Arithmetic<Number>;
    using Element = typename T::Element;
    const int64_t threads = omp_get_max_threads();
    const Layout in = TURNED ? layout_of_gradient(s, T::D) : layout_of_input(s, T::D);
    const auto passes = TURNED ? passes_to_input(s, in) : std::vector<Pass>{forward_pass(s, in)};
    const Panels &panels = in.panels;
    const Bank bank{s.K, s.taps, T::D, panels};
    const int64_t chunk = images_of_chunk(in.size() * sizeof(Element));
    const int64_t mixed = images_mixed(bank.panel() * sizeof(Element));
    Loan workspace(pool, Workspace::size<Element>(bank.size()) +
                             Workspace::size<Element>(threads * mixed * bank.panel()) +
                             Workspace::size<Element>(threads * chunk * in.size()));
    Element *experts = workspace.take<Element>(bank.size());
    Element *kernels = workspace.take<Element>(threads * mixed * bank.panel());
    Element *maps = workspace.take<Element>(threads * chunk * in.size());
    pack_experts<T, TURNED>(s, bank, in.span(), w, experts);
    const Lanes lanes(panels);
    const auto run = panels.bundle > 1 ? convolve<T, true, Number> : convolve<T, false, Number>;
    const int64_t in_size = in.height * in.width * in.channels(), out_channels = panels.groups * panels.outs;
    const int64_t out_pixels = TURNED ? s.H * s.W : s.R * s.S, out_width = TURNED ? s.W : s.S;
    share_images(
        s.N, panels.count(), chunk, mixed, maps, in.size(), kernels, bank.panel(),
        [&](int64_t image, Element *map) { pack_map(in, x + image * in_size, map); },
        [&](int64_t p, int64_t first, int64_t images, const Element *map, Element *kernel) {
            mix_kernels(experts + p * s.K * bank.panel(), s.K, a + first * s.K, bank.panel(), images, kernel);
            for (int64_t i = 0; i < images; ++i, map += in.size(), kernel += bank.panel())
                for (const Pass &pass : passes)
                    run(pass, in, lanes, map + p / panels.of_bundle() * in.bundle(), kernel, s.taps,
                        y + (first + i) * out_pixels * out_channels + panels.first_out(p), out_width, out_channels,
                        panels.lanes(p));
        });
}

// ----------------------------------------------------------------------------- gradients of experts and of routing

// G of one image is the product of X, pixels by input channels, and dY, pixels by output channels, over pixels. For
// pairs, dY holds pixels (0, 1), (2, 3), ... of a row, and X holds at each pixel it and its neighbour to the right, so
// that a pair can begin anywhere. Layouts:
//     parts of P input channels of a group, of nearly equal size, P <= ROWS
//     X [bundle][part][image][row][phase][column][P][groups of the bundle][D]
//     dY [panel][image][row][S / D][PANEL][D]
//     experts and their gradients, in float32: [panel][part][tap][K][P][PANEL]
struct Gradient {
    Panels panels;
    int64_t parts, columns, steps;
    // rows: the most input channels of a part.
    Gradient(const Shape &s, int64_t D, int64_t rows)
        : panels(panels_of_output(s)), parts(divide_up(panels.depth, rows)),
          columns(divide_up(s.S, D) * D + (s.side - 1) / s.stride), steps(divide_up(s.S, D)) {}
    int64_t first(int64_t part) const { return panels.depth * part / parts; }
    // Numbers of an image: of one input channel of each of a bundle's groups, of all, and of a panel's output channels.
    int64_t x_channel(const Shape &s, int64_t D) const { return s.H * s.stride * columns * panels.bundle * D; }
    int64_t x_image(const Shape &s, int64_t D) const { return panels.bundles() * panels.depth * x_channel(s, D); }
    int64_t y_panel(const Shape &s, int64_t D) const { return s.R * steps * PANEL * D; }
    int64_t bank(const Shape &s) const { return panels.count() * PANEL * panels.depth * s.taps * s.K; }
    int64_t tile(const Shape &s, int64_t panel, int64_t part) const {
        return (panel * panels.depth + first(part)) * PANEL * s.taps * s.K;
    }
};

// to[i][d] = pixels[d][i] for i < count, zeros for count <= i < size; of no pixel (null) zeros too. size <= VL.
template <class Element, class Number, size_t D>
INLINE void interleave(const Number *const (&pixels)[D], int64_t count, int64_t size, Element *to) {
#ifdef __AVX512BF16__
    if constexpr (D == 2) {
        alignas(64) static constexpr auto order = [] {
            std::array<uint16_t, 32> places{};
            for (int i = 0; i < 32; ++i) places[i] = uint16_t(i / 2 + i % 2 * 32);
            return places;
        }();
        const auto load = [count](const Number *pixel) {
            return pixel ? _mm512_maskz_loadu_epi16((1u << count) - 1, pixel) : _mm512_setzero_si512();
        };
        const __m512i pairs =
            _mm512_permutex2var_epi16(load(pixels[0]), _mm512_load_si512(order.data()), load(pixels[1]));
        _mm512_mask_storeu_epi32(to, uint16_t((1u << size) - 1), pairs);
        return;
    }
#endif
    for (int64_t i = 0; i < size; ++i)
        for (size_t d = 0; d < D; ++d) to[i * D + d] = pixels[d] && i < count ? Element(pixels[d][i]) : Element(0.f);
}

// Of P input channels of each group of bundle `b`, from channel c on, at D pixels.
Order order_of_part(const Panels &panels, int64_t b, int64_t c, int64_t P, int64_t D) {
    Order order(panels.present(b) * panels.depth);
    for (int64_t i = 0; i < P; ++i)
        for (int64_t group = 0; group < panels.bundle; ++group)
            for (int64_t d = 0; d < D; ++d)
                if (group < panels.present(b))
                    order.add(group * panels.depth + c + i, d);
                else
                    order.add_zero();
    return order;
}

// Calls pack(pixels, to) with every pixel of a map and its D - 1 neighbours, null where they are zeros, and its place.
template <class T, class Number, class Fn>
void pack_part(const Shape &s, const Gradient &g, const Number *x, int64_t pixel, typename T::Element *to, Fn pack) {
    constexpr int64_t D = T::D;
    for (int64_t row = 0; row < s.H; ++row)
        for (int64_t phase = 0; phase < s.stride; ++phase)
            for (int64_t column = 0; column < g.columns; ++column, to += pixel) {
                const Number *pixels[D];
                for (int64_t d = 0; d < D; ++d) {
                    const int64_t from = (column + d) * s.stride + phase - s.pad;
                    const bool inside = from >= 0 && from < s.W && column + d < g.columns;
                    pixels[d] = inside ? x + (row * s.W + from) * s.C : nullptr;
                }
                pack(pixels, to);
            }
}

template <class T, class Number>
void pack_x(const Shape &s, const Gradient &g, const Number *x, typename T::Element *out, int64_t image,
            int64_t images) {
    using Element = typename T::Element;
    using Pixels = const Number *const(&)[T::D];
    const Panels &panels = g.panels;
    for (int64_t b = 0; b < panels.bundles(); ++b, x += panels.bundle * panels.depth)
        for (int64_t part = 0; part < g.parts; ++part) {
            const int64_t c = g.first(part), P = g.first(part + 1) - c, pixel = P * panels.bundle * T::D;
            Element *to = out + ((b * panels.depth + c) * images + P * image) * g.x_channel(s, T::D);
            if (panels.bundle > 1) {
                const Order order = order_of_part(panels, b, c, P, T::D);
                const auto pack = [&](Pixels pixels, Element *place) { order.pack(pixels, place); };
                pack_part<T>(s, g, x, pixel, to, pack);
            } else {
                const auto pack = [&](Pixels pixels, Element *place) { interleave(pixels, P, P, place); };
                pack_part<T>(s, g, x + c, pixel, to, pack);
            }
        }
}

template <class T, class Number>
void pack_dy(const Shape &s, const Gradient &g, const Number *dy, typename T::Element *out, int64_t image,
             int64_t images) {
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    for (int64_t p = 0; p < g.panels.count(); ++p) {
        Element *to = out + (p * images + image) * g.y_panel(s, D);
        const int64_t outs = g.panels.lanes(p);
        for (int64_t row = 0; row < s.R; ++row)
            for (int64_t step = 0; step < g.steps; ++step, to += PANEL * D) {
                const Number *pixels[D];
                for (int64_t d = 0; d < D; ++d) {
                    const int64_t column = step * D + d;
                    pixels[d] = column < s.S ? dy + (row * s.S + column) * s.O + g.panels.first_out(p) : nullptr;
                }
                for (int64_t lane = 0; lane < PANEL; lane += VL) {
                    interleave(pixels, std::clamp<int64_t>(outs - lane, 0, VL), VL, to + lane * D);
                    for (const Number *&pixel : pixels) pixel = pixel ? pixel + VL : nullptr;
                }
            }
    }
}

// Calls f(in packed bank, in w [K,O,depth,taps]) with the two places of every weight.
template <class Fn> void for_each_weight(const Shape &s, const Gradient &g, Fn f) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t panel = 0; panel < g.panels.count(); ++panel)
        for (int64_t part = 0; part < g.parts; ++part) {
            const int64_t c = g.first(part), P = g.first(part + 1) - c;
            for (int64_t k = 0; k < s.K; ++k)
                for (int64_t lane = 0; lane < g.panels.lanes(panel); ++lane)
                    for (int64_t i = 0; i < P; ++i)
                        for (int64_t tap = 0; tap < s.taps; ++tap)
                            f(g.tile(s, panel, part) + ((tap * s.K + k) * P + i) * PANEL + lane,
                              ((k * s.O + g.panels.first_out(panel) + lane) * g.panels.depth + c + i) * s.taps + tap);
        }
}

// One register tile of G for one image, P input channels (of each group) by PANEL output channels, over `rows` rows.
template <class T, bool BUNDLED, int P>
void gradient_tile(const Lanes &lanes, int64_t bundle, const typename T::Element *x, int64_t x_row,
                   const typename T::Element *dy, int64_t rows, int64_t steps, float *g) {
    constexpr int64_t D = T::D;
    const int64_t channel = BUNDLED ? bundle * D : D;
    const Places from0 = lanes.half(0), from1 = lanes.half(1);
    Vec sum[P][2] = {};
    for (int64_t r = 0; r < rows; ++r, x += x_row) {
        const auto *from = x;
#pragma GCC unroll 2
        for (int64_t step = 0; step < steps; ++step, from += D * P * channel, dy += PANEL * D)
            multiply<T, BUNDLED, 0, P>(sum, from, channel, dy, from0, from1);
    }
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) store(g + p * PANEL, sum[p], PANEL);
}

// dw_k += sum_n a_nk G_n, and da_nk += <G_n, w_k> in VL partial sums, for IMAGES tiles of P * PANEL numbers that are TILE
// apart.
constexpr int64_t TILE = 16 * PANEL;

template <int IMAGES, int P>
void collect(const float *g, int64_t K, const float *a, const float *w, float *dw, float *da) {
    for (int64_t k = 0; k < K; ++k, w += P * PANEL, dw += P * PANEL) {
        Vec scales[IMAGES], dots[IMAGES];
#pragma GCC unroll 8
        for (int n = 0; n < IMAGES; ++n) {
            scales[n] = Vec{} + a[n * K + k];
            dots[n] = Singles::load(da + (n * K + k) * VL);
        }
#pragma GCC unroll 2
        for (int64_t i = 0; i < P * PANEL; i += VL) {
            Vec &to = *reinterpret_cast<Vec *>(dw + i);
            const Vec weight = Singles::load(w + i);
            Vec sum = to;
#pragma GCC unroll 8
            for (int n = 0; n < IMAGES; ++n) {
                const Vec gradient = Singles::load(g + n * TILE + i);
                sum += scales[n] * gradient;
                dots[n] += weight * gradient;
            }
            to = sum;
        }
#pragma GCC unroll 8
        for (int n = 0; n < IMAGES; ++n) *reinterpret_cast<Vec *>(da + (n * K + k) * VL) = dots[n];
    }
}

// All taps, parts and panels from `begin` to `end` (of panels * parts * taps) over the images of a chunk. make(panel, part,
// tap, n, P, tile) makes a tile of G of image n, P a compile-time constant of at most ROWS.
template <int64_t ROWS, class Make>
void gradient_of_tiles(const Shape &s, const Gradient &g, int64_t begin, int64_t end, int64_t images, const float *a,
                       const float *w, float *dw, float *da, Make make) {
    for (int64_t item = begin; item < end; ++item) {
        const int64_t tap = item % s.taps, part = item / s.taps % g.parts, panel = item / s.taps / g.parts;
        in_tiles<ROWS>(g.first(part + 1) - g.first(part), [&](int64_t, auto rows) {
            constexpr int P = decltype(rows)::value;
            const int64_t place = g.tile(s, panel, part) + tap * s.K * P * PANEL;
            alignas(64) float tiles[TOGETHER * TILE];
            for (int64_t first = 0; first < images;) {
                const int64_t count = images - first >= TOGETHER ? TOGETHER : 1;
                for (int64_t n = 0; n < count; ++n) make(panel, part, tap, first + n, rows, tiles + n * TILE);
                const auto add = count == TOGETHER ? collect<TOGETHER, P> : collect<1, P>;
                add(tiles, s.K, a + first * s.K, w + place, dw + place, da + first * s.K * VL);
                first += count;
            }
        });
    }
}

constexpr int64_t SLICE_BYTES = 384 << 10;  // of a panel's dY and a part's X for a chunk: they stay in the second-level cache
constexpr int64_t CHUNK_BYTES = 16 << 20;

// x_size, y_size: numbers of X and dY of an image, packed, of which a tile of G reads `slice`. pack(image, n, images, X, dY)
// packs an image as the n-th of a chunk, and with_tiles(images, X, dY, run) calls run(make) on what makes its tiles of G.
template <int64_t ROWS, class Element, class Number, class Pack, class WithTiles>
void gradient_by_chunks(const Shape &s, const Gradient &g, int64_t x_size, int64_t y_size, int64_t slice, int64_t room,
                        const Number *w, const float *a, Number *dw, float *da, Pack pack, WithTiles with_tiles) {
    const int64_t threads = omp_get_max_threads(), bytes = sizeof(Element);
    const int64_t chunk = std::clamp<int64_t>(
        std::min(SLICE_BYTES / (slice * bytes), CHUNK_BYTES / ((x_size + y_size) * bytes)), 1, std::max<int64_t>(1, s.N));
    Loan workspace(pool, 2 * Workspace::size<float>(g.bank(s)) + Workspace::size<Element>(chunk * x_size + room) +
                             Workspace::size<Element>(chunk * y_size) +
                             Workspace::size<float>(threads * chunk * s.K * VL));
    float *weights = workspace.take<float>(g.bank(s)), *sums = workspace.take<float>(g.bank(s));
    Element *maps = workspace.take<Element>(chunk * x_size + room);
    Element *gradients = workspace.take<Element>(chunk * y_size);
    float *dots = workspace.take<float>(threads * chunk * s.K * VL);
    if (s.O < g.panels.count() * PANEL) std::fill(weights, weights + g.bank(s), 0.f);
    for_each_weight(s, g, [&](int64_t packed, int64_t plain) { weights[packed] = w[plain]; });
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < g.bank(s); ++i) sums[i] = 0;
    for (int64_t first = 0; first < s.N; first += chunk) {
        const int64_t n = std::min(chunk, s.N - first);
#pragma omp parallel
        {
            const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
#pragma omp for schedule(static)
            for (int64_t i = 0; i < n; ++i) pack(first + i, i, n, maps, gradients);
            float *my_dots = dots + me * chunk * s.K * VL;
            std::fill(my_dots, my_dots + n * s.K * VL, 0.f);
            const int64_t items = g.panels.count() * g.parts * s.taps;
            with_tiles(n, maps, gradients, [&](auto make) {
                gradient_of_tiles<ROWS>(s, g, items * me / team, items * (me + 1) / team, n, a + first * s.K, weights,
                                        sums, my_dots, make);
            });
#pragma omp barrier
#pragma omp for schedule(static)
            for (int64_t i = 0; i < n * s.K; ++i) {
                float total = 0;
                for (int64_t t = 0; t < team; ++t)
                    for (int64_t l = 0; l < VL; ++l) total += dots[(t * chunk * s.K + i) * VL + l];
                da[first * s.K + i] = total;
            }
        }
    }
    for_each_weight(s, g, [&](int64_t packed, int64_t plain) { dw[plain] = sums[packed]; });
}

template <bool BUNDLED, class Number>
void gradient_of_experts(const Shape &s, const Number *x, const Number *w, const float *a, const Number *dy, Number *dw,
                         float *da) {
    using T = Arithmetic<Number>;
    using Element = typename T::Element;
    constexpr int64_t D = T::D, ROWS = BUNDLED ? BUNDLED_PIXELS : PIXELS;
    const Gradient g(s, D, ROWS);
    const int64_t size = g.x_channel(s, D), bundle = g.panels.bundle;
    const Lanes lanes(g.panels);
    const auto pack = [&](int64_t image, int64_t n, int64_t images, Element *maps, Element *gradients) {
        pack_x<T>(s, g, x + image * s.H * s.W * s.C, maps, n, images);
        pack_dy<T>(s, g, dy + image * s.R * s.S * s.O, gradients, n, images);
    };
    const auto with_tiles = [&](int64_t images, const Element *maps, const Element *gradients, auto run) {
        run([&](int64_t panel, int64_t part, int64_t tap, int64_t n, auto rows, float *tile) {
            constexpr int P = decltype(rows)::value;
            const int64_t i = tap / s.side, j = tap % s.side;
            // The output rows whose input row r * stride + i - pad is inside.
            const int64_t top = divide_up(std::max<int64_t>(0, s.pad - i), s.stride);
            const int64_t bottom = std::min(s.R, (s.H - 1 - i + s.pad + s.stride) / s.stride);
            const int64_t c = panel / g.panels.of_bundle() * g.panels.depth + g.first(part);
            const int64_t pixel = P * bundle * D, row = s.stride * g.columns * pixel;
            const int64_t place = (top * s.stride + i - s.pad) * row + (j % s.stride * g.columns + j / s.stride) * pixel;
            gradient_tile<T, BUNDLED, P>(lanes, bundle, maps + (c * images + P * n) * size + place, s.stride * row,
                                         gradients + ((panel * images + n) * s.R + top) * g.steps * PANEL * D,
                                         std::max<int64_t>(0, bottom - top), g.steps, tile);
        });
    };
    // With room at the end: a vector of a bundle's last channel is read as a whole.
    gradient_by_chunks<ROWS, Element>(s, g, g.x_image(s, D), g.panels.count() * g.y_panel(s, D),
                                      size * std::min(PIXELS, g.panels.depth) + g.y_panel(s, D), BLOCK, w, a, dw, da,
                                      pack, with_tiles);
}

// ------------------------------------------------------------------------------------------------- the matrix unit

#ifdef WITH_AMX
// One instruction multiplies, for 16 neighbouring pixels, 32 input channels by 16 output channels: registers of the matrix
// unit hold 16 rows of 64 bytes. The rows of a register are equally far apart in memory. So maps are packed with zeros on
// all sides, and pixels are counted from the first to the last output through these zeros, `width` of them in a row: at
// the zeros beside the map outputs are made too, and not stored (in G: multiplied by zeros). Layouts:
//     map [blocks][height][width][BLOCK], with zeros behind the last pixel that the last register reads
//     kernel, a panel: as above, the depth filled up with zeros to blocks
//     X, for G [part][image][P][span]; dY [panel][image][pixels / 2][PANEL][2]

// Linux gives a process these registers on request.
bool has_matrix_unit() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return granted;
}

bool by_matrix_unit(const Shape &s) { return s.groups == 1 && s.stride == 1 && has_matrix_unit(); }

// While it lives, registers 0 to 5 of this thread have `rows` rows, and 6 and 7, pairs of input channels, 16.
class MatrixUnit {
    struct Shapes {
        uint8_t palette = 0, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };
    Shapes before_;  // the caller's
    // gcc's intrinsics do not say that they read or write all 64 bytes.
    static void load(const Shapes &shapes) { asm volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }

  public:
    explicit MatrixUnit(int64_t rows) {
        asm volatile("sttilecfg %0" : "=m"(before_)::"memory");
        Shapes shapes;
        shapes.palette = 1;
        for (int i = 0; i < 8; ++i) {
            shapes.row_bytes[i] = 64;
            shapes.rows[i] = uint8_t(i < 6 ? rows : 16);
        }
        load(shapes);
    }
    ~MatrixUnit() {
        if (before_.palette)
            load(before_);
        else
            _tile_release();
    }
    MatrixUnit(const MatrixUnit &) = delete;
    MatrixUnit &operator=(const MatrixUnit &) = delete;
};

// How the pixels of a convolution's input and output, rows x columns, are counted.
struct Counted {
    int64_t rows, columns, side;
    int64_t width() const { return columns + side - 1; }
    int64_t pixels() const { return (rows - 1) * width() + columns; }  // from the first output to the last
    int64_t place(int64_t i, int64_t j) const { return i * width() + j; }  // of a tap's input
    // Calls f(pixel, output) with those that are stored.
    template <class Fn> void each_output(int64_t first, int64_t count, Fn f) const {
        int64_t row = first / width(), column = first % width();
        for (int64_t pixel = first; pixel < std::min(first + count, pixels()); ++pixel) {
            if (column < columns) f(pixel, row * columns + column);
            if (++column == width()) column = 0, ++row;
        }
    }
};

// A map height x width with `depth` channels -> zeros around it, `before` on the left and above.
void pack_counted(const Counted &out, int64_t height, int64_t width, int64_t depth, int64_t before, int64_t plane,
                  const bf16 *x, bf16 *to) {
    for (int64_t c = 0; c < depth; c += BLOCK) {
        const __mmask32 there = depth - c >= BLOCK ? ~0u : (1u << (depth - c)) - 1;
        const bf16 *end = to + plane * BLOCK;
        const auto zeros = [&](int64_t count) {
            std::fill(to, to + count * BLOCK, bf16{0.f});
            to += count * BLOCK;
        };
        zeros(before * out.width());
        for (int64_t row = 0; row < height; ++row) {
            zeros(before);
            for (int64_t column = 0; column < width; ++column, to += BLOCK)
                _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(there, x + (row * width + column) * depth + c));
            zeros(out.width() - before - width);
        }
        zeros((end - to) / BLOCK);
    }
}

// COUNT registers of pixels, one panel: sums[pixel][PANEL]. TURNED: as in `passes_to_input`.
template <bool TURNED, int COUNT>
void convolve_counted(const bf16 *x, int64_t plane, int64_t blocks, const Counted &out, int64_t pixels,
                             const bf16 *w, float *sums) {
    constexpr int64_t NEXT = BLOCK * sizeof(bf16), ROW = 2 * PANEL * sizeof(bf16);
    _tile_zero(0);
    _tile_zero(1);
    if (COUNT == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t block = 0; block < blocks; ++block, x += plane * BLOCK)
        for (int64_t i = 0; i < out.side; ++i)
            for (int64_t j = 0; j < out.side; ++j, w += BLOCK * PANEL) {
                const int64_t row = TURNED ? out.side - 1 - i : i, column = TURNED ? out.side - 1 - j : j;
                const bf16 *from = x + out.place(row, column) * BLOCK;
                _tile_loadd(4, from, NEXT);
                _tile_loadd(6, w, ROW);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, w + 2 * VL, ROW);
                _tile_dpbf16ps(1, 4, 7);
                if (COUNT == 2) {
                    _tile_loadd(5, from + pixels * BLOCK, NEXT);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
    constexpr int64_t SUMS = PANEL * sizeof(float);
    _tile_stored(0, sums, SUMS);
    _tile_stored(1, sums + VL, SUMS);
    if (COUNT == 2) {
        _tile_stored(2, sums + pixels * PANEL, SUMS);
        _tile_stored(3, sums + pixels * PANEL + VL, SUMS);
    }
}

// As `convolution`.
template <bool TURNED>
void convolution_by_matrix_unit(const Shape &s, const bf16 *x, const bf16 *w, const float *a, bf16 *y) {
    const Panels panels = TURNED ? panels_of_input(s) : panels_of_output(s);
    const Counted out = TURNED ? Counted{s.H, s.W, s.side} : Counted{s.R, s.S, s.side};
    const int64_t height = TURNED ? s.R : s.H, width = TURNED ? s.S : s.W, before = TURNED ? s.side - 1 - s.pad : s.pad;
    const int64_t registers = divide_up(out.pixels(), 16), pixels = divide_up(out.pixels(), registers);
    const int64_t blocks = divide_up(panels.depth, BLOCK);
    const int64_t plane = (out.rows + s.side - 1) * out.width() + registers * pixels - out.pixels();
    const int64_t map_size = blocks * plane * BLOCK, threads = omp_get_max_threads();
    const Bank bank{s.K, s.taps, BLOCK, panels};
    const int64_t chunk = images_of_chunk(map_size * sizeof(bf16)), mixed = images_mixed(bank.panel() * sizeof(bf16));
    Loan workspace(pool, Workspace::size<bf16>(bank.size()) + Workspace::size<bf16>(threads * mixed * bank.panel()) +
                             Workspace::size<bf16>(threads * chunk * map_size));
    bf16 *experts = workspace.take<bf16>(bank.size());
    bf16 *kernels = workspace.take<bf16>(threads * mixed * bank.panel());
    bf16 *maps = workspace.take<bf16>(threads * chunk * map_size);
    pack_experts<Pairs, TURNED>(s, bank, BLOCK, w, experts);
    share_images(
        s.N, panels.count(), chunk, mixed, maps, map_size, kernels, bank.panel(),
        [&](int64_t image, bf16 *map) {
            pack_counted(out, height, width, panels.depth, before, plane, x + image * height * width * panels.depth, map);
        },
        [&](int64_t p, int64_t first_image, int64_t images, const bf16 *map, bf16 *kernel) {
            mix_kernels(experts + p * s.K * bank.panel(), s.K, a + first_image * s.K, bank.panel(), images, kernel);
            const int64_t lanes = panels.lanes(p), out_size = out.rows * out.columns * panels.outs;
            const MatrixUnit unit(pixels);
            for (int64_t i = 0; i < images; ++i, map += map_size, kernel += bank.panel()) {
                bf16 *to = y + (first_image + i) * out_size + panels.first_out(p);
                for (int64_t first = 0; first < registers; first += 2) {
                    alignas(64) float sums[2 * 16 * PANEL];
                    const int64_t count = std::min<int64_t>(2, registers - first);
                    const auto run = count == 2 ? convolve_counted<TURNED, 2> : convolve_counted<TURNED, 1>;
                    run(map + first * pixels * BLOCK, plane, blocks, out, pixels, kernel, sums);
                    out.each_output(first * pixels, count * pixels, [&](int64_t pixel, int64_t output) {
                        const float *sum = sums + (pixel - first * pixels) * PANEL;
                        store(to + output * panels.outs, {Singles::load(sum), Singles::load(sum + VL)}, lanes);
                    });
                }
            }
        });
}

// rows[c][i] = pairs[i][c], in pairs of bf16.
INLINE void transpose(__m512i (&v)[16]) {
    __m512i t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // Now v[4 q + r] holds, in its four quarters l, rows 4 q .. 4 q + 3 of column 4 l + r.
#pragma GCC unroll 16
    for (int r = 0; r < 4; ++r) {
        const __m512i even = _mm512_shuffle_i32x4(v[r], v[4 + r], 0x88), odd = _mm512_shuffle_i32x4(v[r], v[4 + r], 0xdd);
        const __m512i even2 = _mm512_shuffle_i32x4(v[8 + r], v[12 + r], 0x88),
                      odd2 = _mm512_shuffle_i32x4(v[8 + r], v[12 + r], 0xdd);
        t[r] = _mm512_shuffle_i32x4(even, even2, 0x88);
        t[4 + r] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        t[8 + r] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        t[12 + r] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = t[i];
}

// As `gradient_of_experts`.
void gradient_by_matrix_unit(const Shape &s, const bf16 *x, const bf16 *w, const float *a, const bf16 *dy, bf16 *dw,
                             float *da) {
    constexpr int64_t ROWS = 16, PIXELS_AT_ONCE = 32;
    const Gradient g(s, 2, ROWS);
    const Counted out{s.R, s.S, s.side};
    const int64_t steps = divide_up(out.pixels(), PIXELS_AT_ONCE), y_panel = steps * PIXELS_AT_ONCE * PANEL;
    const int64_t last = out.place(s.side - 1, s.side - 1) + steps * PIXELS_AT_ONCE;
    const int64_t span = divide_up(last, PIXELS_AT_ONCE) * PIXELS_AT_ONCE;
    const auto pack = [&](int64_t image, int64_t n, int64_t images, bf16 *maps, bf16 *gradients) {
        const bf16 *pixels_x = x + image * s.H * s.W * s.C, *pixels_y = dy + image * s.R * s.S * s.O;
        const auto input = [&](int64_t pixel) {
            const int64_t row = pixel / out.width() - s.pad, column = pixel % out.width() - s.pad;
            const bool inside = row >= 0 && row < s.H && column >= 0 && column < s.W;
            return inside ? pixels_x + (row * s.W + column) * s.C : nullptr;
        };
        const auto output = [&](int64_t pixel) {
            const int64_t row = pixel / out.width(), column = pixel % out.width();
            return row < s.R && column < s.S ? pixels_y + (row * s.S + column) * s.O : nullptr;
        };
        alignas(64) bf16 pairs[16][PIXELS_AT_ONCE];
        for (int64_t first = 0; first < span; first += PIXELS_AT_ONCE) {
            const bf16 *from[PIXELS_AT_ONCE];
            for (int64_t i = 0; i < PIXELS_AT_ONCE; ++i) from[i] = input(first + i);
            for (int64_t part = 0; part < g.parts; ++part) {
                const int64_t c = g.first(part), P = g.first(part + 1) - c;
                __m512i rows[16];
                for (int64_t i = 0; i < 16; ++i) {
                    const bf16 *const two[2] = {from[2 * i] ? from[2 * i] + c : nullptr,
                                                from[2 * i + 1] ? from[2 * i + 1] + c : nullptr};
                    interleave(two, P, VL, pairs[i]);
                    rows[i] = _mm512_load_si512(pairs[i]);
                }
                transpose(rows);
                bf16 *to = maps + (c * images + P * n) * span + first;
#pragma GCC unroll 16
                for (int64_t i = 0; i < 16; ++i)
                    if (i < P) _mm512_storeu_si512(to + i * span, rows[i]);
            }
        }
        for (int64_t first = 0; first < steps * PIXELS_AT_ONCE; first += 2) {
            const bf16 *const two[2] = {output(first), output(first + 1)};
            for (int64_t p = 0; p < g.panels.count(); ++p)
                for (int64_t lane = 0; lane < PANEL; lane += VL) {
                    const int64_t c = p * PANEL + lane;
                    const bf16 *const pixels[2] = {two[0] ? two[0] + c : nullptr, two[1] ? two[1] + c : nullptr};
                    interleave(pixels, std::clamp<int64_t>(s.O - c, 0, VL), VL,
                               gradients + (p * images + n) * y_panel + first * PANEL + lane * 2);
                }
        }
    };
    const auto with_tiles = [&](int64_t images, const bf16 *maps, const bf16 *gradients, auto run) {
        const MatrixUnit unit(ROWS);
        run([&](int64_t panel, int64_t part, int64_t tap, int64_t n, auto rows, float *tile) {
            constexpr int P = decltype(rows)::value;
            constexpr int64_t ROW = 2 * PANEL * sizeof(bf16);
            const bf16 *from = maps + (g.first(part) * images + P * n) * span + out.place(tap / s.side, tap % s.side);
            const bf16 *with = gradients + (panel * images + n) * y_panel;
            _tile_zero(0);
            _tile_zero(1);
            for (int64_t step = 0; step < steps; ++step, from += PIXELS_AT_ONCE, with += PIXELS_AT_ONCE * PANEL) {
                _tile_loadd(4, from, span * sizeof(bf16));
                _tile_loadd(6, with, ROW);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, with + 2 * VL, ROW);
                _tile_dpbf16ps(1, 4, 7);
            }
            _tile_stored(0, tile, PANEL * sizeof(float));
            _tile_stored(1, tile + VL, PANEL * sizeof(float));
        });
    };
    gradient_by_chunks<ROWS, bf16>(s, g, g.panels.depth * span, g.panels.count() * y_panel, ROWS * span + y_panel,
                                   ROWS * span, w, a, dw, da, pack, with_tiles);
}
#endif

// y = the convolution of x; TURNED: x stands for dY, y for dX.
template <bool TURNED, class Number>
void convolve_by_fastest(const Shape &s, const Number *x, const Number *w, const float *a, Number *y) {
#ifdef WITH_AMX
    if constexpr (std::is_same_v<Number, bf16>)
        if (by_matrix_unit(s)) return convolution_by_matrix_unit<TURNED>(s, x, w, a, y);
#endif
    convolution<TURNED>(s, x, w, a, y);
}

template <class Number>
void gradient_by_fastest(const Shape &s, const Number *x, const Number *w, const float *a, const Number *dy, Number *dw,
                         float *da) {
#ifdef WITH_AMX
    if constexpr (std::is_same_v<Number, bf16>)
        if (by_matrix_unit(s)) return gradient_by_matrix_unit(s, x, w, a, dy, dw, da);
#endif
    const auto run = panels_of_output(s).bundle > 1 ? gradient_of_experts<true, Number> : gradient_of_experts<false, Number>;
    run(s, x, w, a, dy, dw, da);
}

}  // namespace

// The interface to Python: `Number` is float or bf16; arrays as described at the top. Each returns 0, or 1 where there
// is not enough memory.
#define OPERATORS(NAME, Number)                                                                                        \
    extern "C" int dynconv_fused_forward_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t groups, \
                                                int64_t K, int64_t side, int64_t stride, int64_t pad,                  \
                                                const Number *x, const Number *w, const float *a, Number *y) {         \
        return guarded([&] {                                                                                           \
            convolve_by_fastest<false>(Shape(N, H, W, C, O, groups, K, side, stride, pad), x, w, a, y);                \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" int dynconv_fused_backward_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t groups,\
                                                 int64_t K, int64_t side, int64_t stride, int64_t pad,                 \
                                                 const Number *x, const Number *w, const float *a, const Number *dy,   \
                                                 Number *dx, Number *dw, float *da) {                                  \
        const Shape s(N, H, W, C, O, groups, K, side, stride, pad);                                                    \
        return guarded([&] {                                                                                           \
            if (dx) convolve_by_fastest<true>(s, dy, w, a, dx);                                                        \
            if (dw) gradient_by_fastest(s, x, w, a, dy, dw, da);                                                       \
        });                                                                                                            \
    }
OPERATORS(float32, float)
OPERATORS(bfloat16, bf16)

// Frees what is kept for the next calls.
extern "C" void dynconv_fused_release() { pool.release(); }

// The memory kept for the next calls and used by calls in progress.
extern "C" int64_t dynconv_fused_workspace_bytes() { return pool.bytes(); }
