/* Float32 products and attention on a processor's bfloat16 tiles (AMX), without loss.

   A float32 has 24 bits of precision, a bfloat16 has 8. So every number is written as the sum of
   three bfloat16: what rounding leaves over is rounded again, twice, and nothing is left. Of the
   nine products of two such sums, the six that reach into a float32's precision are taken; the
   tiles multiply bfloat16 exactly and add in float32. That is six times the arithmetic on units
   sixteen times as fast, and no less exact than float32's own products
   (tests/precompute/test_split.py compares both with float64).

   Tiles are 16 x 16 results, of 16 rows x 32 numbers. What stands on the right is kept with pairs
   of rows side by side, as the tiles want it. Every buffer's tiles lie in the order
   [tile of rows or columns][32 inner numbers][part].

   One thread a call; calls from several threads do not meet. Compiled for x86-64 Linux; elsewhere
   `split_ready` says 0 and nothing else may be called.
*/

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILES __attribute__((target( \
    "amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,prfchw")))
#define INLINE static inline TILES __attribute__((always_inline))

enum {
    PARTS = 3,
    TILE = 16,                /* rows, or columns, of a tile */
    DEEP = 32,                /* inner numbers of a tile */
    AREA = TILE * DEEP,       /* numbers of a tile */
    STEP = PARTS * AREA,      /* numbers of one tile with its parts */
    PANEL = 2 * TILE,         /* rows and columns of what four tiles make at once */
    MOST = 256,               /* rows taken together, */
    REACH = 12                /* over so many tiles of inner numbers: what stays near */
};

static long up(long number, long to) { return (number + to - 1) / to * to; }

/* ---- Has this processor what it takes, and does the system let us? ---- */

int split_ready(void)
{
    unsigned a, b, c, d, low, high;
    const int tile_state = 18, ask_for = 0x1023; /* ARCH_REQ_XCOMP_PERM */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0;                         /* AMX-BF16, AMX-TILE */
    if (!(b >> 16 & 1) || !(b >> 17 & 1) || !(b >> 30 & 1) || !(b >> 31 & 1)) return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0; /* AVX512-BF16 */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;         /* XGETBV */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0x600e6) != 0x600e6) return 0; /* the system saves vectors and tiles */
    return syscall(SYS_arch_prctl, ask_for, tile_state) == 0;
}

/* ---- Memory of this thread, kept between calls ---- */

static __thread struct { void *at; size_t size; } kept[4];

static void *room(int which, size_t size)
{
    if (kept[which].size < size) {
        free(kept[which].at);
        kept[which].size = up(size, 4096);
        kept[which].at = aligned_alloc(4096, kept[which].size);
        if (!kept[which].at) kept[which].size = 0;
    }
    return kept[which].at;
}

/* ---- Numbers as sums of three ---- */

INLINE __m512 half(__m256i rounded)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
}

/* 32 numbers of a row, each part into its own tile. */
INLINE void split_row(__m512 a, __m512 b, uint16_t *to)
{
    for (int part = 0; part < PARTS; part++, to += AREA) {
        __m512i rounded = (__m512i)_mm512_cvtne2ps_pbh(b, a);
        _mm512_storeu_si512(to, rounded);
        a = _mm512_sub_ps(a, half(_mm512_castsi512_si256(rounded)));
        b = _mm512_sub_ps(b, half(_mm512_extracti64x4_epi64(rounded, 1)));
    }
}

/* 16 columns of two rows, side by side as pairs, each part into its own tile. */
INLINE void split_pair(__m512 upper, __m512 lower, uint16_t *to)
{
    for (int part = 0; part < PARTS; part++, to += AREA) {
        __m256i first = (__m256i)_mm512_cvtneps_pbh(upper);
        __m256i second = (__m256i)_mm512_cvtneps_pbh(lower);
        __m512i low = _mm512_cvtepu16_epi32(first);
        __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16);
        _mm512_storeu_si512(to, _mm512_or_si512(low, high));
        upper = _mm512_sub_ps(upper, half(first));
        lower = _mm512_sub_ps(lower, half(second));
    }
}

INLINE __mmask16 lanes(long left)
{
    return left >= TILE ? 0xffff : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

INLINE float sum_of(const float *row, long length, __m512 shift, int squared)
{
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < length; i += TILE) {
        __mmask16 here = lanes(length - i);
        __m512 x = _mm512_maskz_sub_ps(here, _mm512_maskz_loadu_ps(here, row + i), shift);
        sum = squared ? _mm512_fmadd_ps(x, x, sum) : _mm512_add_ps(sum, x);
    }
    return _mm512_reduce_add_ps(sum);
}

/* What LayerNorm takes off each row, and multiplies it by. */
TILES static void look(const float *x, long rows, long inner, float eps, float *shift,
                       float *stretch)
{
    for (long row = 0; row < rows; row++, x += inner) {
        shift[row] = sum_of(x, inner, _mm512_setzero_ps(), 0) / inner;
        stretch[row] = 1 / sqrtf(sum_of(x, inner, _mm512_set1_ps(shift[row]), 1) / inner + eps);
    }
}

/* Rows as left tiles, (x - shift) * stretch; `shift` may be none, and then `scale` stretches. */
TILES static void pack_rows(const float *x, long stride, long rows, long inner, float scale,
                            const float *shift, const float *stretch, uint16_t *to)
{
    long deep = up(inner, DEEP) / DEEP;
    for (long row = 0; row < up(rows, PANEL); row++) {
        uint16_t *tile = to + row / TILE * deep * STEP + row % TILE * DEEP;
        const float *from = x + row * stride;
        int there = row < rows;
        __m512 less = _mm512_set1_ps(shift && there ? shift[row] : 0);
        __m512 times = _mm512_set1_ps(shift && there ? stretch[row] : scale);
        for (long i = 0; i < inner; i += DEEP, tile += STEP) {
            __mmask16 left = there ? lanes(inner - i) : 0;
            __mmask16 right = there ? lanes(inner - i - TILE) : 0;
            __m512 a = _mm512_maskz_sub_ps(left, _mm512_maskz_loadu_ps(left, from + i), less);
            __m512 b = _mm512_maskz_sub_ps(right, _mm512_maskz_loadu_ps(right, from + i + TILE),
                                           less);
            split_row(_mm512_mul_ps(a, times), _mm512_mul_ps(b, times), tile);
        }
    }
}

/* A matrix whose rows are the inner numbers, as right tiles: `inner` x `columns`. */
TILES static void pack_right(const float *x, long stride, long inner, long columns, uint16_t *to)
{
    long deep = up(inner, DEEP) / DEEP;
    for (long row = 0; row < deep * DEEP; row += 2)
        for (long column = 0; column < up(columns, PANEL); column += TILE) {
            uint16_t *tile = to + (column / TILE * deep + row / DEEP) * STEP
                + row % DEEP * TILE;
            __mmask16 upper = row < inner ? lanes(columns - column) : 0;
            __mmask16 lower = row + 1 < inner ? lanes(columns - column) : 0;
            split_pair(_mm512_maskz_loadu_ps(upper, x + row * stride + column),
                       _mm512_maskz_loadu_ps(lower, x + (row + 1) * stride + column), tile);
        }
}

/* ---- The product of a panel of left rows and a panel of right columns ---- */

static TILES void configure(void)
{
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles;
    memset(&tiles, 0, sizeof tiles);
    tiles.palette = 1;
    for (int i = 0; i < 8; i++) { tiles.bytes[i] = 64; tiles.rows[i] = TILE; }
    _tile_loadconfig(&tiles);
}

/* Four tiles of results, smallest products first, so that little is lost when they are added.
   Neighbouring products share one side; loads stand between products that do not need them. */
#define LEFT(part) \
    _tile_loadd(4, left + (part) * AREA, 64); _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); \
    _tile_loadd(5, left2 + (part) * AREA, 64); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7)
#define RIGHT(part) \
    _tile_loadd(6, right + (part) * AREA, 64); _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(2, 5, 6); \
    _tile_loadd(7, right2 + (part) * AREA, 64); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(3, 5, 7)

#define RESULTS(do) \
    do(0, to, 4 * stride); do(1, to + TILE, 4 * stride); \
    do(2, to + TILE * stride, 4 * stride); do(3, to + TILE * stride + TILE, 4 * stride)

/* `deep` tiles of the inner numbers; `left2` and `right2` are the second rows and columns. `more`
   adds to what is there. */
INLINE void multiply(const uint16_t *left, const uint16_t *left2, const uint16_t *right,
                     const uint16_t *right2, long deep, int more, float *to, long stride)
{
    if (more) {
        RESULTS(_tile_loadd);
    } else {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    }
    for (long i = 0; i < deep; i++) {
        _tile_loadd(6, right, 64);
        _tile_loadd(7, right2, 64);
        LEFT(2); LEFT(1); RIGHT(1); LEFT(0); RIGHT(2); RIGHT(0);
        left += STEP; left2 += STEP; right += STEP; right2 += STEP;
    }
    RESULTS(_tile_stored);
}

/* ---- Elementary functions ---- */

/* x Phi(x). Phi by a rational fit of erf, whose error is 1.5e-8 (fitted for this file). */
INLINE __m512 gelu(__m512 x)
{
    static const float over[] = {1.12837903f, 0.191932395f, 0.0529656211f, 0.00383645628f,
                                  0.000287439363f, 2.05034767e-06f};
    static const float under[] = {1, 0.503427439f, 0.114754494f, 0.0151083802f,
                                   0.00118161626f, 3.82293846e-05f};
    const __m512 edge = _mm512_set1_ps(3.9f);
    __m512 z = _mm512_mul_ps(x, _mm512_set1_ps(0.70710678f));
    z = _mm512_max_ps(_mm512_min_ps(z, edge), _mm512_sub_ps(_mm512_setzero_ps(), edge));
    __m512 s = _mm512_mul_ps(z, z), p = _mm512_set1_ps(over[5]), q = _mm512_set1_ps(under[5]);
    for (int i = 4; i >= 0; i--) {
        p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(over[i]));
        q = _mm512_fmadd_ps(q, s, _mm512_set1_ps(under[i]));
    }
    const __m512 half_of = _mm512_set1_ps(0.5f);
    __m512 erf = _mm512_div_ps(_mm512_mul_ps(z, p), q);
    return _mm512_mul_ps(x, _mm512_fmadd_ps(half_of, erf, half_of));
}

/* e^x for x <= 0. */
INLINE __m512 exponential(__m512 x)
{
    static const float terms[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, .5f, 1, 1};
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 sum = _mm512_set1_ps(terms[0]);
    for (int i = 1; i < 8; i++) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(sum, n);
}

/* ---- x W^T + b ---- */

typedef struct {
    const float *bias;     /* columns, or none */
    const float *residual; /* added last: as `to`, or none */
    int gelu;
} Finish;

INLINE void finish(const float *panel, long panel_stride, long rows, long columns, long at, long stride, Finish how,
                   const float *residual, float *to)
{
    for (int half_panel = 0; half_panel < PANEL; half_panel += TILE) {
        __mmask16 here = lanes(columns - at - half_panel);
        if (!here) return;
        long first = at + half_panel;
        __m512 bias = how.bias ? _mm512_maskz_loadu_ps(here, how.bias + first)
                               : _mm512_setzero_ps();
        for (long row = 0; row < rows; row++) {
            __m512 x = _mm512_add_ps(_mm512_loadu_ps(panel + row * panel_stride + half_panel), bias);
            if (how.gelu) x = gelu(x);
            if (residual)
                x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(here, residual + row * stride + first));
            _mm512_mask_storeu_ps(to + row * stride + first, here, x);
        }
    }
}

/* Ask for the lines that a panel will be finished from and into, while it is being multiplied. */
INLINE void expect(long rows, long stride, const float *residual, float *to)
{
    for (long row = 0; row < rows; row++, to += stride) {
        __builtin_prefetch(to, 1);
        __builtin_prefetch(to + TILE, 1);
        if (residual) {
            __builtin_prefetch(residual + row * stride);
            __builtin_prefetch(residual + row * stride + TILE);
        }
    }
}

/* Bytes of a matrix of right tiles. */
long split_size(long inner, long columns)
{
    return up(inner, DEEP) * up(columns, PANEL) * PARTS * 2;
}

/* The weight of a linear map, `columns` x `inner` as torch keeps it, into right tiles. */
TILES int split_pack(const float *weight, long inner, long columns, uint16_t *to)
{
    float *turned = malloc(sizeof(float) * inner * columns);
    if (!turned) return 1;
    for (long i = 0; i < inner; i++)
        for (long column = 0; column < columns; column++)
            turned[i * columns + column] = weight[column * inner + i];
    pack_right(turned, columns, inner, columns, to);
    free(turned);
    return 0;
}

/* to = x W^T + b, then perhaps GELU, then perhaps + residual. x: rows x inner, to: rows x columns,
   all without gaps. With eps >= 0, x is normalised first as by LayerNorm without weights.
   Not 0 if there is no memory. */
TILES int split_linear(const float *x, long rows, long inner, const uint16_t *weight, long columns,
                       const float *bias, const float *residual, int with_gelu, float eps,
                       float *to)
{
    long deep = up(inner, DEEP) / DEEP, wide = up(columns, PANEL);
    uint16_t *left = room(0, MOST * (deep < REACH ? deep : REACH) * DEEP * PARTS * 2);
    float *sums = room(1, (deep > REACH ? wide : PANEL) * MOST * sizeof(float));
    float shift[MOST], stretch[MOST];
    Finish how = {bias, residual, with_gelu};
    if (!left || !sums) return 1;
    configure();
    for (long start = 0; start < rows; start += MOST) {
        long some = rows - start < MOST ? rows - start : MOST;
        if (eps >= 0) look(x + start * inner, some, inner, eps, shift, stretch);
        for (long first = 0; first < deep; first += REACH) {
            long reach = deep - first < REACH ? deep - first : REACH, from = first * DEEP;
            int last = first + reach == deep;
            pack_rows(x + start * inner + from, inner, some,
                      inner - from < REACH * DEEP ? inner - from : REACH * DEEP, 1,
                      eps >= 0 ? shift : 0, stretch, left);
            for (long column = 0; column < columns; column += PANEL)
                for (long row = 0; row < some; row += PANEL) {
                    const uint16_t *l = left + row / TILE * reach * STEP;
                    const uint16_t *r = weight + (column / TILE * deep + first) * STEP;
                    float *sum = deep > REACH ? sums + row * wide + column : sums;
                    long stride = deep > REACH ? wide : PANEL;
                    long rest = some - row < PANEL ? some - row : PANEL;
                    const float *added = residual ? residual + (start + row) * columns : 0;
                    float *into = to + (start + row) * columns;
                    if (last) expect(rest, columns, added ? added + column : 0, into + column);
                    multiply(l, l + reach * STEP, r, r + deep * STEP, reach, first > 0, sum,
                             stride);
                    if (last) finish(sum, stride, rest, columns, column, columns, how, added, into);
                }
        }
    }
    _tile_release();
    return 0;
}

/* ---- softmax(q k^T / sqrt(d)) v ---- */

/* 16 x 16 numbers of 32 bits, turned over the diagonal. */
INLINE void turn(__m512i *rows)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        __m512i low = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
        __m512i high = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
        __m512i low2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
        __m512i high2 = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
        rows[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        rows[i + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        rows[i + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}

/* Rows, split as left tiles, to right tiles of the transpose: pairs are turned, tile by tile. */
TILES static void turn_tiles(uint16_t *tiles, long count)
{
    __m512i rows[TILE];
    for (long i = 0; i < count; i++, tiles += AREA) {
        for (int row = 0; row < TILE; row++) rows[row] = _mm512_loadu_si512(tiles + row * DEEP);
        turn(rows);
        for (int row = 0; row < TILE; row++) _mm512_storeu_si512(tiles + row * DEEP, rows[row]);
    }
}

/* e^(x - max) over a row of scores; 0 behind the last key. The sum. */
INLINE float soften(float *row, long keys, long padded)
{
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (long i = 0; i < keys; i += TILE)
        most = _mm512_mask_max_ps(most, lanes(keys - i), most, _mm512_loadu_ps(row + i));
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (long i = 0; i < padded; i += TILE) {
        __m512 e = _mm512_maskz_mov_ps(lanes(keys - i), exponential(
            _mm512_sub_ps(_mm512_loadu_ps(row + i), most)));
        _mm512_storeu_ps(row + i, e);
        sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* Attention of `rows` sequences of `tokens` tokens: `qkv` is rows x tokens x 3 x heads x width, `to`
   rows x tokens x heads x width, both without gaps. Not 0 if there is no memory. */
TILES int split_attention(const float *qkv, long rows, long tokens, long heads, long width,
                          float *to)
{
    long stride = 3 * heads * width, padded = up(tokens, PANEL), wide = up(width, DEEP);
    long deep = wide / DEEP, far = padded / DEEP, bytes = padded * wide * PARTS * 2;
    uint16_t *key = room(0, bytes), *value = room(1, bytes);
    uint16_t *left = room(2, PANEL * (padded > wide ? padded : wide) * PARTS * 2);
    float *scores = room(3, PANEL * padded * sizeof(float));
    if (!key || !value || !left || !scores) return 1;
    float panel[PANEL * PANEL] __attribute__((aligned(64))), sums[PANEL];
    configure();
    for (long one = 0; one < rows * heads; one++) {
        const float *q = qkv + one / heads * tokens * stride + one % heads * width;
        const float *k = q + heads * width, *v = k + heads * width;
        float *out = to + one / heads * tokens * heads * width + one % heads * width;
        pack_rows(k, stride, tokens, width, 1, 0, 0, key);
        turn_tiles(key, padded / TILE * deep * PARTS);
        pack_right(v, stride, tokens, width, value);
        for (long query = 0; query < tokens; query += PANEL) {
            long some = tokens - query < PANEL ? tokens - query : PANEL;
            pack_rows(q + query * stride, stride, some, width, 1 / sqrtf((float)width), 0, 0, left);
            for (long at = 0; at < padded; at += PANEL)
                multiply(left, left + deep * STEP, key + at / TILE * deep * STEP,
                         key + (at / TILE + 1) * deep * STEP, deep, 0, scores + at, padded);
            for (int row = 0; row < some; row++)
                sums[row] = soften(scores + row * padded, tokens, padded);
            pack_rows(scores, padded, some, padded, 1, 0, 0, left);
            for (long at = 0; at < wide; at += PANEL) {
                multiply(left, left + far * STEP, value + at / TILE * far * STEP,
                         value + (at / TILE + 1) * far * STEP, far, 0, panel, PANEL);
                for (int row = 0; row < some; row++)
                    for (int lane = 0; lane < PANEL; lane += TILE) {
                        __m512 x = _mm512_loadu_ps(panel + row * PANEL + lane);
                        _mm512_mask_storeu_ps(out + (query + row) * heads * width + at + lane,
                            lanes(width - at - lane), _mm512_div_ps(x, _mm512_set1_ps(sums[row])));
                    }
            }
        }
    }
    _tile_release();
    return 0;
}

#else

int split_ready(void) { return 0; }

#endif
