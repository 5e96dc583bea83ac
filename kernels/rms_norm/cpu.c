/* Root-mean-square normalisation of rows and its gradients in one pass over each row. */
#include <math.h>

/* y = x * w / sqrt(mean(x^2) + eps); x and y [rows, D], w [D]; scale [rows] keeps 1 / sqrt(...). */
void forward(const float *x, const float *w, long D, float eps, float *y, float *scale, long begin, long end) {
    for (long row = begin; row < end; row++) {
        const float *in = x + row * D;
        float *out = y + row * D, squares = 0;
        for (long i = 0; i < D; i++) squares += in[i] * in[i];
        const float r = 1.0f / sqrtf(squares / D + eps);
        for (long i = 0; i < D; i++) out[i] = in[i] * r * w[i];
        scale[row] = r;
    }
}

/* With g [rows, D] the gradient of y: that of x [rows, D], and that of w [D] of these rows, added to grad_w. */
void backward(const float *x, const float *w, const float *scale, const float *g, long D, float *grad_x, float *grad_w,
              long begin, long end) {
    for (long row = begin; row < end; row++) {
        const float *in = x + row * D, *slope = g + row * D, r = scale[row];
        float *out = grad_x + row * D, along = 0;
        for (long i = 0; i < D; i++) along += slope[i] * w[i] * in[i];
        const float pull = along * r * r / D;
        for (long i = 0; i < D; i++) {
            out[i] = r * (slope[i] * w[i] - pull * in[i]);
            grad_w[i] += slope[i] * in[i] * r;
        }
    }
}
