/* Attention of each query to a list of keys, fp32, forward and backward.
 *
 * One head of one sequence at a time: its keys and values stay in the second-level cache while the queries pass.
 * DQK and DV (multiples of 8) are compile-time constants, so that a row is a few vector registers.
 * Shapes: query [N, T, DQK], key [N, S, DQK], value [N, S, DV] with N = batch * heads; index [batch, T, K] int32,
 * padded at the end with -1; weight [N, T, K] holds the attention weights for the backward pass.
 */
#include <math.h>
#include <string.h>

#if defined __GLIBC__ && defined __x86_64__ /* whose vector expf the headers offer under -ffast-math only */
__attribute__((simd("notinbranch"))) float expf(float);
#endif

typedef float vec __attribute__((vector_size(32), aligned(4)));
#define QV (DQK / 8)
#define VV (DV / 8)

static inline float total(vec x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }

static inline long used(const int *index, long k) {
    while (k > 0 && index[k - 1] < 0) k--;
    return k;
}

static void softmax(float *x, long n) {
    float top = x[0], sum = 0;
    for (long j = 1; j < n; j++) top = x[j] > top ? x[j] : top;
    for (long j = 0; j < n; j++) x[j] = expf(x[j] - top);
    for (long j = 0; j < n; j++) sum += x[j];
    const float scale = 1.0f / sum;
    for (long j = 0; j < n; j++) x[j] *= scale;
}

void forward(const float *query, const float *key, const float *value, const int *index, long heads, long T, long S,
             long K, float scale, float *out, float *weight, long begin, long end) {
    for (long n = begin; n < end; n++) {
        const vec *k = (const vec *)(key + n * S * DQK), *v = (const vec *)(value + n * S * DV);
        for (long t = 0; t < T; t++) {
            const int *list = index + ((n / heads) * T + t) * K;
            const long count = used(list, K);
            float *w = weight + (n * T + t) * K;
            vec q[QV], sum[VV];
            memcpy(q, query + (n * T + t) * DQK, sizeof q);
            for (long j = 0; j < count; j++) {
                const vec *row = k + (long)list[j] * QV;
                vec dot = q[0] * row[0];
                for (int i = 1; i < QV; i++) dot += q[i] * row[i];
                w[j] = total(dot) * scale;
            }
            softmax(w, count);
            memset(sum, 0, sizeof sum);
            for (long j = 0; j < count; j++) {
                const vec *row = v + (long)list[j] * VV;
                for (int i = 0; i < VV; i++) sum[i] += w[j] * row[i];
            }
            memcpy(out + (n * T + t) * DV, sum, sizeof sum);
        }
    }
}

/* grad_key and grad_value must be zero on entry. */
void backward(const float *query, const float *key, const float *value, const int *index, long heads, long T, long S,
              long K, float scale, const float *weight, const float *grad_out, float *grad_query, float *grad_key,
              float *grad_value, long begin, long end) {
    float slope[K];
    for (long n = begin; n < end; n++) {
        const vec *k = (const vec *)(key + n * S * DQK), *v = (const vec *)(value + n * S * DV);
        vec *gk = (vec *)(grad_key + n * S * DQK), *gv = (vec *)(grad_value + n * S * DV);
        for (long t = 0; t < T; t++) {
            const int *list = index + ((n / heads) * T + t) * K;
            const long count = used(list, K);
            const float *w = weight + (n * T + t) * K;
            vec q[QV], g[VV], gq[QV];
            float mean = 0;
            memcpy(q, query + (n * T + t) * DQK, sizeof q);
            memcpy(g, grad_out + (n * T + t) * DV, sizeof g);
            memset(gq, 0, sizeof gq);
            for (long j = 0; j < count; j++) {
                const vec *row = v + (long)list[j] * VV;
                vec *grad = gv + (long)list[j] * VV;
                vec dot = g[0] * row[0];
                for (int i = 1; i < VV; i++) dot += g[i] * row[i];
                for (int i = 0; i < VV; i++) grad[i] += w[j] * g[i];
                slope[j] = total(dot);
            }
            for (long j = 0; j < count; j++) mean += w[j] * slope[j];
            for (long j = 0; j < count; j++) slope[j] = w[j] * (slope[j] - mean) * scale;
            for (long j = 0; j < count; j++) {
                const vec *row = k + (long)list[j] * QV;
                vec *grad = gk + (long)list[j] * QV;
                for (int i = 0; i < QV; i++) gq[i] += slope[j] * row[i];
                for (int i = 0; i < QV; i++) grad[i] += slope[j] * q[i];
            }
            memcpy(grad_query + (n * T + t) * DQK, gq, sizeof gq);
        }
    }
}
