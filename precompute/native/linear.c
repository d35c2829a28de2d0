/* Linear maps on tiles (tiles.h), with what stands before and behind them. */

#if defined(__x86_64__) && defined(__linux__)

#include "tiles.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Has this processor what it takes, and does the system let us? */
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

/* Of a row, less a shift; squared, if asked. */
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

#else

int split_ready(void) { return 0; }

#endif
