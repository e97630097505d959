// Dynamic 3x3 convolution, O = sum_k a_k Conv_k(X), by Winograd's minimal filtering, for float32 on a CPU.
//
// Winograd's algorithm F(m, 3) computes an m x m tile of output from a t x t tile of input, t = m + 2, as
//     Y = A' [ (G w G') . (B' x B) ] A        (' is the transpose, . the element-wise product)
// summed over input channels, so for each of the t*t frequencies there is one small matrix product over
// channels: t*t multiplications a tile where the direct way takes 9 m*m (2.25x fewer for m = 2, 4x for m = 4).
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, https://arxiv.org/abs/1509.09308
//
// Everything is linear in w, so the mixture moves inside: the transformed experts U_k = G W_k G' are mixed for
// one image and 16 output channels at a time, in cache, right before the product that uses them. The N mixed
// kernels are never written to memory, and K experts cost little more than one.
//
// Names, and the memory layout of each array (last index contiguous):
//     N images, H x W their size, C input channels, O output channels, K experts; R x S the output's size
//     T tiles of one image, F = t*t frequencies; Cp, Op: C and O rounded up to a multiple of LANES = 16
//     x [N,H,W,C]  y [N,R,S,O]  a [N,K]  w [K,O,C,3,3]
//     u [K,F,Op/16,C,16] transformed experts; ut [K,F,Cp/16,O,16] the same, transposed, for the input's gradient
//     v [F,n,T,Cp], m [F,n,T,Op]: transformed input and output of a chunk of n images
// A static split of the work among threads keeps the results bit-identical for one number of threads.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t LANES = 16;  // output channels of one register tile
typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t VL = sizeof(Vec) / sizeof(float);
constexpr int64_t VECS = LANES / VL;
constexpr int64_t CHUNK_FLOATS = 2 << 20;  // v and m of one chunk of images: 8 MiB

template <int M> struct Tile;

template <> struct Tile<2> {
    static constexpr int t = 4;
    static constexpr float BT[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
    static constexpr float G[4][3] = {{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}};
    static constexpr float AT[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};

template <> struct Tile<4> {
    static constexpr int t = 6;
    static constexpr float BT[6][6] = {{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                       {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
    static constexpr float G[6][3] = {{1.f / 4, 0, 0},
                                      {-1.f / 6, -1.f / 6, -1.f / 6},
                                      {-1.f / 6, 1.f / 6, -1.f / 6},
                                      {1.f / 24, 1.f / 12, 1.f / 6},
                                      {1.f / 24, -1.f / 12, 1.f / 6},
                                      {0, 0, 1}};
    static constexpr float AT[4][6] = {
        {1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

// out = L in L', where L(i, j) is a constant matrix [ROWS, COLS]; the products with its zeros are not computed.
template <int ROWS, int COLS, class V, class L>
inline __attribute__((always_inline)) void sandwich(L at, const V (&in)[COLS][COLS], V (&out)[ROWS][ROWS]) {
    V half[ROWS][COLS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < COLS; ++j) {
            V sum{};
#pragma GCC unroll 8
            for (int k = 0; k < COLS; ++k)
                if (at(i, k) != 0) sum += at(i, k) * in[k][j];
            half[i][j] = sum;
        }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < ROWS; ++j) {
            V sum{};
#pragma GCC unroll 8
            for (int k = 0; k < COLS; ++k)
                if (at(j, k) != 0) sum += at(j, k) * half[i][k];
            out[i][j] = sum;
        }
}

struct Shape {
    int64_t N, H, W, C, O, K, pad;
    int64_t R, S, tiles_down, tiles_across, T, Cp, Op;
    Shape(int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K, int64_t pad, int64_t m)
        : N(N), H(H), W(W), C(C), O(O), K(K), pad(pad), R(H + 2 * pad - 2), S(W + 2 * pad - 2),
          tiles_down((R + m - 1) / m), tiles_across((S + m - 1) / m), T(tiles_down * tiles_across),
          Cp((C + LANES - 1) / LANES * LANES), Op((O + LANES - 1) / LANES * LANES) {}
    int64_t chunk(int64_t F) const {
        return std::max<int64_t>(1, std::min(N, CHUNK_FLOATS / (F * T * (Cp + Op))));
    }
};

// Memory for one call. Reused by the next call of the same thread: fresh pages cost as much as the arithmetic.
class Workspace {
    float *data_ = nullptr;
    size_t size_ = 0, used_ = 0;

  public:
    void reserve(size_t floats) {
        used_ = 0;
        if (floats <= size_) return;
        std::free(data_);
        size_ = 0;
        data_ = static_cast<float *>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
        if (!data_) throw std::bad_alloc();
        size_ = floats;
    }
    float *take(size_t floats) {
        float *p = data_ + used_;
        used_ += (floats + 15) / 16 * 16;
        return p;
    }
};
thread_local Workspace workspace;

// w -> u, or with TRANSPOSED, C and O exchanged -> ut.
template <int M, bool TRANSPOSED> void transform_experts(const Shape &s, const float *w, float *u) {
    using Tl = Tile<M>;
    constexpr int t = Tl::t, F = t * t;
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
                    sandwich<t, 3>([](int i, int j) { return Tl::G[i][j]; }, g, out);
                    for (int f = 0; f < F; ++f)
                        *reinterpret_cast<Vec *>(u + (((k * F + f) * panels + p) * rows + r) * LANES + q) =
                            out[f / t][f % t];
                }
}

// du -> dw: the adjoint of transform_experts.
template <int M> void gradient_of_experts(const Shape &s, const float *du, float *dw) {
    using Tl = Tile<M>;
    constexpr int t = Tl::t, F = t * t;
    const int64_t panels = s.Op / LANES;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t k = 0; k < s.K; ++k)
        for (int64_t p = 0; p < panels; ++p)
            for (int64_t c = 0; c < s.C; ++c)
                for (int64_t q = 0; q < LANES; q += VL) {
                    Vec in[t][t], g[3][3];
                    for (int f = 0; f < F; ++f)
                        in[f / t][f % t] = *reinterpret_cast<const Vec *>(
                            du + (((k * F + f) * panels + p) * s.C + c) * LANES + q);
                    sandwich<3, t>([](int i, int j) { return Tl::G[j][i]; }, in, g);
                    for (int64_t l = 0; l < VL; ++l) {
                        const int64_t o = p * LANES + q + l;
                        if (o >= s.O) break;
                        float *dst = dw + ((k * s.O + o) * s.C + c) * 9;
                        for (int i = 0; i < 9; ++i) dst[i] = g[i / 3][i % 3][l];
                    }
                }
}

// One map [height, width, channels] cut into tiles of SIZE x SIZE every `step` pixels from (-pad, -pad),
// transformed by L: tiles -> frequencies [F, stride floats apart][T, padded channels]. With SCATTER the other way:
// frequencies -> tiles, added into the map (which the caller has zeroed). Pixels outside the map are zeros.
template <int SIZE, int FREQ, bool SCATTER, class L>
inline __attribute__((always_inline)) void transform_map(L at, float *map, int64_t height, int64_t width, int64_t channels, int64_t padded,
                          int64_t step, int64_t pad, int64_t tiles_down, int64_t tiles_across, float *freq,
                          int64_t stride) {
    constexpr bool OVERLAP = SIZE == FREQ;  // tiles of input do, tiles of output do not
    for (int64_t ti = 0; ti < tiles_down; ++ti)
        for (int64_t tj = 0; tj < tiles_across; ++tj) {
            float *pixel[SIZE][SIZE];
            for (int i = 0; i < SIZE; ++i)
                for (int j = 0; j < SIZE; ++j) {
                    const int64_t row = ti * step - pad + i, col = tj * step - pad + j;
                    const bool inside = row >= 0 && row < height && col >= 0 && col < width;
                    pixel[i][j] = inside ? map + (row * width + col) * channels : nullptr;
                }
            float *out = freq + (ti * tiles_across + tj) * padded;
            for (int64_t c = 0; c < channels; c += VL) {
                Vec tile[SIZE][SIZE], f[FREQ][FREQ];
                if constexpr (SCATTER) {
                    for (int i = 0; i < FREQ * FREQ; ++i)
                        f[i / FREQ][i % FREQ] = *reinterpret_cast<const Vec *>(out + i * stride + c);
                    sandwich<SIZE, FREQ>(at, f, tile);
                    for (int i = 0; i < SIZE * SIZE; ++i)
                        if (float *p = pixel[i / SIZE][i % SIZE]) {
                            Vec &target = *reinterpret_cast<Vec *>(p + c);
                            target = OVERLAP ? target + tile[i / SIZE][i % SIZE] : tile[i / SIZE][i % SIZE];
                        }
                } else {
                    for (int i = 0; i < SIZE * SIZE; ++i) {
                        const float *p = pixel[i / SIZE][i % SIZE];
                        tile[i / SIZE][i % SIZE] = p ? *reinterpret_cast<const Vec *>(p + c) : Vec{};
                    }
                    sandwich<FREQ, SIZE>(at, tile, f);
                    for (int i = 0; i < FREQ * FREQ; ++i)
                        *reinterpret_cast<Vec *>(out + i * stride + c) = f[i / FREQ][i % FREQ];
                }
            }
            if constexpr (!SCATTER)
                for (int i = 0; i < FREQ * FREQ; ++i)
                    std::fill(out + i * stride + channels, out + i * stride + padded, 0.f);
        }
}

// c[ROWS, 16] += a[ROWS, depth] b[depth, 16]; a(row, l) stands at a + row * row_step + l * depth_step.
template <int ROWS>
inline void product(const float *a, int64_t row_step, int64_t depth_step, const float *b, int64_t b_step,
                    int64_t depth, Vec (&c)[ROWS][VECS]) {
    for (int64_t l = 0; l < depth; ++l) {
        const Vec *row = reinterpret_cast<const Vec *>(b + l * b_step);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const float s = a[r * row_step + l * depth_step];
#pragma GCC unroll 4
            for (int v = 0; v < VECS; ++v) c[r][v] += s * row[v];
        }
    }
}

// Calls f with the row count of each register tile as a compile-time constant: 6, 6, ..., then what is left.
template <class Fn> inline void in_register_tiles(int64_t rows, Fn f) {
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

// out[f, i, T, cols] = in[f, i, T, rows] (sum_k a[i, k] experts[k, f]), for n images: the forward pass with u,
// the input's gradient with ut. Input channels are taken DEPTH at a time: that much of the mixed weights and of the
// image's tiles stays in the first-level cache.
constexpr int64_t DEPTH = 256;

void mix_and_multiply(int64_t F, int64_t n, int64_t T, int64_t K, const float *a, const float *experts, const float *in,
                      int64_t rows, int64_t in_step, float *out, int64_t out_step) {
    const int64_t panels = out_step / LANES, size = rows * LANES, per_expert = F * panels * size;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t p = 0; p < panels; ++p)
            for (int64_t i = 0; i < n; ++i) {
                const float *ai = a + i * K, *src = in + (f * n + i) * T * in_step;
                float *dst = out + (f * n + i) * T * out_step + p * LANES;
                for (int64_t first = 0; first < rows; first += DEPTH) {
                    const int64_t depth = std::min(DEPTH, rows - first);
                    const float *panel = experts + (f * panels + p) * size + first * LANES;
                    Vec mixed[DEPTH * VECS];
                    for (int64_t l = 0; l < depth * VECS; ++l) {
                        Vec sum = ai[0] * *reinterpret_cast<const Vec *>(panel + l * VL);
                        for (int64_t k = 1; k < K; ++k)
                            sum += ai[k] * *reinterpret_cast<const Vec *>(panel + k * per_expert + l * VL);
                        mixed[l] = sum;
                    }
                    in_register_tiles(T, [&](int64_t r, auto rows_in_tile) {
                        constexpr int ROWS = decltype(rows_in_tile)::value;
                        Vec c[ROWS][VECS];
                        float *tile = dst + r * out_step;
#pragma GCC unroll 8
                        for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
                            for (int v = 0; v < VECS; ++v)
                                c[j][v] = first ? *reinterpret_cast<Vec *>(tile + j * out_step + v * VL) : Vec{};
                        product<ROWS>(src + r * in_step + first, in_step, 1, reinterpret_cast<float *>(mixed), LANES,
                                      depth, c);
#pragma GCC unroll 8
                        for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
                            for (int v = 0; v < VECS; ++v)
                                *reinterpret_cast<Vec *>(tile + j * out_step + v * VL) = c[j][v];
                    });
                }
            }
}

// With g_i = v_i' dm_i, the gradient of image i's mixed filters: du[k] += sum_i a[i, k] g_i, and
// da_parts[block, i, k] += <u[k], g_i> for the blocks of frequencies and channels that the threads share out.
constexpr int64_t C_BLOCK = 48;  // with 16 outputs, K tiles of u and of du stay in the first-level cache

void gradient_of_mixture(const Shape &s, int64_t F, int64_t n, int64_t first, const float *a, const float *u,
                         const float *v, const float *dm, float *du, float *da_parts) {
    const int64_t panels = s.Op / LANES, blocks = (s.C + C_BLOCK - 1) / C_BLOCK;
    const int64_t size = s.C * LANES, per_expert = F * panels * size;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t f = 0; f < F; ++f)
        for (int64_t b = 0; b < blocks; ++b)
            for (int64_t p = 0; p < panels; ++p) {
                const int64_t c0 = b * C_BLOCK, rows = std::min(C_BLOCK, s.C - c0);
                const int64_t offset = (f * panels + p) * size + c0 * LANES;
                for (int64_t i = 0; i < n; ++i) {
                    const float *vi = v + (f * n + i) * s.T * s.Cp + c0, *ai = a + i * s.K;
                    const float *dmi = dm + (f * n + i) * s.T * s.Op + p * LANES;
                    float *da = da_parts + ((f * blocks + b) * s.N + first + i) * s.K;
                    in_register_tiles(rows, [&](int64_t r, auto rows_in_tile) {
                        constexpr int ROWS = decltype(rows_in_tile)::value;
                        Vec g[ROWS][VECS] = {};
                        product<ROWS>(vi + r, 1, s.Cp, dmi, s.Op, s.T, g);
                        for (int64_t k = 0; k < s.K; ++k) {
                            const Vec *uk = reinterpret_cast<const Vec *>(u + k * per_expert + offset + r * LANES);
                            Vec *duk = reinterpret_cast<Vec *>(du + k * per_expert + offset + r * LANES);
                            Vec dot{};
#pragma GCC unroll 8
                            for (int j = 0; j < ROWS; ++j)
#pragma GCC unroll 4
                                for (int q = 0; q < VECS; ++q) {
                                    duk[j * VECS + q] += ai[k] * g[j][q];
                                    dot += g[j][q] * uk[j * VECS + q];
                                }
                            float sum = 0;
                            for (int64_t l = 0; l < VL; ++l) sum += dot[l];
                            da[k] += sum;
                        }
                    });
                }
            }
}

template <int M> void forward(const Shape &s, const float *x, const float *w, const float *a, float *y) {
    using Tl = Tile<M>;
    constexpr int t = Tl::t, F = t * t;
    const int64_t n_max = s.chunk(F);
    workspace.reserve(s.K * F * s.Op * s.C + n_max * F * s.T * (s.Cp + s.Op) + 64);
    float *u = workspace.take(s.K * F * s.Op * s.C);
    float *v = workspace.take(n_max * F * s.T * s.Cp), *m = workspace.take(n_max * F * s.T * s.Op);
    transform_experts<M, false>(s, w, u);
    for (int64_t first = 0; first < s.N; first += n_max) {
        const int64_t n = std::min(n_max, s.N - first);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i)
            transform_map<t, t, false>([](int r, int c) { return Tl::BT[r][c]; },
                                       const_cast<float *>(x) + (first + i) * s.H * s.W * s.C, s.H, s.W, s.C, s.Cp, M,
                                       s.pad, s.tiles_down, s.tiles_across, v + i * s.T * s.Cp, n * s.T * s.Cp);
        mix_and_multiply(F, n, s.T, s.K, a + first * s.K, u, v, s.C, s.Cp, m, s.Op);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            transform_map<M, t, true>([](int r, int c) { return Tl::AT[r][c]; }, y + (first + i) * s.R * s.S * s.O, s.R,
                                      s.S, s.O, s.Op, M, 0, s.tiles_down, s.tiles_across, m + i * s.T * s.Op,
                                      n * s.T * s.Op);
        }
    }
}

template <int M>
void backward(const Shape &s, const float *x, const float *w, const float *a, const float *dy, float *dx, float *dw,
              float *da) {
    using Tl = Tile<M>;
    constexpr int t = Tl::t, F = t * t;
    const int64_t n_max = s.chunk(F), blocks = (s.C + C_BLOCK - 1) / C_BLOCK;
    const size_t u_size = s.K * F * s.Op * s.C, ut_size = dx ? s.K * F * s.Cp * s.O : 0;
    const size_t da_size = F * blocks * s.N * s.K;
    workspace.reserve(2 * u_size + ut_size + da_size + n_max * F * s.T * (s.Cp + s.Op) + 128);
    float *u = workspace.take(u_size), *du = workspace.take(u_size), *ut = workspace.take(ut_size);
    float *da_parts = workspace.take(da_size);
    float *v = workspace.take(n_max * F * s.T * s.Cp), *dm = workspace.take(n_max * F * s.T * s.Op);
    transform_experts<M, false>(s, w, u);
    if (dx) transform_experts<M, true>(s, w, ut);
    std::fill(du, du + u_size, 0.f);
    std::fill(da_parts, da_parts + da_size, 0.f);
    for (int64_t first = 0; first < s.N; first += n_max) {
        const int64_t n = std::min(n_max, s.N - first);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            transform_map<t, t, false>([](int r, int c) { return Tl::BT[r][c]; },
                                       const_cast<float *>(x) + (first + i) * s.H * s.W * s.C, s.H, s.W, s.C, s.Cp, M,
                                       s.pad, s.tiles_down, s.tiles_across, v + i * s.T * s.Cp, n * s.T * s.Cp);
            transform_map<M, t, false>([](int r, int c) { return Tl::AT[c][r]; },
                                       const_cast<float *>(dy) + (first + i) * s.R * s.S * s.O, s.R, s.S, s.O, s.Op, M,
                                       0, s.tiles_down, s.tiles_across, dm + i * s.T * s.Op, n * s.T * s.Op);
        }
        gradient_of_mixture(s, F, n, first, a + first * s.K, u, v, dm, du, da_parts);
        if (!dx) continue;
        mix_and_multiply(F, n, s.T, s.K, a + first * s.K, ut, dm, s.O, s.Op, v, s.Cp);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            float *dxi = dx + (first + i) * s.H * s.W * s.C;
            std::fill(dxi, dxi + s.H * s.W * s.C, 0.f);
            transform_map<t, t, true>([](int r, int c) { return Tl::BT[c][r]; }, dxi, s.H, s.W, s.C, s.Cp, M, s.pad,
                                      s.tiles_down, s.tiles_across, v + i * s.T * s.Cp, n * s.T * s.Cp);
        }
    }
    gradient_of_experts<M>(s, du, dw);
    for (int64_t i = 0; i < s.N * s.K; ++i) {
        float sum = 0;
        for (int64_t b = 0; b < F * blocks; ++b) sum += da_parts[b * s.N * s.K + i];
        da[i] = sum;
    }
}

}  // namespace

// The interface to Python. tile is 2 or 4; C and O are multiples of 8; arrays as described at the top; dx may be
// null. Returns 0, or 1 where there is not enough memory.
extern "C" int dynconv_winograd_forward(int64_t tile, int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,
                                        int64_t pad, const float *x, const float *w, const float *a, float *y) {
    try {
        const Shape s(N, H, W, C, O, K, pad, tile);
        tile == 2 ? forward<2>(s, x, w, a, y) : forward<4>(s, x, w, a, y);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

extern "C" int dynconv_winograd_backward(int64_t tile, int64_t N, int64_t H, int64_t W, int64_t C, int64_t O, int64_t K,
                                         int64_t pad, const float *x, const float *w, const float *a, const float *dy,
                                         float *dx, float *dw, float *da) {
    try {
        const Shape s(N, H, W, C, O, K, pad, tile);
        tile == 2 ? backward<2>(s, x, w, a, dy, dx, dw, da) : backward<4>(s, x, w, a, dy, dx, dw, da);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
