// Dynamic 3x3 convolution, O = sum_k a_k Conv_k(X), by Winograd's minimal filtering, for float32 on a CPU.
//
// Winograd's algorithm F(M, 3) computes an M x M tile of output from a t x t tile of input, t = M + 2, as
//     Y = A' [ (G w G') . (B' x B) ] A        (' is the transpose, . the element-wise product)
// summed over input channels, so for each of the F = t*t frequencies there is one small matrix product over
// channels: t*t multiplications a tile where the direct way takes 9 M*M (2.25x fewer for M = 2, 5x for M = 6).
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, https://arxiv.org/abs/1509.09308
//
// Everything is linear in w, so the mixture moves inside, where there are two ways to compute it. With V the
// transformed input of an image and U_k the transformed experts:
//     sum_k a_k (V U_k)    multiplies K times, but as matrix products of the whole batch, near the machine's peak;
//     V (sum_k a_k U_k)    multiplies once, after mixing the experts for each image: worth it for many tiles a map.
// Either way the mixture happens in the cache, 16 output channels at a time; no kernel mixed for an image and no
// output of an expert is ever written to memory.
//
// The work goes in chunks of images small enough that V and the transformed output stay in the cache between the
// three steps (transform, multiply, transform back). Each thread has chunks of its own, and its own sum of the experts'
// gradients; the static split keeps the results bit-identical for one number of threads. Where there are fewer images
// than threads, or memory for the sums lacks, the threads share the steps of one chunk.
//
// One file, though a long one: the compiler has to inline all of it into the loops over register tiles.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C input channels, O output channels, K experts; R x S the output's size
//     T tiles of one image; rows = images of a chunk * T; Cb, Ob: blocks of LANES = 16 channels
//     x [N,H,W,C]  y [N,R,S,O]  a [N,K]  w [K,O,C,3,3]
//     u [K,F,Ob,C,16] transformed experts; ut [K,F,Cb,O,16] the same, transposed, for the input's gradient
//     v [F,Cb,rows,16], m [F,Ob,rows,16]: transformed input and output of a chunk (class Map)
//     scales [K,rows]: the routing weight of each row's image

#include "workspace.h"

#include <algorithm>
#include <omp.h>
#include <type_traits>

namespace {

constexpr int64_t LANES = 16;  // channels of a block, and output channels of a register tile
typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t VL = sizeof(Vec) / sizeof(float);
constexpr int64_t VECS = LANES / VL;
#define INLINE inline __attribute__((always_inline))  // keeps register tiles in registers

// The matrices of F(M, 3), after Toom and Cook: polynomials multiply point by point at t - 1 numbers and infinity.
// The points are chosen for small rounding errors; tests/layer/ops/test_winograd.py says how large they are.
template <int M> struct Tile {
    static constexpr int t = M + 2, F = t * t;
    float BT[t][t] = {}, G[t][3] = {}, AT[M][t] = {};
    constexpr Tile() {
        constexpr double few[] = {0, 1, -1, M == 4 ? .5 : 2, -2, .5, -.5};
        constexpr double eight[] = {0, 1, -1, 1. / 3, -1. / 2, 4. / 3, -3. / 2, 3};
        const double *points = M == 7 ? eight : few;
        constexpr int last = t - 1;  // infinity
        for (int j = 0; j <= last; ++j) {
            double polynomial[t] = {1}, value = 1;  // prod_{l != j} (z - points[l]), and that at z = points[j]
            int degree = 0;
            for (int l = 0; l < last; ++l) {
                if (l == j) continue;
                ++degree;
                for (int i = degree; i > 0; --i) polynomial[i] = polynomial[i - 1] - points[l] * polynomial[i];
                polynomial[0] *= -points[l];
                if (j < last) value *= points[j] - points[l];
            }
            for (int i = 0; i <= degree; ++i) BT[j][i] = float(polynomial[i]);
            if (j == last) break;
            double power = 1;
            for (int i = 0; i < std::max(M, 3); ++i, power *= points[j]) {
                if (i < M) AT[i][j] = float(power);
                if (i < 3) G[j][i] = float(power / value);
            }
        }
        AT[M - 1][last] = 1;
        G[last][2] = 1;
    }
};
template <int M> constexpr Tile<M> TILE{};

// out = L in L', where L(i, j) is a constant matrix [ROWS, COLS]; the products with its zeros are not computed.
template <int ROWS, int COLS, class L>
INLINE void sandwich(L at, const Vec (&in)[COLS][COLS], Vec (&out)[ROWS][ROWS]) {
    Vec half[ROWS][COLS];
#pragma GCC unroll 9
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 9
        for (int j = 0; j < COLS; ++j) {
            Vec sum{};
#pragma GCC unroll 9
            for (int k = 0; k < COLS; ++k)
                if (at(i, k) != 0) sum += at(i, k) * in[k][j];
            half[i][j] = sum;
        }
#pragma GCC unroll 9
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 9
        for (int j = 0; j < ROWS; ++j) {
            Vec sum{};
#pragma GCC unroll 9
            for (int k = 0; k < COLS; ++k)
                if (at(j, k) != 0) sum += at(j, k) * half[i][k];
            out[i][j] = sum;
        }
}

struct Shape {
    int64_t N, H, W, C, O, K, pad;
    int64_t R, S, tiles_down, tiles_across, T, Cb, Ob;
    Shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K, int64_t pad, int64_t m)
        : N(N), H(H), W(W), C(C), O(O), K(K), pad(pad), R(H + 2 * pad - 2), S(W + 2 * pad - 2),
          tiles_down((R + m - 1) / m), tiles_across((S + m - 1) / m), T(tiles_down * tiles_across),
          Cb((C + LANES - 1) / LANES), Ob((O + LANES - 1) / LANES) {}
};

Pool pool;

int64_t whole_blocks(int64_t floats) { return (floats + LANES - 1) / LANES * LANES; }

// The frequencies of a chunk: [F, blocks, rows, 16], row = image * T + tile. Frequencies lie an odd number of cache
// lines apart, so that those of one tile fall into different sets of the cache.
struct Map {
    float *data;
    int64_t blocks, rows, step;
    Map(float *data, int64_t blocks, int64_t rows) : data(data), blocks(blocks), rows(rows), step(stride(blocks, rows)) {}
    static int64_t stride(int64_t blocks, int64_t rows) { return (blocks * rows | 1) * LANES; }
    float *at(int64_t f, int64_t block) const { return data + f * step + block * rows * LANES; }
};

// w -> u, or with TRANSPOSED, C and O exchanged -> ut.
template <int M, bool TRANSPOSED> void transform_experts(const Shape &s, const float *w, float *u) {
    constexpr int t = Tile<M>::t, F = t * t;
    const int64_t rows = TRANSPOSED ? s.O : s.C, cols = TRANSPOSED ? s.C : s.O;
    const int64_t panels = (cols + LANES - 1) / LANES;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t p = 0; p < panels; ++p)
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t q = 0; q < LANES; q += VL) {
                    Vec g[3][3] = {}, out[t][t];
                    for (int64_t l = 0; l < VL; ++l) {
                        const int64_t col = p * LANES + q + l;
                        if (col >= cols) break;
                        const float *src = w + ((k * s.O + (TRANSPOSED ? r : col)) * s.C + (TRANSPOSED ? col : r)) * 9;
                        for (int i = 0; i < 9; ++i) g[i / 3][i % 3][l] = src[i];
                    }
                    sandwich<t, 3>([](int i, int j) { return TILE<M>.G[i][j]; }, g, out);
                    for (int f = 0; f < F; ++f)
                        *reinterpret_cast<Vec *>(u + (((k * F + f) * panels + p) * rows + r) * LANES + q) =
                            out[f / t][f % t];
                }
}

// du -> dw: the adjoint of transform_experts.
template <int M> void gradient_of_experts(const Shape &s, const float *du, float *dw) {
    constexpr int t = Tile<M>::t, F = t * t;
    const int64_t panels = s.Ob;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t p = 0; p < panels; ++p)
            for (int64_t c = 0; c < s.C; ++c)
                for (int64_t q = 0; q < LANES; q += VL) {
                    Vec in[t][t], g[3][3];
                    for (int f = 0; f < F; ++f)
                        in[f / t][f % t] =
                            *reinterpret_cast<const Vec *>(du + (((k * F + f) * panels + p) * s.C + c) * LANES + q);
                    sandwich<3, t>([](int i, int j) { return TILE<M>.G[j][i]; }, in, g);
                    for (int64_t l = 0; l < VL; ++l) {
                        const int64_t o = p * LANES + q + l;
                        if (o >= s.O) break;
                        float *dst = dw + ((k * s.O + o) * s.C + c) * 9;
                        for (int i = 0; i < 9; ++i) dst[i] = g[i / 3][i % 3][l];
                    }
                }
}

// One map [height, width, channels] cut into tiles of SIZE x SIZE every `step` pixels from (-pad, -pad),
// transformed by L: tiles -> frequencies, from row first_row on. With SCATTER the other way: frequencies -> tiles,
// added into the map (which the caller has zeroed). `outside` [channels] stands for every pixel outside the map:
// zeros, or with SCATTER a place to forget what is written there.
template <int SIZE, int FREQ, bool SCATTER, class L>
INLINE void
transform_map(L at, float *map, float *outside, int64_t height, int64_t width, int64_t channels, int64_t step,
              int64_t pad, int64_t tiles_down, int64_t tiles_across, const Map &freq, int64_t first_row) {
    constexpr bool OVERLAP = SIZE == FREQ;
    for (int64_t ti = 0; ti < tiles_down; ++ti)
        for (int64_t tj = 0; tj < tiles_across; ++tj) {
            float *pixel[SIZE][SIZE];
            for (int i = 0; i < SIZE; ++i)
                for (int j = 0; j < SIZE; ++j) {
                    const int64_t row = ti * step - pad + i, col = tj * step - pad + j;
                    const bool inside = row >= 0 && row < height && col >= 0 && col < width;
                    pixel[i][j] = inside ? map + (row * width + col) * channels : outside;
                }
            const int64_t row = first_row + ti * tiles_across + tj;
            for (int64_t c = 0; c < channels; c += VL) {
                float *out = freq.at(0, c / LANES) + row * LANES + c % LANES;
                Vec tile[SIZE][SIZE], f[FREQ][FREQ];
                if constexpr (SCATTER) {
#pragma GCC unroll 9
                    for (int i = 0; i < FREQ; ++i)
#pragma GCC unroll 9
                        for (int j = 0; j < FREQ; ++j)
                            f[i][j] = *reinterpret_cast<const Vec *>(out + (i * FREQ + j) * freq.step);
                    sandwich<SIZE, FREQ>(at, f, tile);
#pragma GCC unroll 9
                    for (int i = 0; i < SIZE; ++i)
#pragma GCC unroll 9
                        for (int j = 0; j < SIZE; ++j) {
                            Vec &target = *reinterpret_cast<Vec *>(pixel[i][j] + c);
                            target = OVERLAP ? target + tile[i][j] : tile[i][j];
                        }
                } else {
#pragma GCC unroll 9
                    for (int i = 0; i < SIZE; ++i)
#pragma GCC unroll 9
                        for (int j = 0; j < SIZE; ++j) tile[i][j] = *reinterpret_cast<const Vec *>(pixel[i][j] + c);
                    sandwich<FREQ, SIZE>(at, tile, f);
#pragma GCC unroll 9
                    for (int i = 0; i < FREQ; ++i)
#pragma GCC unroll 9
                        for (int j = 0; j < FREQ; ++j)
                            *reinterpret_cast<Vec *>(out + (i * FREQ + j) * freq.step) = f[i][j];
                }
            }
            if (!SCATTER && channels % LANES)  // what pads the last block is multiplied, by zeros
                for (int i = 0; i < FREQ * FREQ; ++i)
                    *reinterpret_cast<Vec *>(freq.at(i, channels / LANES) + row * LANES + VL) = Vec{};
        }
}

// c[ROWS, 16] += a[ROWS, depth] b[depth, 16]; a(row, l) stands at a + row * ROW_STEP + l * DEPTH_STEP.
template <int ROWS, int ROW_STEP, int DEPTH_STEP>
INLINE void product(const float *a, const float *b, int64_t depth, Vec (&c)[ROWS][VECS]) {
#pragma GCC unroll 4
    for (int64_t l = 0; l < depth; ++l) {
        const Vec *row = reinterpret_cast<const Vec *>(b + l * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const float s = a[r * ROW_STEP + l * DEPTH_STEP];
#pragma GCC unroll 4
            for (int v = 0; v < VECS; ++v) c[r][v] += s * row[v];
        }
    }
}

// The same for ROWS rows of a Map, whose depth lies in blocks of LANES, `block` floats apart.
template <int ROWS>
INLINE void product_over_blocks(const float *a, int64_t block, const float *b, int64_t depth, Vec (&c)[ROWS][VECS]) {
    for (int64_t l = 0; l < depth; l += LANES, a += block)
        product<ROWS, LANES, 1>(a, b + l * LANES, std::min(LANES, depth - l), c);
}

// Calls f with the row count of each register tile as a compile-time constant: 6, 6, ..., then what is left.
template <class Fn> INLINE void in_register_tiles(int64_t rows, Fn f) {
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) f(r, std::integral_constant<int, 6>{});
    switch (rows - r) {
    case 5: f(r, std::integral_constant<int, 5>{}); break;
    case 4: f(r, std::integral_constant<int, 4>{}); break;
    case 3: f(r, std::integral_constant<int, 3>{}); break;
    case 2: f(r, std::integral_constant<int, 2>{}); break;
    case 1: f(r, std::integral_constant<int, 1>{}); break;
    }
}

// y[ROWS, 16] = scale[row] * c, added to what stands there unless `fresh`.
template <int ROWS> INLINE void store(float *y, bool fresh, const float *scale, const Vec (&c)[ROWS][VECS]) {
    Vec *target = reinterpret_cast<Vec *>(y);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < VECS; ++v)
            target[r * VECS + v] = (fresh ? Vec{} : target[r * VECS + v]) + scale[r] * c[r][v];
}

constexpr float ONES[] = {1, 1, 1, 1, 1, 1};

INLINE float total(Vec v) {
    float half[VL / 2];
    for (int64_t l = 0; l < VL / 2; ++l) half[l] = v[l] + v[l + VL / 2];
    return (half[0] + half[1]) + (half[2] + half[3]);
}

// Input channels are taken DEPTH at a time: one panel of the experts, [DEPTH, 16], stays in the first-level cache.
constexpr int64_t DEPTH = 256;

// out = sum_k a_k (in experts_k): the forward pass with u, the input's gradient with ut. Where v is given, then also
// dots[f, block, k, row] = <v, in experts_k>, which sum to the gradients of the routing weights.
void multiply_then_mix(int64_t F, int64_t K, const float *scales, const float *experts, const Map &in, int64_t depth,
                       const Map &out, const Map *v, float *dots) {
    const int64_t rows = in.rows;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t p = 0; p < out.blocks; ++p) {
            float *dots_fp = dots + (f * out.blocks + p) * K * rows;
            if (v) std::fill(dots_fp, dots_fp + K * rows, 0.f);
            for (int64_t k = 0; k < K; ++k)
                for (int64_t first = 0; first < depth; first += DEPTH) {
                    const float *panel = experts + (((k * F + f) * out.blocks + p) * depth + first) * LANES;
                    const float *source = in.at(f, first / LANES), *scale = scales + k * rows;
                    const float *v_fp = v ? v->at(f, p) : nullptr;
                    float *target = out.at(f, p);
                    in_register_tiles(rows, [&](int64_t r, auto rows_in_tile) __attribute__((always_inline)) {
                        constexpr int ROWS = decltype(rows_in_tile)::value;
                        Vec c[ROWS][VECS] = {};
                        product_over_blocks<ROWS>(source + r * LANES, rows * LANES, panel,
                                                  std::min(DEPTH, depth - first), c);
                        store<ROWS>(target + r * LANES, k == 0 && first == 0, scale + r, c);
                        if (!v) return;
                        const Vec *other = reinterpret_cast<const Vec *>(v_fp + r * LANES);
#pragma GCC unroll 8
                        for (int j = 0; j < ROWS; ++j) {
                            Vec dot{};
#pragma GCC unroll 4
                            for (int q = 0; q < VECS; ++q) dot += c[j][q] * other[j * VECS + q];
                            dots_fp[k * rows + r + j] += total(dot);
                        }
                    });
                }
        }
}

// out = in (sum_k a_k experts_k), image by image.
void mix_then_multiply(int64_t F, int64_t T, int64_t K, const float *scales, const float *experts, const Map &in,
                       int64_t depth, const Map &out) {
    const int64_t rows = in.rows, per_expert = F * out.blocks * depth * LANES;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t p = 0; p < out.blocks; ++p)
            for (int64_t first = 0; first < depth; first += DEPTH)
                for (int64_t i = 0; i < rows; i += T) {
                    const int64_t part = std::min(DEPTH, depth - first);
                    const float *panel = experts + ((f * out.blocks + p) * depth + first) * LANES;
                    const float *source = in.at(f, first / LANES) + i * LANES;
                    float *target = out.at(f, p) + i * LANES;
                    Vec mixed[DEPTH * VECS];
                    for (int64_t l = 0; l < part * VECS; ++l) {
                        Vec sum{};
                        for (int64_t k = 0; k < K; ++k)
                            sum += scales[k * rows + i] * *reinterpret_cast<const Vec *>(panel + k * per_expert + l * VL);
                        mixed[l] = sum;
                    }
                    in_register_tiles(T, [&](int64_t r, auto rows_in_tile) __attribute__((always_inline)) {
                        constexpr int ROWS = decltype(rows_in_tile)::value;
                        Vec c[ROWS][VECS] = {};
                        product_over_blocks<ROWS>(source + r * LANES, rows * LANES, reinterpret_cast<float *>(mixed),
                                                  part, c);
                        store<ROWS>(target + r * LANES, first == 0, ONES, c);
                    });
                }
}

// du_k += v' (a_k dm) over all rows of the chunk.
constexpr int64_t ROW_BLOCK = 128;  // so many rows of 16 channels of v and of dm stay in the first-level cache

void gradient_of_batch(const Shape &s, int64_t F, const float *scales, const Map &v, const Map &dm, float *du) {
    const int64_t rows = v.rows;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t b = 0; b < s.Cb; ++b)
            for (int64_t first = 0; first < rows; first += ROW_BLOCK) {
                const int64_t n = std::min(ROW_BLOCK, rows - first), channels = std::min(LANES, s.C - b * LANES);
                const Vec *source = reinterpret_cast<const Vec *>(v.at(f, b) + first * LANES);
                for (int64_t k = 0; k < s.K; ++k) {
                    Vec scaled[ROW_BLOCK * VECS];
                    for (int64_t r = 0; r < n; ++r)
                        for (int64_t q = 0; q < VECS; ++q)
                            scaled[r * VECS + q] = scales[k * rows + first + r] * source[r * VECS + q];
                    for (int64_t p = 0; p < s.Ob; ++p) {
                        const float *d = dm.at(f, p) + first * LANES;
                        float *du_kfp = du + (((k * F + f) * s.Ob + p) * s.C + b * LANES) * LANES;
                        in_register_tiles(channels, [&](int64_t c, auto rows_in_tile) __attribute__((always_inline)) {
                            constexpr int ROWS = decltype(rows_in_tile)::value;
                            Vec g[ROWS][VECS] = {};
                            product<ROWS, 1, LANES>(reinterpret_cast<float *>(scaled) + c, d, n, g);
                            store<ROWS>(du_kfp + c * LANES, false, ONES, g);
                        });
                    }
                }
            }
}

// Image by image: with g = v' dm, du_k += a_k g, and dots[f, block, k, row], row the image's first, = <u_k, g>.
void gradient_by_image(const Shape &s, int64_t F, const float *scales, const float *u, const Map &v, const Map &dm,
                       float *du, float *dots) {
    const int64_t rows = v.rows, per_expert = F * s.Ob * s.C * LANES;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t b = 0; b < s.Cb; ++b) {
            const int64_t channels = std::min(LANES, s.C - b * LANES);
            float *dots_fb = dots + (f * s.Cb + b) * s.K * rows;
            std::fill(dots_fb, dots_fb + s.K * rows, 0.f);
            for (int64_t p = 0; p < s.Ob; ++p)
                for (int64_t i = 0; i < rows; i += s.T) {
                    const float *v_i = v.at(f, b) + i * LANES, *dm_i = dm.at(f, p) + i * LANES;
                    in_register_tiles(channels, [&](int64_t c, auto rows_in_tile) __attribute__((always_inline)) {
                        constexpr int ROWS = decltype(rows_in_tile)::value;
                        const int64_t offset = ((f * s.Ob + p) * s.C + b * LANES + c) * LANES;
                        Vec g[ROWS][VECS] = {};
                        product<ROWS, 1, LANES>(v_i + c, dm_i, s.T, g);
                        for (int64_t k = 0; k < s.K; ++k) {
                            const Vec *u_k = reinterpret_cast<const Vec *>(u + k * per_expert + offset);
                            Vec *du_k = reinterpret_cast<Vec *>(du + k * per_expert + offset);
                            Vec dot{};
#pragma GCC unroll 8
                            for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
                                for (int q = 0; q < VECS; ++q) {
                                    du_k[j * VECS + q] += scales[k * rows + i] * g[j][q];
                                    dot += g[j][q] * u_k[j * VECS + q];
                                }
                            dots_fb[k * rows + i] += total(dot);
                        }
                    });
                }
        }
}

// How the images are shared out: `teams` threads (or one team of all threads) with chunks of `images`.
struct Plan {
    static constexpr int64_t MIN_FLOATS = 256 << 10, MAX_FLOATS = 2 << 20;  // of one chunk: 1 to 8 MiB
    static constexpr int64_t MAX_SUMS = 64 << 20;                           // of all teams' gradients: 256 MiB
    int64_t teams, images, chunks;

    // per_image: floats of one image's frequencies; experts: floats of the transformed experts, which are read once
    // a chunk, so large ones want large chunks.
    Plan(const Shape &s, int64_t per_image, int64_t experts) {
        const int64_t threads = omp_get_max_threads();
        teams = s.N >= 4 * threads && threads * experts <= MAX_SUMS ? threads : 1;
        const int64_t share = (s.N + teams - 1) / teams;
        const int64_t most = std::max<int64_t>(1, std::clamp(experts / 2, MIN_FLOATS, MAX_FLOATS) / per_image);
        const int64_t parts = std::max<int64_t>(1, (share + most - 1) / most);
        images = std::max<int64_t>(1, (share + parts - 1) / parts);
        chunks = (s.N + images - 1) / images;
    }
    int64_t team() const { return teams > 1 ? omp_get_thread_num() : 0; }
};

void routing_weights_of_rows(const Shape &s, int64_t first, int64_t n, const float *a, float *scales) {
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t i = 0; i < n; ++i)
            std::fill_n(scales + (k * n + i) * s.T, s.T, a[(first + i) * s.K + k]);
}

// Measured on a CPU with AVX2: mixing and the use of one image's mixture in the cache cost as much as 4 + 2K rows of a
// large product; with both gradients, 12K.
bool mixes_first(const Shape &s) { return s.T + 4 + 2 * s.K < s.K * s.T; }
bool takes_gradient_by_image(const Shape &s) { return 2 * s.T + 12 * s.K < 2 * s.K * s.T; }

template <int M> void forward(const Shape &s, const float *x, const float *w, const float *a, float *y) {
    constexpr int t = Tile<M>::t, F = t * t;
    const int64_t u_size = s.K * F * s.Ob * LANES * s.C;
    const Plan plan(s, F * s.T * (s.Cb + s.Ob) * LANES, u_size);
    const int64_t rows = plan.images * s.T, edge = std::max(s.Cb, s.Ob) * LANES;
    const int64_t v_size = F * Map::stride(s.Cb, rows), m_size = F * Map::stride(s.Ob, rows);
    const int64_t team_size = v_size + m_size + whole_blocks(s.K * rows) + edge;
    Loan workspace(pool, (u_size + plan.teams * team_size + edge) * sizeof(float));
    float *u = workspace.take<float>(u_size), *zeros = workspace.take<float>(edge);
    float *teams = workspace.take<float>(plan.teams * team_size);
    std::fill(zeros, zeros + edge, 0.f);
    transform_experts<M, false>(s, w, u);
#pragma omp parallel for schedule(static) num_threads(plan.teams) if (plan.teams > 1)
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
        const int64_t first = chunk * plan.images, n = std::min(plan.images, s.N - first);
        float *v_data = teams + plan.team() * team_size, *m_data = v_data + v_size, *ignored = m_data + m_size;
        float *scales = ignored + edge;
        const Map v(v_data, s.Cb, n * s.T), m(m_data, s.Ob, n * s.T);
        routing_weights_of_rows(s, first, n, a, scales);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i)
            transform_map<t, t, false>([](int r, int c) { return TILE<M>.BT[r][c]; },
                                       const_cast<float *>(x) + (first + i) * s.H * s.W * s.C, zeros, s.H, s.W, s.C, M,
                                       s.pad, s.tiles_down, s.tiles_across, v, i * s.T);
        if (mixes_first(s))
            mix_then_multiply(F, s.T, s.K, scales, u, v, s.C, m);
        else
            multiply_then_mix(F, s.K, scales, u, v, s.C, m, nullptr, nullptr);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i)
            transform_map<M, t, true>([](int r, int c) { return TILE<M>.AT[r][c]; },
                                      y + (first + i) * s.R * s.S * s.O, ignored, s.R, s.S, s.O, M, 0, s.tiles_down,
                                      s.tiles_across, m, i * s.T);
    }
}

template <int M>
void backward(const Shape &s, const float *x, const float *w, const float *a, const float *dy, float *dx, float *dw,
              float *da) {
    constexpr int t = Tile<M>::t, F = t * t;
    // Without an input gradient, its products are not there to give the routing weights' gradients.
    const bool by_image = dw && (!dx || takes_gradient_by_image(s));
    const int64_t u_size = s.K * F * s.Ob * LANES * s.C, ut_size = dx ? s.K * F * s.Cb * LANES * s.O : 0;
    const Plan plan(s, F * s.T * ((dx ? 2 : 1) * s.Cb + s.Ob) * LANES, u_size);
    const int64_t max_rows = plan.images * s.T, edge = std::max(s.Cb, s.Ob) * LANES;
    const int64_t v_size = F * Map::stride(s.Cb, max_rows), m_size = F * Map::stride(s.Ob, max_rows);
    const int64_t dots_size = F * s.Cb * s.K * max_rows;
    const int64_t team_size =
        (dx ? 2 : 1) * v_size + m_size + edge + whole_blocks(s.K * max_rows) + whole_blocks(dots_size);
    Loan workspace(pool, ((by_image + plan.teams) * u_size + ut_size + plan.teams * team_size + edge) * sizeof(float));
    float *u = workspace.take<float>(by_image ? u_size : 0), *ut = workspace.take<float>(ut_size);
    float *du = workspace.take<float>(plan.teams * u_size), *zeros = workspace.take<float>(edge);
    float *teams = workspace.take<float>(plan.teams * team_size);
    std::fill(zeros, zeros + edge, 0.f);
    if (by_image) transform_experts<M, false>(s, w, u);
    if (dx) transform_experts<M, true>(s, w, ut);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < plan.teams * u_size; ++i) du[i] = 0;
#pragma omp parallel for schedule(static) num_threads(plan.teams) if (plan.teams > 1)
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
        const int64_t first = chunk * plan.images, n = std::min(plan.images, s.N - first), rows = n * s.T;
        float *v_data = teams + plan.team() * team_size, *m_data = v_data + v_size, *ignored = m_data + m_size;
        float *scales = ignored + edge, *dots = scales + whole_blocks(s.K * max_rows);
        float *dv_data = dots + whole_blocks(dots_size), *team_du = du + plan.team() * u_size;
        const Map v(v_data, s.Cb, rows), dm(m_data, s.Ob, rows), dv(dv_data, s.Cb, rows);
        routing_weights_of_rows(s, first, n, a, scales);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            if (dw)
                transform_map<t, t, false>([](int r, int c) { return TILE<M>.BT[r][c]; },
                                           const_cast<float *>(x) + (first + i) * s.H * s.W * s.C, zeros, s.H, s.W, s.C,
                                           M, s.pad, s.tiles_down, s.tiles_across, v, i * s.T);
            transform_map<M, t, false>([](int r, int c) { return TILE<M>.AT[c][r]; },
                                       const_cast<float *>(dy) + (first + i) * s.R * s.S * s.O, zeros, s.R, s.S, s.O,
                                       M, 0, s.tiles_down, s.tiles_across, dm, i * s.T);
        }
        if (!dw) {
            if (mixes_first(s))
                mix_then_multiply(F, s.T, s.K, scales, ut, dm, s.O, dv);
            else
                multiply_then_mix(F, s.K, scales, ut, dm, s.O, dv, nullptr, nullptr);
        } else if (by_image) {
            gradient_by_image(s, F, scales, u, v, dm, team_du, dots);
            if (dx) mix_then_multiply(F, s.T, s.K, scales, ut, dm, s.O, dv);
        } else {
            gradient_of_batch(s, F, scales, v, dm, team_du);
            multiply_then_mix(F, s.K, scales, ut, dm, s.O, dv, &v, dots);
        }
        for (int64_t i = 0; dw && i < n; ++i)
            for (int64_t k = 0; k < s.K; ++k) {
                float sum = 0;
                for (int64_t b = 0; b < F * s.Cb; ++b)
                    for (int64_t r = 0; r < (by_image ? 1 : s.T); ++r)
                        sum += dots[(b * s.K + k) * rows + i * s.T + r];
                da[(first + i) * s.K + k] = sum;
            }
        if (!dx) continue;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            float *dx_i = dx + (first + i) * s.H * s.W * s.C;
            std::fill(dx_i, dx_i + s.H * s.W * s.C, 0.f);
            transform_map<t, t, true>([](int r, int c) { return TILE<M>.BT[c][r]; }, dx_i, ignored, s.H, s.W, s.C, M,
                                      s.pad, s.tiles_down, s.tiles_across, dv, i * s.T);
        }
    }
    if (!dw) return;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < u_size; ++i)
        for (int64_t team = 1; team < plan.teams; ++team) du[i] += du[team * u_size + i];
    gradient_of_experts<M>(s, du, dw);
}

// Calls f with the tile size as a compile-time constant. Returns 0, or 1 where there is not enough memory.
template <class Fn> int with_tile(int64_t tile, Fn f) {
    return guarded([&] {
        switch (tile) {
        case 2: f(std::integral_constant<int, 2>{}); break;
        case 3: f(std::integral_constant<int, 3>{}); break;
        case 4: f(std::integral_constant<int, 4>{}); break;
        case 5: f(std::integral_constant<int, 5>{}); break;
        case 6: f(std::integral_constant<int, 6>{}); break;
        case 7: f(std::integral_constant<int, 7>{}); break;
        }
    });
}

}  // namespace

// The interface to Python. tile is 2 to 7; C and O are multiples of 8; arrays as described at the top; dx may be null.
extern "C" int dynconv_winograd_forward(int64_t tile, int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,
                                        int64_t pad, const float *x, const float *w, const float *a, float *y) {
    return with_tile(tile, [&](auto m) { forward<m()>(Shape(N, H, W, C, O, K, pad, m()), x, w, a, y); });
}

extern "C" int dynconv_winograd_backward(int64_t tile, int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,
                                         int64_t pad, const float *x, const float *w, const float *a, const float *dy,
                                         float *dx, float *dw, float *da) {
    return with_tile(tile,
                     [&](auto m) { backward<m()>(Shape(N, H, W, C, O, K, pad, m()), x, w, a, dy, dx, dw, da); });
}

// Frees what is kept for the next calls.
extern "C" void dynconv_winograd_release() { pool.release(); }

// The memory kept for the next calls and used by calls in progress.
extern "C" int64_t dynconv_winograd_workspace_bytes() { return pool.bytes(); }
