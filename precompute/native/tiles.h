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
   `split_ready` (linear.c) says 0 and nothing else may be called.
*/

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

static inline long up(long number, long to) { return (number + to - 1) / to * to; }

/* ---- Memory of this thread, kept between calls ---- */

static __thread struct { void *at; size_t size; } kept[4];

static inline void *room(int which, size_t size)
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

/* Rows as left tiles, (x - shift) * stretch; `shift` may be none, and then `scale` stretches. */
static inline TILES void pack_rows(const float *x, long stride, long rows, long inner, float scale,
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
static inline TILES void pack_right(const float *x, long stride, long inner, long columns, uint16_t *to)
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

static inline TILES void configure(void)
{
    struct { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles;
    memset(&tiles, 0, sizeof tiles);
    tiles.palette = 1;
    for (int i = 0; i < 8; i++) { tiles.bytes[i] = 64; tiles.rows[i] = TILE; }
    _tile_loadconfig(&tiles);
}

/* Four tiles of results. Neighbouring products share one side; loads stand between products that do not need them. */
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
