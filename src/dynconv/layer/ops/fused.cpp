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
// 3x3 and 1x1 kernels, stride 1 and 2, any number of channels. float32, and bf16 with sums in float32. With AVX512-BF16
// bf16 is multiplied in pairs by vdpbf16ps: sum += w[0] x[0] + w[1] x[1] in each of 16 lanes. Without it, bf16 is widened
// to float32 where it is packed.
//
// The threads share images (forward, dX) or tiles of the kernel (dW), split statically, and what they sum separately is
// added in a fixed order: the results have the same bits for one number of threads.
//
// One file, though a long one: the compiler has to inline all of it into the loops over register tiles.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C input channels, O output channels, K experts; R x S the output's size
//     x [N,H,W,C]  y [N,R,S,O]  a [N,K]  w [K,O,C,taps]; taps = 9 or 1 positions of the kernel
//     D channels (or pixels, in G) that one instruction multiplies at once and sums: 2 for pairs, else 1
//     PANEL output channels of a register tile; BLOCK input channels that are packed together
//     packed map [blocks][row][phase][column][BLOCK], phase = column of the input modulo the stride, zeros at the sides
//     packed kernel, a panel: [blocks][tap][BLOCK / D][PANEL][D]

#include "workspace.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <utility>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

#define INLINE inline __attribute__((always_inline))  // keeps register tiles in registers
#ifdef __AVX512F__
typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t PIXELS = 14;  // of a register tile: with two vectors each they fill 28 of the 32 registers
constexpr int64_t TOGETHER = 8;  // images whose gradients are collected at once: two registers each
#else
typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t PIXELS = 6, TOGETHER = 4;  // 12 of 16 registers, and 8
#endif
constexpr int64_t VL = sizeof(Vec) / sizeof(float), PANEL = 2 * VL, BLOCK = 32;

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
    static INLINE Vec dot(Vec sum, __m512i w, __m512i x) {
        asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
        return sum;
    }
};
template <class Number> using Arithmetic = std::conditional_t<std::is_same_v<Number, bf16>, Pairs, Singles>;
#else
template <class Number> using Arithmetic = Singles;
#endif

template <int64_t D> int64_t round_up(int64_t n) { return (n + D - 1) / D * D; }
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
    int64_t N, H, W, C, O, K, side, stride, pad, R, S, taps;
    Shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K, int64_t side, int64_t stride, int64_t pad)
        : N(N), H(H), W(W), C(C), O(O), K(K), side(side), stride(stride), pad(pad),
          R((H + 2 * pad - side) / stride + 1), S((W + 2 * pad - side) / stride + 1), taps(side * side) {}
};

// A packed map. `left` columns of zeros come before the first one; each phase has `columns`.
struct Layout {
    int64_t height, width, channels, left, phases, columns;
    int64_t row() const { return phases * columns * BLOCK; }
    int64_t block() const { return height * row(); }
    int64_t size() const { return divide_up(channels, BLOCK) * block(); }
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

Layout layout_of_input(const Shape &s) {
    return {s.H, s.W, s.C, s.pad, s.stride, divide_up((s.S - 1) * s.stride + s.side, s.stride)};
}

Pass forward_pass(const Shape &s, const Layout &in) {
    Pass pass{{}, s.stride, 0, 0, 1, s.R, s.S};
    for (int64_t i = 0; i < s.side; ++i)
        for (int64_t j = 0; j < s.side; ++j) pass.taps.push_back({i - s.pad, j - s.pad, in.offset(j), i * s.side + j});
    return pass;
}

// dX[h, w] = sum of dY[(h + pad - i) / stride, (w + pad - j) / stride] W[i, j] over the i, j that divide: for each phase
// of h and w a convolution of its own.
Layout layout_of_gradient(const Shape &s) {
    const int64_t left = divide_up(s.side - 1 - s.pad, s.stride);
    const int64_t right = (s.W - 1 + s.pad) / s.stride - (s.S - 1);
    return {s.R, s.S, s.O, left, 1, left + s.S + std::max<int64_t>(0, right)};
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

template <class Element, class Number> void pack_map(const Layout &l, const Number *x, Element *out) {
    for (int64_t c = 0; c < l.channels; c += BLOCK, out += l.block()) {
        const int64_t count = std::min(BLOCK, l.channels - c);
        for (int64_t row = 0; row < l.height; ++row)
            for (int64_t phase = 0; phase < l.phases; ++phase)
                for (int64_t column = 0; column < l.columns; ++column) {
                    Element *to = out + row * l.row() + (phase * l.columns + column) * BLOCK;
                    const int64_t from = column * l.phases + phase - l.left;
                    int64_t i = 0;
                    if (from >= 0 && from < l.width) {
                        const Number *pixel = x + (row * l.width + from) * l.channels + c;
                        if (count == BLOCK)
                            for (; i < BLOCK; ++i) to[i] = Element(pixel[i]);
                        else
                            for (; i < count; ++i) to[i] = Element(pixel[i]);
                    }
                    for (; i < BLOCK; ++i) to[i] = Element(0.f);
                }
    }
}

// The experts as the convolution reads them. With TURNED, C and O are exchanged, for the input's gradient.
struct Bank {
    int64_t K, depth, outs, taps, D;
    int64_t panels() const { return divide_up(outs, PANEL); }
    int64_t panel() const { return (depth + D - 1) / D * D * taps * PANEL; }
    int64_t size() const { return panels() * K * panel(); }
};

template <class T, bool TURNED, class Number>
void pack_experts(const Shape &s, const Bank &bank, const Number *w, typename T::Element *out) {
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    const int64_t to_out = TURNED ? s.taps : s.C * s.taps, to_depth = TURNED ? s.C * s.taps : s.taps;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t p = 0; p < bank.panels(); ++p)
        for (int64_t k = 0; k < s.K; ++k) {
            const Number *from = w + k * s.O * s.C * s.taps + p * PANEL * to_out;
            Element *to = out + (p * s.K + k) * bank.panel();
            const int64_t outs = std::min(PANEL, bank.outs - p * PANEL);
            if (outs < PANEL || bank.depth % D) std::fill(to, to + bank.panel(), Element(0.f));
            for (int64_t b = 0; b < bank.depth; b += BLOCK) {
                const int64_t depth = std::min(BLOCK, bank.depth - b), steps = divide_up(depth, D);
                const auto copy = [&](int64_t z, int64_t lane) {
                    for (int64_t tap = 0; tap < s.taps; ++tap)
                        to[((tap * steps + z / D) * PANEL + lane) * D + z % D] =
                            Element(from[lane * to_out + (b + z) * to_depth + tap]);
                };
                if constexpr (TURNED)  // the index that steps over neighbours in memory runs last
                    for (int64_t z = 0; z < depth; ++z)
                        for (int64_t lane = 0; lane < outs; ++lane) copy(z, lane);
                else
                    for (int64_t lane = 0; lane < outs; ++lane)
                        for (int64_t z = 0; z < depth; ++z) copy(z, lane);
                to += s.taps * steps * D * PANEL;
            }
        }
}

// out = sum_k a_k experts_k, `count` numbers of each, in multiples of D * PANEL.
INLINE void mix(const float *experts, int64_t K, const float *a, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += PANEL) {
        Vec sum[2] = {};
        for (int64_t k = 0; k < K; ++k)
            for (int v = 0; v < 2; ++v) sum[v] += a[k] * Singles::load(experts + k * count + i + v * VL);
        store(out + i, sum, PANEL);
    }
}

#ifdef __AVX512BF16__
INLINE void mix(const bf16 *experts, int64_t K, const float *a, int64_t count, bf16 *out) {
    // A pair is a 32-bit number: shifted left it is its first half as float32, masked its second.
    constexpr int64_t UNROLL = 4;
    const __m512i second = _mm512_set1_epi32(int32_t(0xffff0000));
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; ++i) order[i] = uint16_t(i / 2 + i % 2 * 16);
    const __m512i interleave = _mm512_load_si512(order);
    static_assert(2 * PANEL % 32 == 0);
    const auto step = [&](int64_t i, auto unroll) __attribute__((always_inline)) {
        constexpr int64_t U = decltype(unroll)::value;
        __m512 low[U] = {}, high[U] = {};
        for (int64_t k = 0; k < K; ++k) {
            const __m512 scale = _mm512_set1_ps(a[k]);
            const bf16 *from = experts + k * count + i;
#pragma GCC unroll 4
            for (int64_t u = 0; u < U; ++u) {
                const __m512i pairs = _mm512_loadu_si512(from + u * 32);
                low[u] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), scale, low[u]);
                high[u] = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(pairs, second)), scale, high[u]);
            }
        }
#pragma GCC unroll 4
        for (int64_t u = 0; u < U; ++u) {
            const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high[u], low[u]);
            _mm512_storeu_si512(out + i + u * 32, _mm512_permutexvar_epi16(interleave, halves));
        }
    };
    int64_t i = 0;
    for (; i + UNROLL * 32 <= count; i += UNROLL * 32) step(i, std::integral_constant<int64_t, UNROLL>{});
    for (; i < count; i += 32) step(i, std::integral_constant<int64_t, 1>{});
}
#endif

// ----------------------------------------------------------------------------------------------------- convolution

// P neighbouring output pixels of one row, PANEL channels: y[p * y_pixel + 0..outs). x stands at the first pixel's
// input, to which the taps' places are relative; w is a mixed panel. A tap leaves out the first pixel if it would read
// the zeros left of the map there (its column is below `left`), or the last one (from `right` on). Zeros are right too.
template <class T, class Number, int P>
void convolve_tile(const typename T::Element *x, int64_t x_block, const Tap *taps, int64_t n_taps, int64_t left,
                   int64_t right, const typename T::Element *w, int64_t depth, int64_t all_taps, Number *y,
                   int64_t y_pixel, int64_t outs) {
    constexpr int64_t D = T::D;
    Vec sum[P][2] = {};
    for (int64_t c = 0; c < depth; c += BLOCK) {
        const int64_t steps = divide_up(std::min(BLOCK, depth - c), D);
        for (const Tap *tap = taps; tap < taps + n_taps; ++tap) {
            const auto add = [&](auto first, auto end) __attribute__((always_inline)) {
                constexpr int FIRST = decltype(first)::value, END = decltype(end)::value;
                const auto *from = x + tap->place;
                const auto *kernel = w + tap->number * steps * D * PANEL;
#pragma GCC unroll 2
                for (int64_t q = 0; q < steps; ++q, from += D, kernel += D * PANEL) {
                    const auto w0 = T::load(kernel), w1 = T::load(kernel + D * VL);
#pragma GCC unroll 14
                    for (int p = FIRST; p < END; ++p) {
                        const auto pixel = T::spread(from + p * BLOCK);
                        sum[p][0] = T::dot(sum[p][0], w0, pixel);
                        sum[p][1] = T::dot(sum[p][1], w1, pixel);
                    }
                }
            };
            constexpr std::integral_constant<int, 0> first{};
            constexpr std::integral_constant<int, P> end{};
            if constexpr (P > PIXELS - 3)  // three loops would leave too few registers
                add(first, end);
            else if (tap->column < left)
                add(std::integral_constant<int, 1>{}, end);
            else if (tap->column >= right)
                add(first, std::integral_constant<int, P - 1>{});
            else
                add(first, end);
        }
        x += x_block;
        w += all_taps * BLOCK * PANEL;
    }
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) store(y + p * y_pixel, sum[p], outs);
}

// Calls f(first, P) for `count` in parts of nearly equal size of at most PIXELS, P a compile-time constant.
template <class Fn> INLINE void in_tiles(int64_t count, Fn f) {
    const int64_t parts = divide_up(count, PIXELS);
    for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = count * part / parts, size = count * (part + 1) / parts - first;
        switch (size) {
#define CASE(P) \
    case P: if constexpr (P <= PIXELS) f(first, std::integral_constant<int, P>{}); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
            CASE(14)
#undef CASE
        }
    }
}

// One image, one panel: the rows of `pass`. y is that image's map, `width` pixels wide with `channels`, from the
// panel's first channel on.
template <class T, class Number>
void convolve(const Pass &pass, const Layout &in, const typename T::Element *x, const typename T::Element *w,
              int64_t all_taps, Number *y, int64_t width, int64_t channels, int64_t outs) {
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
        in_tiles(pass.columns, [&](int64_t first, auto pixels) {
            constexpr int P = decltype(pixels)::value;
            convolve_tile<T, Number, P>(x + first * BLOCK, in.block(), inside, n, -first * pass.step,
                                        in.width - (first + P - 1) * pass.step, w, in.channels, all_taps,
                                        line + first * pixel, pixel, outs);
        });
    }
}

// A convolution of all images with their own mixtures, from the map `x` to the map `y` of out_height x out_width.
template <class T, class Number>
void convolve_images(const Shape &s, const Layout &in, const std::vector<Pass> &passes, const Bank &bank,
                     const typename T::Element *experts, const Number *x, const float *a, Number *y,
                     int64_t out_pixels, int64_t out_width, typename T::Element *maps, typename T::Element *mixed,
                     int64_t chunk) {
    const int64_t threads = omp_get_max_threads();
    // With too few images to share, the threads share the panels of each.
    const bool by_image = s.N >= threads;
    const int64_t in_size = in.height * in.width * in.channels;
    const auto panel = [&](int64_t p, int64_t image, const typename T::Element *map, typename T::Element *kernel) {
        mix(experts + p * s.K * bank.panel(), s.K, a + image * s.K, bank.panel(), kernel);
        for (const Pass &pass : passes)
            convolve<T>(pass, in, map, kernel, s.taps, y + image * out_pixels * bank.outs + p * PANEL, out_width,
                        bank.outs, bank.outs - p * PANEL);
    };
    if (by_image) {
#pragma omp parallel
        {
            const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
            auto *my_maps = maps + me * chunk * in.size();
            auto *kernel = mixed + me * bank.panel();
            const int64_t end = s.N * (me + 1) / team;
            for (int64_t first = s.N * me / team; first < end; first += chunk) {
                const int64_t n = std::min(chunk, end - first);
                for (int64_t i = 0; i < n; ++i) pack_map(in, x + (first + i) * in_size, my_maps + i * in.size());
                for (int64_t p = 0; p < bank.panels(); ++p)
                    for (int64_t i = 0; i < n; ++i) panel(p, first + i, my_maps + i * in.size(), kernel);
            }
        }
    } else {
        for (int64_t i = 0; i < s.N; ++i) {
            pack_map(in, x + i * in_size, maps);
#pragma omp parallel for schedule(static)
            for (int64_t p = 0; p < bank.panels(); ++p) panel(p, i, maps, mixed + omp_get_thread_num() * bank.panel());
        }
    }
}

constexpr int64_t MAP_BYTES = 2 << 20;  // of a thread's packed maps: the experts are read once for so many images

template <class Element> int64_t images_of_chunk(const Layout &in) {
    return std::clamp<int64_t>(MAP_BYTES / int64_t(in.size() * sizeof(Element)), 1, 32);
}

Pool pool;

// y = the convolution of x; TURNED: x stands for dY, y for dX.
template <bool TURNED, class Number>
void convolution(const Shape &s, const Number *x, const Number *w, const float *a, Number *y) {
    using T = Arithmetic<Number>;
    using Element = typename T::Element;
    const int64_t threads = omp_get_max_threads();
    const Layout in = TURNED ? layout_of_gradient(s) : layout_of_input(s);
    const auto passes = TURNED ? passes_to_input(s, in) : std::vector<Pass>{forward_pass(s, in)};
    const Bank bank{s.K, TURNED ? s.O : s.C, TURNED ? s.C : s.O, s.taps, T::D};
    const int64_t chunk = images_of_chunk<Element>(in);
    Loan workspace(pool, Workspace::size<Element>(bank.size()) + Workspace::size<Element>(threads * bank.panel()) +
                             Workspace::size<Element>(threads * chunk * in.size()));
    Element *experts = workspace.take<Element>(bank.size());
    Element *mixed = workspace.take<Element>(threads * bank.panel());
    Element *maps = workspace.take<Element>(threads * chunk * in.size());
    pack_experts<T, TURNED>(s, bank, w, experts);
    convolve_images<T>(s, in, passes, bank, experts, x, a, y, TURNED ? s.H * s.W : s.R * s.S, TURNED ? s.W : s.S, maps,
                       mixed, chunk);
}

// ----------------------------------------------------------------------------- gradients of experts and of routing

// G of one image is the product of X, pixels by input channels, and dY, pixels by output channels, over pixels. For
// pairs, dY holds pixels (0, 1), (2, 3), ... of a row, and X holds at each pixel it and its neighbour to the right, so
// that a pair can begin anywhere. Layouts:
//     groups of P input channels, of nearly equal size, P <= PIXELS
//     X [group][image][row][phase][column][P][D]    dY [panel][image][row][S / D][PANEL][D]
//     experts and their gradients, in float32: [panel][group][tap][K][P][PANEL]
struct Gradient {
    int64_t groups, panels, columns, steps;
    Gradient(const Shape &s, int64_t D)
        : groups(divide_up(s.C, PIXELS)), panels(divide_up(s.O, PANEL)),
          columns(divide_up(s.S, D) * D + (s.side - 1) / s.stride), steps(divide_up(s.S, D)) {}
    int64_t first(const Shape &s, int64_t group) const { return s.C * group / groups; }
    int64_t x_channel(const Shape &s, int64_t D) const { return s.H * s.stride * columns * D; }
    int64_t y_panel(const Shape &s, int64_t D) const { return s.R * steps * PANEL * D; }
    int64_t bank(const Shape &s) const { return panels * PANEL * s.C * s.taps * s.K; }
    int64_t tile(const Shape &s, int64_t panel, int64_t group) const {
        return (panel * s.C + first(s, group)) * PANEL * s.taps * s.K;
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

template <class T, class Number>
void pack_x(const Shape &s, const Gradient &g, const Number *x, typename T::Element *out, int64_t image, int64_t images) {
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    for (int64_t group = 0; group < g.groups; ++group) {
        const int64_t c = g.first(s, group), P = g.first(s, group + 1) - c, size = g.x_channel(s, D);
        Element *to = out + (c * images + P * image) * size;
        for (int64_t row = 0; row < s.H; ++row)
            for (int64_t phase = 0; phase < s.stride; ++phase)
                for (int64_t column = 0; column < g.columns; ++column, to += P * D) {
                    const Number *pixels[D];
                    for (int64_t d = 0; d < D; ++d) {
                        const int64_t from = (column + d) * s.stride + phase - s.pad;
                        const bool inside = from >= 0 && from < s.W && column + d < g.columns;
                        pixels[d] = inside ? x + (row * s.W + from) * s.C + c : nullptr;
                    }
                    interleave(pixels, P, P, to);
                }
    }
}

template <class T, class Number>
void pack_dy(const Shape &s, const Gradient &g, const Number *dy, typename T::Element *out, int64_t image,
             int64_t images) {
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    for (int64_t p = 0; p < g.panels; ++p) {
        Element *to = out + (p * images + image) * g.y_panel(s, D);
        const int64_t outs = std::min(PANEL, s.O - p * PANEL);
        for (int64_t row = 0; row < s.R; ++row)
            for (int64_t step = 0; step < g.steps; ++step, to += PANEL * D) {
                const Number *pixels[D];
                for (int64_t d = 0; d < D; ++d) {
                    const int64_t column = step * D + d;
                    pixels[d] = column < s.S ? dy + (row * s.S + column) * s.O + p * PANEL : nullptr;
                }
                for (int64_t lane = 0; lane < PANEL; lane += VL) {
                    interleave(pixels, std::clamp<int64_t>(outs - lane, 0, VL), VL, to + lane * D);
                    for (const Number *&pixel : pixels) pixel = pixel ? pixel + VL : nullptr;
                }
            }
    }
}

// Calls f(in packed bank, in w [K,O,C,taps]) with the two places of every weight.
template <class Fn> void for_each_weight(const Shape &s, const Gradient &g, Fn f) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t panel = 0; panel < g.panels; ++panel)
        for (int64_t group = 0; group < g.groups; ++group) {
            const int64_t c = g.first(s, group), P = g.first(s, group + 1) - c, outs = std::min(PANEL, s.O - panel * PANEL);
            for (int64_t k = 0; k < s.K; ++k)
                for (int64_t lane = 0; lane < outs; ++lane)
                    for (int64_t i = 0; i < P; ++i)
                        for (int64_t tap = 0; tap < s.taps; ++tap)
                            f(g.tile(s, panel, group) + ((tap * s.K + k) * P + i) * PANEL + lane,
                              ((k * s.O + panel * PANEL + lane) * s.C + c + i) * s.taps + tap);
        }
}

// One register tile of G for one image, P input channels by PANEL output channels, over `rows` rows.
template <class T, int P>
void gradient_tile(const typename T::Element *x, int64_t x_row, const typename T::Element *dy, int64_t rows,
                   int64_t steps, float *g) {
    constexpr int64_t D = T::D;
    Vec sum[P][2] = {};
    for (int64_t r = 0; r < rows; ++r, x += x_row) {
        const auto *from = x;
#pragma GCC unroll 2
        for (int64_t step = 0; step < steps; ++step, from += D * P * D, dy += PANEL * D) {
            const auto y0 = T::load(dy), y1 = T::load(dy + D * VL);
#pragma GCC unroll 14
            for (int p = 0; p < P; ++p) {
                const auto channel = T::spread(from + p * D);
                sum[p][0] = T::dot(sum[p][0], y0, channel);
                sum[p][1] = T::dot(sum[p][1], y1, channel);
            }
        }
    }
#pragma GCC unroll 14
    for (int p = 0; p < P; ++p) store(g + p * PANEL, sum[p], PANEL);
}

// dw_k += sum_n a_nk G_n, and da_nk += <G_n, w_k> in VL partial sums, for IMAGES tiles of P * PANEL numbers.
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
                const Vec gradient = Singles::load(g + n * PIXELS * PANEL + i);
                sum += scales[n] * gradient;
                dots[n] += weight * gradient;
            }
            to = sum;
        }
#pragma GCC unroll 8
        for (int n = 0; n < IMAGES; ++n) *reinterpret_cast<Vec *>(da + (n * K + k) * VL) = dots[n];
    }
}

// All taps, panels and groups from `begin` to `end` (of panels * groups * taps) over the images of a chunk.
template <class T>
void gradient_of_tiles(const Shape &s, const Gradient &g, int64_t begin, int64_t end, int64_t images,
                       const typename T::Element *x, const typename T::Element *dy, const float *a, const float *w,
                       float *dw, float *da) {
    constexpr int64_t D = T::D;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t tap = item % s.taps, group = item / s.taps % g.groups, panel = item / s.taps / g.groups;
        const int64_t i = tap / s.side, j = tap % s.side, c = g.first(s, group), size = g.x_channel(s, D);
        // The output rows whose input row r * stride + i - pad is inside.
        const int64_t top = divide_up(std::max<int64_t>(0, s.pad - i), s.stride);
        const int64_t bottom = std::min(s.R, (s.H - 1 - i + s.pad + s.stride) / s.stride);
        in_tiles(g.first(s, group + 1) - c, [&](int64_t, auto channels) {
            constexpr int P = decltype(channels)::value;
            const int64_t row = s.stride * g.columns * P * D, tile = g.tile(s, panel, group) + tap * s.K * P * PANEL;
            const int64_t place = (top * s.stride + i - s.pad) * row + (j % s.stride * g.columns + j / s.stride) * P * D;
            alignas(64) float gradients[TOGETHER * PIXELS * PANEL];
            for (int64_t first = 0; first < images;) {
                const int64_t count = images - first >= TOGETHER ? TOGETHER : 1;
                for (int64_t n = first; n < first + count; ++n)
                    gradient_tile<T, P>(x + (c * images + P * n) * size + place, s.stride * row,
                                        dy + ((panel * images + n) * s.R + top) * g.steps * PANEL * D,
                                        std::max<int64_t>(0, bottom - top), g.steps,
                                        gradients + (n - first) * PIXELS * PANEL);
                const auto add = count == TOGETHER ? collect<TOGETHER, P> : collect<1, P>;
                add(gradients, s.K, a + first * s.K, w + tile, dw + tile, da + first * s.K * VL);
                first += count;
            }
        });
    }
}

constexpr int64_t SLICE_BYTES = 384 << 10;  // of a panel's dY and a group's X for a chunk: they stay in the second-level cache
constexpr int64_t CHUNK_BYTES = 16 << 20;

template <class Number>
void gradient_of_experts(const Shape &s, const Number *x, const Number *w, const float *a, const Number *dy, Number *dw,
                         float *da) {
    using T = Arithmetic<Number>;
    using Element = typename T::Element;
    constexpr int64_t D = T::D;
    const int64_t threads = omp_get_max_threads();
    const Gradient g(s, D);
    const int64_t x_size = g.x_channel(s, D) * s.C, y_size = g.panels * g.y_panel(s, D);
    const int64_t slice = (g.x_channel(s, D) * PIXELS + g.y_panel(s, D)) * sizeof(Element);
    const int64_t chunk = std::clamp<int64_t>(
        std::min(SLICE_BYTES / slice, CHUNK_BYTES / int64_t((x_size + y_size) * sizeof(Element))), 1, std::max<int64_t>(1, s.N));
    Loan workspace(pool, 2 * Workspace::size<float>(g.bank(s)) + Workspace::size<Element>(chunk * x_size) +
                             Workspace::size<Element>(chunk * y_size) +
                             Workspace::size<float>(threads * chunk * s.K * VL));
    float *weights = workspace.take<float>(g.bank(s)), *sums = workspace.take<float>(g.bank(s));
    Element *maps = workspace.take<Element>(chunk * x_size), *gradients = workspace.take<Element>(chunk * y_size);
    float *dots = workspace.take<float>(threads * chunk * s.K * VL);
    if (s.O % PANEL) std::fill(weights, weights + g.bank(s), 0.f);
    for_each_weight(s, g, [&](int64_t packed, int64_t plain) { weights[packed] = w[plain]; });
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < g.bank(s); ++i) sums[i] = 0;
    for (int64_t first = 0; first < s.N; first += chunk) {
        const int64_t n = std::min(chunk, s.N - first);
#pragma omp parallel
        {
            const int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
#pragma omp for schedule(static)
            for (int64_t i = 0; i < n; ++i) {
                pack_x<T>(s, g, x + (first + i) * s.H * s.W * s.C, maps, i, n);
                pack_dy<T>(s, g, dy + (first + i) * s.R * s.S * s.O, gradients, i, n);
            }
            float *my_dots = dots + me * chunk * s.K * VL;
            std::fill(my_dots, my_dots + n * s.K * VL, 0.f);
            const int64_t items = g.panels * g.groups * s.taps;
            gradient_of_tiles<T>(s, g, items * me / team, items * (me + 1) / team, n, maps, gradients, a + first * s.K,
                                 weights, sums, my_dots);
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

}  // namespace

// The interface to Python: `Number` is float or bf16; arrays as described at the top. Each returns 0, or 1 where there
// is not enough memory.
#define OPERATORS(NAME, Number)                                                                                       \
    extern "C" int dynconv_fused_forward_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,      \
                                                int64_t side, int64_t stride, int64_t pad, const Number *x,            \
                                                const Number *w, const float *a, Number *y) {                          \
        return guarded([&] { convolution<false>(Shape(N, H, W, C, O, K, side, stride, pad), x, w, a, y); });           \
    }                                                                                                                  \
    extern "C" int dynconv_fused_backward_##NAME(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,     \
                                                 int64_t side, int64_t stride, int64_t pad, const Number *x,           \
                                                 const Number *w, const float *a, const Number *dy, Number *dx,        \
                                                 Number *dw, float *da) {                                              \
        const Shape s(N, H, W, C, O, K, side, stride, pad);                                                            \
        return guarded([&] {                                                                                           \
            if (dx) convolution<true>(s, dy, w, a, dx);                                                                \
            if (dw) gradient_of_experts(s, x, w, a, dy, dw, da);                                                       \
        });                                                                                                            \
    }
OPERATORS(float32, float)
OPERATORS(bfloat16, bf16)

// Frees what is kept for the next calls.
extern "C" void dynconv_fused_release() { pool.release(); }

// The memory kept for the next calls and used by calls in progress.
extern "C" int64_t dynconv_fused_workspace_bytes() { return pool.bytes(); }
