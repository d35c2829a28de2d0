/* Attention on tiles (tiles.h): softmax(q k^T / sqrt(d)) v. */

#if defined(__x86_64__) && defined(__linux__)

#include "tiles.h"

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

#endif
