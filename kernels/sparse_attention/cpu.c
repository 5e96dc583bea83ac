/* Attention of each query to a list of keys, fp32, forward and backward.
 *
 * One head of one sequence at a time: its keys and values lie one after the other, copied where they did not, and are
 * gathered from the second-level cache while the queries pass. Each block of queries first reads only keys, then only
 * values, so that more of them stay in the nearest cache. DQK and DV (multiples of 8) are compile-time constants, so
 * that a row is a few vector registers; so is BLOCK, the queries of a block.
 * Shapes: query [B, H, T, DQK], key [B, H, S, DQK], value [B, H, S, DV], out [B, H, T, DV]; index [B, T, K] int32,
 * padded at the end with -1; weight [B, H, T, K], the attention weights for the backward pass. A call does the heads
 * [begin, end) of the B * H.
 */
#include <math.h>
#include <string.h>

#if defined __GLIBC__ && defined __x86_64__ /* whose vector expf the headers offer under -ffast-math only */
__attribute__((simd("notinbranch"))) float expf(float);
#endif

#if defined __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int lanes __attribute__((vector_size(32)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (lanes){__VA_ARGS__})
#endif

#define QV (DQK / 8)
#define VV (DV / 8)
#define MOST (QV > VV ? QV : VV)
#define NEAR (1 << 19) /* bytes of rows that the second-level cache holds beside the rest */
#define AHEAD 32       /* how many rows before its use a row is fetched that is not near */

#define INLINE static inline __attribute__((always_inline)) /* so that width and far are constants */
/* Unrolled at once: the compiler would make copies of such loops, through memory and in other sizes than are read. */
#define EACH _Pragma("GCC unroll 64") for (int i = 0; i < width; i++)

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));

/* A tensor [B, H, tokens, width]: a row is contiguous, the strides of the rest are in floats. */
typedef struct {
    float *data;
    long batch, head, token;
} tensor;

static float *row(const tensor *x, long n, long heads, long t) {
    return x->data + n / heads * x->batch + n % heads * x->head + t * x->token;
}

/* The sums of eight vectors, as one. */
static inline vec totals(const vec x[8]) {
    vec two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = SHUFFLE(x[2 * i], x[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13) +
                 SHUFFLE(x[2 * i], x[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    for (int i = 0; i < 2; i++)
        four[i] = SHUFFLE(two[2 * i], two[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                  SHUFFLE(two[2 * i], two[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return SHUFFLE(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

/* Brings a row of the list into the cache before its turn; the list must go on so far, be it with padding. */
INLINE void fetch(const vec *rows, const int *list, int width, int far) {
    if (far)
        for (int i = 0; i < width; i += 2) __builtin_prefetch(rows + (long)list[AHEAD] * width + i);
}

INLINE vec eight_dots(const vec *x, const vec *rows, const int *list, int width) {
    vec sum[8];
    for (int j = 0; j < 8; j++) {
        const vec *y = rows + (long)list[j] * width;
        sum[j] = x[0] * y[0];
        for (int i = 1; i < width; i++) sum[j] += x[i] * y[i];
    }
    return totals(sum);
}

/* out[j] = x . rows[list[j]] * scale */
INLINE void dots(const float *from, const vec *rows, const int *list, long count, float scale, float *out, int width,
                 int far) {
    vec x[MOST];
    long j = 0;
    EACH x[i] = ((const vec *)from)[i];
    for (; j + 8 <= count; j += 8) {
        for (int i = 0; i < 8; i++) fetch(rows, list + j + i, width, far);
        *(vec *)(out + j) = eight_dots(x, rows, list + j, width) * scale;
    }
    if (j < count) {
        int rest[8];
        for (int i = 0; i < 8; i++) rest[i] = list[j + i < count ? j + i : j];
        const vec found = eight_dots(x, rows, rest, width) * scale;
        for (int i = 0; i < count - j; i++) out[j + i] = found[i];
    }
}

/* out = sum of w[j] * rows[list[j]]; two sums, so that an addition need not wait for the last. */
INLINE void combine(const float *w, const vec *rows, const int *list, long count, float *out, int width, int far) {
    vec even[MOST], odd[MOST];
    long j = 0;
    EACH even[i] = odd[i] = (vec){0};
    for (; j + 2 <= count; j += 2) {
        const vec *a = rows + (long)list[j] * width, *b = rows + (long)list[j + 1] * width;
        fetch(rows, list + j, width, far);
        fetch(rows, list + j + 1, width, far);
        EACH even[i] += w[j] * a[i];
        EACH odd[i] += w[j + 1] * b[i];
    }
    if (j < count) EACH even[i] += w[j] * rows[(long)list[j] * width + i];
    EACH ((vec *)out)[i] = even[i] + odd[i];
}

/* rows[list[j]] += w[j] * x */
INLINE void spread(const float *restrict w, const float *restrict from, vec *restrict rows, const int *restrict list,
                   long count, int width, int far) {
    vec x[MOST];
    EACH x[i] = ((const vec *)from)[i];
    for (long j = 0; j < count; j++) {
        vec *to = rows + (long)list[j] * width;
        fetch(rows, list + j, width, far);
        EACH to[i] += w[j] * x[i];
    }
}

static inline long used(const int *index, long k) {
    while (k > 0 && index[k - 1] < 0) k--;
    return k;
}

/* Eight running maxima, which are one vector: the compiler may not reorder a single one, because of NaN. */
static float largest(const float *x, long n) {
    float top[8];
    long j = 0;
    for (int i = 0; i < 8; i++) top[i] = x[0];
    for (; j + 8 <= n; j += 8)
        for (int i = 0; i < 8; i++) top[i] = x[j + i] > top[i] ? x[j + i] : top[i];
    for (; j < n; j++) top[0] = x[j] > top[0] ? x[j] : top[0];
    for (int i = 4; i > 0; i /= 2)
        for (int k = 0; k < i; k++) top[k] = top[k + i] > top[k] ? top[k + i] : top[k];
    return top[0];
}

static void softmax(float *x, long n) {
    const float top = largest(x, n);
    float sum = 0;
    for (long j = 0; j < n; j++) x[j] = expf(x[j] - top);
    for (long j = 0; j < n; j++) sum += x[j];
    const float scale = 1.0f / sum;
    for (long j = 0; j < n; j++) x[j] *= scale;
}

/* From the slope of the weights to that of the unscaled scores. */
static void softmax_slope(const float *w, float *slope, long n, float scale) {
    float mean = 0;
    for (long j = 0; j < n; j++) mean += w[j] * slope[j];
    for (long j = 0; j < n; j++) slope[j] = w[j] * (slope[j] - mean) * scale;
}

/* A head's rows one after the other: where they are, or copied to `to`. */
INLINE const vec *dense(const tensor *x, long n, long heads, long count, float *to, int width) {
    const float *from = row(x, n, heads, 0);
    const long stride = x->token;
    if (stride == 8 * width) return (const vec *)from;
    for (long s = 0; s < count; s++, from += stride) {
        const vec *a = (const vec *)from;
        vec *b = (vec *)to + s * width;
        EACH b[i] = a[i];
    }
    return (const vec *)to;
}

/* A block of queries of one head; strides of the queries and outputs in floats. */
INLINE void attend(const float *query, long query_stride, const vec *key, const vec *value, const int *list, long count,
                   long K, float scale, float *out, long out_stride, float *w, int far) {
    for (long t = 0; t < count; t++)
        dots(query + t * query_stride, key, list + t * K, used(list + t * K, K), scale, w + t * K, QV, far);
    for (long t = 0; t < count; t++) softmax(w + t * K, used(list + t * K, K));
    for (long t = 0; t < count; t++)
        combine(w + t * K, value, list + t * K, used(list + t * K, K), out + t * out_stride, VV, far);
}

/* Whether rows are fetched ahead: where they are not near, and the lists do not end with this block. */
static int is_far(long S, long left, long K) { return S * DQK * (long)sizeof(float) > NEAR && left * K >= AHEAD; }

/* keys [S, DQK] and values [S, DV] are scratch, as is block [BLOCK, K], which is used where weight is null. */
void forward(const tensor *query, const tensor *key, const tensor *value, const int *index, long heads, long T, long S,
             long K, float scale, const tensor *out, float *weight, float *keys, float *values, float *block,
             long begin, long end) {
    for (long n = begin; n < end; n++) {
        const vec *k = dense(key, n, heads, S, keys, QV), *v = dense(value, n, heads, S, values, VV);
        for (long t = 0; t < T; t += BLOCK) {
            const long count = T - t < BLOCK ? T - t : BLOCK;
            const int *list = index + (n / heads * T + t) * K;
            const float *q = row(query, n, heads, t);
            float *o = row(out, n, heads, t), *w = weight ? weight + (n * T + t) * K : block;
            if (is_far(S, T - t - count, K))
                attend(q, query->token, k, v, list, count, K, scale, o, out->token, w, 1);
            else
                attend(q, query->token, k, v, list, count, K, scale, o, out->token, w, 0);
        }
    }
}

/* The gradients of a block of queries of one head; those of keys and values are added. */
INLINE void differentiate(const float *query, long query_stride, const vec *key, const vec *value, const int *list,
                          long count, long K, float scale, const float *w, const float *grad_out, long out_stride,
                          float *slope, float *grad_query, long grad_stride, vec *grad_key, vec *grad_value, int far) {
    for (long t = 0; t < count; t++)
        dots(grad_out + t * out_stride, value, list + t * K, used(list + t * K, K), 1, slope + t * K, VV, far);
    for (long t = 0; t < count; t++) softmax_slope(w + t * K, slope + t * K, used(list + t * K, K), scale);
    for (long t = 0; t < count; t++)
        spread(w + t * K, grad_out + t * out_stride, grad_value, list + t * K, used(list + t * K, K), VV, far);
    for (long t = 0; t < count; t++)
        combine(slope + t * K, key, list + t * K, used(list + t * K, K), grad_query + t * grad_stride, QV, far);
    for (long t = 0; t < count; t++)
        spread(slope + t * K, query + t * query_stride, grad_key, list + t * K, used(list + t * K, K), QV, far);
}

/* grad_key [B, H, S, DQK] and grad_value [B, H, S, DV] are contiguous; scratch as in forward. */
void backward(const tensor *query, const tensor *key, const tensor *value, const int *index, long heads, long T, long S,
              long K, float scale, const tensor *grad_out, const float *weight, const tensor *grad_query,
              float *grad_key, float *grad_value, float *keys, float *values, float *block, long begin, long end) {
    for (long n = begin; n < end; n++) {
        const vec *k = dense(key, n, heads, S, keys, QV), *v = dense(value, n, heads, S, values, VV);
        float *gk = grad_key + n * S * DQK, *gv = grad_value + n * S * DV;
        memset(gk, 0, S * DQK * sizeof(float));
        memset(gv, 0, S * DV * sizeof(float));
        for (long t = 0; t < T; t += BLOCK) {
            const long count = T - t < BLOCK ? T - t : BLOCK;
            const int *list = index + (n / heads * T + t) * K;
            const float *q = row(query, n, heads, t), *g = row(grad_out, n, heads, t), *w = weight + (n * T + t) * K;
            float *gq = row(grad_query, n, heads, t);
            if (is_far(S, T - t - count, K))
                differentiate(q, query->token, k, v, list, count, K, scale, w, g, grad_out->token, block, gq,
                              grad_query->token, (vec *)gk, (vec *)gv, 1);
            else
                differentiate(q, query->token, k, v, list, count, K, scale, w, g, grad_out->token, block, gq,
                              grad_query->token, (vec *)gk, (vec *)gv, 0);
        }
    }
}
